"""A whole bundle of six hand-made ONNX graphs: right shapes, real ONNX Runtime, no weights, a few kilobytes each.

Query 0 draws what the reference map covers; it is present, as is query 1; the text is always ``SENTENCE``.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import fakes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mimo_runtime.bundle.manifest import preprocessing, write_manifest
from mimo_runtime.domain.statistics import DOMAIN, DomainStatistics
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.graph_spec import BATCH, GraphSpec, graph_specs

SENTENCE = fakes.DEFAULT
_TYPES = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32}


def write_bundle(
    folder: Path, golden: int = 2, config: MimoConfig = fakes.CONFIG, domain: DomainStatistics | None = None
) -> Path:
    """Write a valid bundle; its golden samples are what it answers itself.

    With ``domain``, an image is described by its brightness, as ``domain_points`` has it.
    """
    tokenizer = fakes.tokenizer()
    (folder / "graphs").mkdir(parents=True)
    graphs = {}
    for name, spec in graph_specs(config).items():
        data = model_bytes(spec, config, shows_brightness=domain is not None)
        (folder / f"graphs/{name}.onnx").write_bytes(data)
        graphs[name] = {
            "engine": "onnxruntime",
            "threads": None,
            "asked": "fp32",
            "delivered": {"int8": 0, "fp16": 0, "fp32": 3},
            "file": f"graphs/{name}.onnx",
            "sha256": hashlib.sha256(data).hexdigest(),
            "bytes": len(data),
            "build": None,
            "contract": spec.to_dict(),
        }
    tokenizer.save(folder / "tokenizer.json")
    (folder / "report.md").write_text("# A fake\n", "utf-8")
    if domain is not None:
        domain.write(folder / DOMAIN)
    manifest = {
        "format": "mimo-bundle",
        "format_version": 3,
        "model": {"id": "fake", "config": config.to_dict(), "parameters": 0, "checkpoint_sha256": "0" * 64},
        "target": "cpu",
        "graphs": graphs,
        "files": {},
        "preprocessing": preprocessing(config),
        "compatibility": {
            "engines": {"onnxruntime": {"built_with": "1.20.0", "min": "1.20", "opset": 20}},
            "arch": None,
            "cpu_features": [],
            "compute_capability": None,
        },
        "tools": {"onnx": onnx.__version__},
        "calibration": None,
        "parity": {},
        "accuracy": None,
        "licence": "Apache-2.0",
    }
    reseal(folder, manifest)
    if golden:
        _add_golden(folder, golden)
        reseal(folder, manifest)
    return folder


def reseal(folder: Path, manifest: dict | None = None) -> None:
    """Write the manifest again with the hashes of the files as they are now."""
    manifest = manifest or json.loads((folder / "manifest.json").read_text("utf-8"))
    for entry in manifest["graphs"].values():
        data = (folder / entry["file"]).read_bytes()
        entry.update(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    listed = {"manifest.json", *(entry["file"] for entry in manifest["graphs"].values())}
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    manifest["files"] = {name: hashlib.sha256(p.read_bytes()).hexdigest() for name, p in files.items() if name not in listed}
    write_manifest(folder, manifest)


def _add_golden(folder: Path, count: int) -> None:
    from mimo_runtime.deploy.verify import write_sample
    from mimo_runtime.pipeline import Mimo
    from mimo_runtime.preprocessing.prompts import Prompt

    rough = np.zeros((60, 100), bool)
    rough[10:30, 20:50] = True
    prompts = [Prompt("polyp", [(20, 10, 70, 40)]), Prompt("", points=[(30, 30), (5, 5, 0)], mask=rough)][:count]
    with Mimo.load(folder) as mimo:
        for k, prompt in enumerate(prompts):
            pixels = fakes.picture(value=200 - k)
            target = folder / f"golden/{k:02d}"
            target.mkdir(parents=True)
            write_sample(target, pixels, prompt, mimo.open(pixels).ask(prompt.text, prompt.boxes, prompt.points, prompt.mask))


def model_bytes(spec: GraphSpec, config: MimoConfig, shows_brightness: bool = False) -> bytes:
    """A graph that takes and gives what the specification says; features of an image are its brightness where wanted."""
    first = spec.inputs[0]
    # A zero per sample of the batch, to be added to constants: this is what keeps the batch axis dynamic.
    nodes = [
        helper.make_node("Cast", [first.name], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["real"], ["flat"], axis=1),
        helper.make_node("ReduceMax", ["flat", "axis"], ["largest"], keepdims=0),
        helper.make_node("Mul", ["largest", "nought"], ["zero"]),
    ]
    constants = {"axis": np.array([1], np.int64), "nought": np.float32(0)}
    for tensor in spec.outputs:
        batch = tensor.shape.index(BATCH)
        constants[f"{tensor.name}_shape"] = np.array([-1 if i == batch else 1 for i in range(len(tensor.shape))], np.int64)
        nodes.append(helper.make_node("Reshape", ["zero", f"{tensor.name}_shape"], [f"{tensor.name}_zero"]))
        value = _value(spec.name, tensor.name, config)
        if shows_brightness and tensor.name == "features_16" and spec.name == "vision_encoder":
            value = _brightness(tensor.shape)
        more_nodes, more_constants, source = value or ([], {}, None)
        nodes, constants = nodes + more_nodes, {**constants, **more_constants}
        if source is None:
            source = f"{tensor.name}_value"
            constants[source] = np.zeros([1 if isinstance(a, str) else a for a in tensor.shape], np.float32)
        into = f"{tensor.name}_new" if tensor.name in ("keys", "values") else tensor.name
        nodes.append(helper.make_node("Add", [source, f"{tensor.name}_zero"], [into]))
        if into != tensor.name:
            nodes.append(helper.make_node("Concat", [f"past_{tensor.name}", into], [tensor.name], axis=3))
    graph = helper.make_graph(
        nodes,
        spec.name,
        [helper.make_tensor_value_info(t.name, _TYPES[t.dtype], t.shape) for t in spec.inputs],
        [helper.make_tensor_value_info(t.name, _TYPES[t.dtype], t.shape) for t in spec.outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _value(graph: str, output: str, config: MimoConfig):
    """Nodes, constants and the result's name where an output is more than zeros; it must broadcast over the batch."""
    queries = config.mask_decoder.queries
    if (graph, output) == ("prompt_encoder", "reference_map"):
        # The mask is drawn into its channel; boxes and points are not.
        pads = np.array([0, 3, 0, 0, 0, 2, 0, 0], np.int64)
        return [helper.make_node("Pad", ["mask", "pads"], ["padded"])], {"pads": pads}, "padded"
    if (graph, output) == ("mask_decoder", "masks"):
        factor = np.array([1, 1, *(config.mask_size / (config.image_size // 4),) * 2], np.float32)
        return (
            [
                helper.make_node("ReduceMax", ["reference_map", "channels"], ["covered"], keepdims=1),
                helper.make_node("Resize", ["covered", "", "factor"], ["grown"], mode="nearest"),
                helper.make_node("Mul", ["grown", "gain"], ["raised"]),
                helper.make_node("Add", ["raised", "offsets"], ["drawn"]),
            ],
            {
                "channels": np.array([1], np.int64),
                "factor": factor,
                "gain": np.float32(6),
                # Query 0 draws a band of its own even without a mask prompt.
                "offsets": _offsets(queries, config.mask_size),
            },
            "drawn",
        )
    if (graph, output) == ("mask_decoder", "presence"):
        return [], {"presences": np.where(np.arange(queries) < 2, 3, -3).astype(np.float32)[None]}, "presences"
    if (graph, output) == ("mask_decoder", "iou"):
        return [], {"ious": np.full((1, queries), 0.75, np.float32)}, "ious"
    if (graph, output) == ("text_decoder", "logits"):
        ids = fakes.tokenizer().encode_answer(SENTENCE)[1:]
        script = np.zeros((config.text_decoder.max_length, 1, config.vocab_size), np.float32)
        script[np.arange(len(ids)), 0, ids] = 5
        return (
            [
                helper.make_node("Flatten", ["position"], ["positions"], axis=0),
                helper.make_node("Squeeze", ["positions", "squeezed"], ["where"]),
                helper.make_node("Gather", ["script", "where"], ["said"], axis=0),
            ],
            {"script": script, "squeezed": np.array([0], np.int64)},
            "said",
        )
    return None


def _brightness(shape):
    nodes = [
        helper.make_node("ReduceMean", ["pixels", "all"], ["brightness"], keepdims=1),
        helper.make_node("Add", ["brightness", "even"], ["shown"]),
    ]
    return nodes, {"all": np.array([1, 2, 3], np.int64), "even": np.zeros((1, *shape[1:]), np.float32)}, "shown"


def _offsets(queries: int, side: int) -> np.ndarray:
    offsets = np.full((1, queries, side, side), -4, np.float32)
    offsets[0, 0, side // 8 : side // 4, side // 4 : side // 2] = 4
    offsets[0, 1, : side // 4] = 4
    return offsets
