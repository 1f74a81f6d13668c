"""The precision that an engine really has, read from what TensorRT's engine inspector says about its layers.

A pure function over text. The JSON differs between releases and between the two compilers inside TensorRT: layers have long
format names ("Row major linear FP16 format"), fused ones short type names ("Half"). Between names stand separators that JSON
forbids (0x1E, 0x1F).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from ..errors import EngineError
from ..utils.untyped import Untyped

#: One layer of the inspector's JSON.
Layer = Mapping[str, Untyped]

#: In LayerType or ParameterType: a layer that does matrix arithmetic.
_MATRIX = ("convolution", "gemm", "matrixmultiply", "matrix_multiply", "fullyconnected", "attention", "mha")
#: Layers that only move data, whatever their names say.
_MOVES = ("reformat", "constant", "noop", "shuffle", "signal", "wait", "shape")
#: In the name of a kernel.
_KERNEL = re.compile(r"gemm|gemv|fprop|dgrad|conv2d|mha", re.IGNORECASE)
#: Names of generated kernels list what they fuse: ``__myl_FcMulAdd_myl0_3``.
_GENERATED = re.compile(r"__my[el]\d*_([A-Za-z0-9]+)")
_FUSED = {"Fc", "Gemm", "Conv", "Mha", "Dot"}
#: ``..._gemm_i8i8_i8i32_f32_...``: the first type in a kernel's name is that of its first operand.
_OPERANDS = re.compile(r"_(i8|s8|u8|bf16|f16|tf32|f32)(?:i8|s8|u8|i32|s32|bf16|f16|tf32|f32)_")
#: ``ampere_h16816gemm_...``, ``ampere_sgemm_...``, ``..._gemm_fp16_...``.
_OLD_KERNEL = re.compile(r"_(h|s)(?:\d+)?gemm|_(int8|fp16|bf16|fp32)(?:_|$)")

_NAMES = {
    "int8": "int8", "i8": "int8", "s8": "int8", "u8": "int8",
    "fp16": "fp16", "half": "fp16", "float16": "fp16", "f16": "fp16",
    "bf16": "bf16", "bfloat16": "bf16",
    "fp32": "fp32", "float": "fp32", "float32": "fp32", "f32": "fp32", "tf32": "fp32",
}  # fmt: skip
_LETTERS = {"h": "fp16", "s": "fp32"}

#: ``delivered`` always has these; ``other`` only if there are such layers (FP8, or an unknown type).
PRECISIONS = ("int8", "fp16", "bf16", "fp32")


def count(text: str, profile: int = 0) -> dict[str, int]:
    """How many matrix layers (convolutions, products, fused attention) of an engine run in each precision.

    Args:
        text: ``EngineInspector.get_engine_information`` with ``LayerInformationFormat.JSON``.
        profile: count the layers of this optimisation profile; each has its own.

    Raises:
        EngineError: it is no such text, or the engine was built without ``ProfilingVerbosity.DETAILED``.
    """
    try:
        layers = json.loads(text, strict=False)["Layers"]  # not strict: control characters stand between names
    except (ValueError, KeyError, TypeError):
        raise EngineError("TensorRT's engine inspector tells nothing that can be read", "Report the TensorRT release") from None
    if not isinstance(layers, list) or any(not isinstance(layer, dict) for layer in layers):
        raise EngineError("the engine holds no details about its layers", "Build it with ProfilingVerbosity.DETAILED")
    counts = dict.fromkeys(PRECISIONS, 0)
    for layer in of_profile(layers, profile):
        if is_matrix(layer):
            precision = precision_of(layer) or "other"
            counts[precision] = counts.get(precision, 0) + 1
    return counts


def of_profile(layers: list[Layer], profile: int) -> list[Layer]:
    """The layers of one profile. Those of the first have plain names, those of profile N end in ``[profile N]``."""
    matches: dict[int, list[Layer]] = {}
    for layer in layers:
        mark = re.search(r"\[profile +(\d+)\]", str(layer.get("Name", "")))
        matches.setdefault(int(mark[1]) if mark else 0, []).append(layer)
    # Asked through the context of one profile, a release may name only that one's layers, without a mark.
    return matches.get(profile) or (matches.get(0, []) if len(matches) == 1 else [])


def is_matrix(layer: Layer) -> bool:
    """Whether a layer does matrix arithmetic: by its type, else by its kernel's name."""
    kinds = [str(layer.get(key, "")).lower() for key in ("LayerType", "ParameterType")]
    if any(kind.startswith(move) for kind in kinds for move in _MOVES):
        return False
    if any(word in kind for kind in kinds for word in _MATRIX):
        return True
    for text in (str(layer.get("TacticName", "")), str(layer.get("Name", ""))):
        if (matches := _GENERATED.match(text)) and _FUSED & set(re.findall(r"[A-Z][a-z0-9]*", matches[1])):
            return True
        if "/" not in text and _KERNEL.search(text):  # a name with a slash is that of an ONNX node
            return True
    return False


def precision_of(layer: Layer) -> str | None:
    """``int8``, ``fp16``, ``bf16`` or ``fp32``; None for others, or if nothing tells.

    The kernel's name says what is multiplied; a layer's own ``Precision`` may be what was asked for and comes last. What a
    kernel reads may still be quantized inside of it.
    """
    kernel = str(layer.get("TacticName", "")).lower()
    if matches := _OPERANDS.search(kernel):
        return _NAMES[matches[1]]
    message = [tensor.get("Format/Datatype") for tensor in layer.get("Inputs", ()) if isinstance(tensor, Mapping)][:1]
    weights = layer.get("Weights")
    message.append(weights.get("Type") if isinstance(weights, Mapping) else None)
    message.append(layer.get("Precision"))
    for text in message:
        if precision := _type_in(str(text or "")):
            return precision
    if matches := _OLD_KERNEL.search(kernel):
        return _LETTERS[matches[1]] if matches[1] else _NAMES[matches[2]]
    outputs = [tensor.get("Format/Datatype") for tensor in layer.get("Outputs", ()) if isinstance(tensor, Mapping)]
    return _type_in(str(outputs[0])) if outputs else None


def _type_in(text: str) -> str | None:
    """The type in ``Half``, ``Row major linear FP16 format``, ``DataType.HALF``; None in ``N/A due to dynamic shapes``."""
    return next((_NAMES[word] for word in re.findall(r"[a-z0-9]+", text.lower()) if word in _NAMES), None)


def check(graph: str, asked: str, in_graph: Mapping[str, int], delivered: Mapping[str, int]) -> None:
    """Compare what came out with what was asked for.

    Args:
        in_graph: matrix operators of the ONNX file by precision. What the file does not hold cannot be missed.

    Raises:
        EngineError: the file holds the asked precision and the engine has none of it.
    """
    if in_graph.get(asked, 0) and not delivered.get(asked, 0):
        has = ", ".join(f"{n} {name}" for name, n in delivered.items() if n) or "no matrix layer"
        message = f"graph {graph} has {in_graph[asked]} {asked} matrix operators, and its engine has none: {has}"
        raise EngineError(message, "Build it in another precision, and report the TensorRT release")
