"""The configuration of the models, in the text format that Triton reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from mimo_runtime.bundle.schema import GraphEntry
from mimo_runtime.model.graph_spec import BATCH, Tensor

#: Name of the model that answers questions.
MODEL = "mimo"
#: The folder of the bundle, or its file, in the version folder.
BUNDLE_FOLDER, BUNDLE_FILE = "bundle", "bundle.mimo"
#: Backend and file of a graph by the engine of its bundle. An engine that is not here has no backend.
GRAPH_BACKENDS = {"onnxruntime-cuda": ("onnxruntime", "model.onnx"), "tensorrt": ("tensorrt", "model.plan")}
#: Tensors that the model takes: bytes of a file, and JSON.
INPUTS = ("image", "request")
_TYPES = {"float32": "TYPE_FP32", "float16": "TYPE_FP16", "int32": "TYPE_INT32", "int64": "TYPE_INT64"}


@dataclass(frozen=True)
class ServingOptions:
    """How a repository serves.

    Args:
        instances: copies of the model, each with engines of its own.
        max_batch: requests that Triton puts together at most.
        queue_delay_us: microseconds that Triton waits for more of them.
        callers: images of a batch that one instance answers at once.
        threads: of an engine; None is one per physical core.
        python_env: path, on the server, of a virtual environment with mimo_runtime; "" is the Python of the server.
    """

    instances: int = 1
    max_batch: int = 8
    queue_delay_us: int = 0
    callers: int = 1
    threads: int | None = None
    python_env: str = ""


def model_config(options: ServingOptions, bundle: str, *, gpu: bool) -> str:
    """The configuration of the model that answers questions.

    Args:
        bundle: its name in the version folder.
        gpu: whether its engines run on a GPU.
    """
    parameters = {"bundle": bundle, "callers": str(options.callers)}
    if options.threads is not None:
        parameters["threads"] = str(options.threads)
    if options.python_env:
        parameters["EXECUTION_ENV_PATH"] = options.python_env
    warmup = "\n".join(
        f'  inputs {{ key: "{name}" value {{ data_type: TYPE_STRING dims: [ 1 ] input_data_file: "{name}" }} }}'
        for name in INPUTS
    )
    return "\n".join([
        f'name: "{MODEL}"', 'backend: "python"', f"max_batch_size: {options.max_batch}",
        f"input [ {', '.join(map(_string_tensor, INPUTS))} ]", f"output [ {_string_tensor('answer')} ]",
        _instances(options, gpu), _batching(options),
        f'model_warmup [ {{\n  name: "one box"\n  batch_size: 1\n{warmup}\n}} ]',
        *(f"parameters {{ key: {_text(key)} value {{ string_value: {_text(value)} }} }}" for key, value in parameters.items()),
    ]) + "\n"  # fmt: skip


def graph_config(name: str, entry: GraphEntry, options: ServingOptions) -> str:
    """The configuration of one graph for a backend of a GPU.

    A graph whose tensors all begin with the batch is batched by Triton. In the others, e.g. with a KV cache, the batch is an
    axis like the others.
    """
    tensors = (*entry.spec.inputs, *entry.spec.outputs)
    is_batched = entry.is_onnx and all(tensor.shape[0] == BATCH for tensor in tensors)
    backend, _ = GRAPH_BACKENDS[entry.engine]
    return "\n".join([
        f"name: {_text(name)}", f'backend: "{backend}"', f"max_batch_size: {options.max_batch if is_batched else 0}",
        f"input [ {_tensors(entry.spec.inputs, is_batched)} ]", f"output [ {_tensors(entry.spec.outputs, is_batched)} ]",
        _instances(options, gpu=True), *([_batching(options)] if is_batched else []),
    ]) + "\n"  # fmt: skip


def _string_tensor(name: str) -> str:
    return f'{{ name: "{name}" data_type: TYPE_STRING dims: [ 1 ] }}'


def _tensors(tensors: Sequence[Tensor], is_batched: bool) -> str:
    return ", ".join(
        f"{{ name: {_text(t.name)} data_type: {_TYPES[t.dtype]} dims: [ {_dims(t, is_batched)} ] }}" for t in tensors
    )


def _dims(tensor: Tensor, is_batched: bool) -> str:
    axes = tensor.shape[1:] if is_batched else tensor.shape
    return ", ".join("-1" if isinstance(axis, str) else str(axis) for axis in axes)


def _instances(options: ServingOptions, gpu: bool) -> str:
    return f"instance_group [ {{ count: {options.instances} kind: {'KIND_GPU' if gpu else 'KIND_CPU'} }} ]"


def _batching(options: ServingOptions) -> str:
    return f"dynamic_batching {{ max_queue_delay_microseconds: {options.queue_delay_us} }}"


def _text(value: str) -> str:
    """A string of the text format: that of JSON, in ASCII."""
    return json.dumps(value)
