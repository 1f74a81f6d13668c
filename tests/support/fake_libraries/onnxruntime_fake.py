"""ONNX Runtime with its CUDA provider, on the GPU of ``gpu_fakes``."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace

from gpu_fakes import CPU, CUDA, FakeDriver


class FakeOnnxRuntime(ModuleType):
    """The GPU wheel: sessions are real ones on the CPU, whose inputs and outputs lie in the memory of a :class:`FakeDriver`.

    ``lists``: what the wheel says it has. ``gives``: what a session really uses. ``captures``: whether a session with CUDA
    graphs can be made. ``replays``: False gives the first result for ever. ``on_cpu``: operators that are not on the GPU.
    """

    def __init__(self, driver: FakeDriver) -> None:
        import onnxruntime

        super().__init__("onnxruntime")
        self.real, self.driver = onnxruntime, driver
        self.__version__, self.__file__ = "1.31.1", str(Path(__file__).parent / "nowhere" / "__init__.py")
        self.lists, self.gives, self.captures, self.replays = ["TensorrtExecutionProvider", CUDA, CPU], [CUDA, CPU], True, True
        self.on_cpu: list[tuple[str, str]] = []
        self.sessions: list[FakeSession] = []
        self.severities: list[int] = []
        self.SessionOptions, self.RunOptions = onnxruntime.SessionOptions, onnxruntime.RunOptions
        self.OrtValue = onnxruntime.OrtValue

    def get_available_providers(self):
        return self.lists

    def preload_dlls(self):
        print("Failed to load libcublas.so.12: no such file")  # as the real one does, to standard output

    def set_default_logger_severity(self, level):
        self.severities.append(level)

    def InferenceSession(self, data, options, providers, enable_fallback):
        assert enable_fallback == 0
        ((name, settings),) = providers
        assert name == CUDA
        if settings["enable_cuda_graph"] == "1" and not self.captures:
            raise RuntimeError("This session cannot use the graph capture feature\nas requested by the user")
        self.sessions.append(FakeSession(self, data, options, settings))
        return self.sessions[-1]


class FakeSession:
    def __init__(self, module, data, options, settings):
        self.module, self.driver, self.settings, self.options = module, module.driver, settings, options
        self.real = module.real.InferenceSession(data, providers=[CPU])
        self.get_inputs, self.get_outputs = self.real.get_inputs, self.real.get_outputs
        self.captured, self.first, self.runs = None, None, []

    def disable_fallback(self):
        pass

    def get_providers(self):
        return self.module.gives

    def get_provider_graph_assignment_info(self):
        nodes = [SimpleNamespace(op_type=kind, name=name) for kind, name in self.module.on_cpu]
        return [SimpleNamespace(ep_name=CPU, get_nodes=lambda: nodes), SimpleNamespace(ep_name=CUDA, get_nodes=lambda: ["?"])]

    def io_binding(self):
        return FakeBinding()

    def run_with_iobinding(self, binding, options):
        graph = options.get_run_config_entry("gpu_graph_id")
        self.runs.append(graph)
        if graph == "-1":
            self._run(binding)
            return
        assert self.settings["enable_cuda_graph"] == "1"
        if self.captured is None:
            self.captured, self.first = binding, self._run(binding)
        elif self.module.replays:
            self._run(self.captured)  # a replay knows the addresses that it was captured with, whatever is bound now
        else:
            for name, value in self.first.items():
                kind, shape, address = self.captured.outputs[name]
                self.driver.array(address, shape, kind)[...] = value

    def _run(self, binding):
        feed = {name: self.driver.array(address, shape, kind) for name, (kind, shape, address) in binding.inputs.items()}
        names = [o.name for o in self.real.get_outputs()]
        found = dict(zip(names, self.real.run(names, feed)))
        for name, (kind, shape, address) in binding.outputs.items():
            assert found[name].shape == tuple(shape) and found[name].dtype == kind
            self.driver.array(address, shape, kind)[...] = found[name]
        return found


class FakeBinding:
    def __init__(self):
        self.inputs, self.outputs = {}, {}

    def bind_input(self, name, device, index, kind, shape, address):
        assert (device, index) == ("cuda", 0) and address
        self.inputs[name] = kind, shape, address

    def bind_output(self, name, device, index, kind, shape, address):
        assert (device, index) == ("cuda", 0) and address
        self.outputs[name] = kind, shape, address
