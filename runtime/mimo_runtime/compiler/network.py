"""From ONNX bytes to a plan, in the API that TensorRT and TensorRT for RTX share. ``trt`` is the module of either."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType

from ..engines.tensorrt import Log
from ..errors import EngineError, RequestError
from ..model.graph_spec import BATCH, PAST, PAST_PLUS_ONE, GraphSpec, Tensor
from ..utils.untyped import Untyped

#: Smallest, typical and largest size of a dynamic axis.
Range = tuple[int, int, int]
#: The range of each dynamic axis in one optimisation profile.
Profile = Mapping[str, Range]


def profiles(spec: GraphSpec, axes: Profile, split_past: bool = True) -> list[dict[str, Range]]:
    """The optimisation profiles of a graph.

    The text decoder gets two, if ``past`` begins at 0: one for the first token, whose cache is empty, and one for every other.
    Kernels are chosen for the typical size of a profile and must take every size in it; without the 0 they need no special
    case. An empty dimension is a legal minimum in every release (``0 <= min``, says ``set_shape``), so no token has to be made
    up for it: the graph has no mask that could hide one.

    Args:
        axes: for each dynamic axis of the specification's inputs; more are ignored.
        split_past: False makes one profile of it, which builds in half the time.

    Raises:
        RequestError: a range is missing or is none.
    """
    wanted = {axis for tensor in spec.inputs for axis in tensor.shape if isinstance(axis, str)} - {PAST_PLUS_ONE}
    ranges: dict[str, Range] = {}
    for axis in sorted(wanted):
        if axis not in axes:
            raise RequestError(f"axis {axis} of graph {spec.name} has no range", "Give smallest, typical and largest size")
        low, typical, high = axes[axis]
        if not (1 if axis == BATCH else 0) <= low <= typical <= high:
            message = f"{low}, {typical}, {high} is no range for axis {axis} of graph {spec.name}"
            raise RequestError(message, "Give smallest, typical and largest size, in this order")
        ranges[axis] = (low, typical, high)
    low, typical, high = ranges.get(PAST, (1, 1, 1))
    if not split_past or low > 0 or high == 0:
        return [ranges]
    return [{**ranges, PAST: (0, 0, 0)}, {**ranges, PAST: (1, max(1, typical), high)}]


def parse(trt: ModuleType, builder: Untyped, data: bytes, spec: GraphSpec, log: Log, label: str) -> tuple[Untyped, Untyped]:
    """``(network, parser)``. Keep the parser until the plan is made: it owns the weights.

    Args:
        label: how messages call the compiler.

    Raises:
        EngineError: the parser refused; the message is its own and names the node.
    """
    # Strongly typed: every tensor has the type that the graph gives it. TensorRT 11 knows nothing else and ignores the flag.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log.logger)
    if not parser.parse(data):
        errors = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise EngineError(f"{label} does not parse graph {spec.name}: {_line(errors or log.last_error)}")
    return network, parser


def allow_primitives(trt: ModuleType, network: Untyped) -> None:
    """Let the compiler take several kernels for an attention where it has none that does all of it.

    Without this it refuses the graph: TensorRT-RTX 1.7 has such kernels for four heads or more, of a size that is a multiple
    of 8. Where it has one, it takes it all the same.
    """
    for layer in map(network.get_layer, range(network.num_layers)):
        if layer.type.name == "ATTENTION_INPUT":
            layer.__class__ = trt.IAttentionInputLayer  # the bindings give the base class
            layer.attention.decomposable = True


def add_profiles(builder: Untyped, config: Untyped, spec: GraphSpec, wanted: Sequence[Profile], label: str) -> None:
    """Tell the compiler the sizes of every input. Those that share an axis get the same range: else they are inconsistent.

    Raises:
        EngineError: a profile was refused.
    """
    for index, axes in enumerate(wanted):
        profile = builder.create_optimization_profile()
        try:
            for tensor in spec.inputs:
                profile.set_shape(tensor.name, *(_sizes(tensor, axes, i) for i in range(3)))
            taken = config.add_optimization_profile(profile)
        except (ValueError, RuntimeError) as error:
            raise _refused(label, spec, index, axes, _line(str(error))) from None
        if taken != index:
            raise _refused(label, spec, index, axes, "")


def serialize(builder: Untyped, network: Untyped, config: Untyped, spec: GraphSpec, log: Log, label: str) -> bytes:
    """Compile.

    Raises:
        EngineError: the compiler refused.
    """
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"{label} does not compile graph {spec.name}: {log.last_error or 'no reason given'}")
    return bytes(plan)


def _sizes(tensor: Tensor, axes: Profile, which: int) -> tuple[int, ...]:
    return tensor.concrete(**{axis: sizes[which] for axis, sizes in axes.items()})


def _refused(label: str, spec: GraphSpec, index: int, axes: Profile, reason: str) -> EngineError:
    message = ", ".join(f"{axis} {low} to {high}" for axis, (low, _, high) in axes.items())
    return EngineError(f"{label} does not compile graph {spec.name}: it refuses profile {index} ({message}) {reason}".rstrip())


def _line(text: str) -> str:
    return " ".join(text.split())[:600] or "no reason given"
