"""All contenders by name, with what each one needs."""

from __future__ import annotations

from .base import ContenderSpec
from .files import make_openvino, make_openvino_default, make_optimum, make_ort
from .pipelines import make_compiled, make_mimo, make_torch, make_torch_bf16
from .segmenters import make_edgetam, make_sam2, make_sam_hq
from .text_models import GenaiContender, TransformersContender

_TRAINING = ("torch", "transformers", "safetensors")
_MASKS, _TEXT = ("mask_only", "second_ask_mask_only"), ("text_only",)
_EQUAL = "a Llama as large as the text decoder, random weights, without an image"
_RANDOM = "random weights, at the bundle's resolution, one box or point"


def _segmenter(make: object, what: str, *more: str) -> ContenderSpec:
    return ContenderSpec(
        make, ("torch", "transformers", *more), "contenders", distributions=("torch", "transformers"), kinds=_MASKS,
        same_model=False, description=f"{what} from transformers: {_RANDOM}",
    )  # type: ignore[arg-type]  # fmt: skip


CONTENDERS: dict[str, ContenderSpec] = {
    "mimo": ContenderSpec(make_mimo),
    "torch": ContenderSpec(make_torch, _TRAINING, "train", needs_checkpoint=True, distributions=("torch",)),
    "torch-bf16": ContenderSpec(
        make_torch_bf16, _TRAINING, "train", needs_checkpoint=True, distributions=("torch",),
        description="PyTorch eager under autocast to BF16",
    ),
    "compile": ContenderSpec(make_compiled, _TRAINING, "train", needs_checkpoint=True, distributions=("torch",)),
    "ort": ContenderSpec(
        make_ort, ("onnxruntime",), "cpu", needs_onnx=True, distributions=("onnxruntime", "onnxruntime-gpu")
    ),
    "optimum": ContenderSpec(
        make_optimum, ("optimum.onnxruntime",), "optimum", needs_onnx=True, distributions=("optimum-onnx", "onnxruntime")
    ),
    "openvino": ContenderSpec(
        make_openvino, ("openvino",), "openvino", needs_onnx=True, distributions=("openvino",),
        description="OpenVINO with the latency hint in FP32, static shapes",
    ),
    "openvino-default": ContenderSpec(
        make_openvino_default, ("openvino",), "openvino", needs_onnx=True, distributions=("openvino",),
        description="OpenVINO without any option (in BF16 where the processor has it)",
    ),
    "transformers": ContenderSpec(
        TransformersContender, ("torch", "transformers"), "train", needs_onnx=True, distributions=("transformers", "torch"),
        kinds=_TEXT, same_model=False, description=f"transformers' generate in FP32: {_EQUAL}",
    ),
    "genai": ContenderSpec(
        GenaiContender, ("onnxruntime_genai", "transformers", "onnx_ir"), "contenders", needs_onnx=True,
        distributions=("onnxruntime-genai",), kinds=_TEXT, same_model=False,
        description=f"ONNX Runtime GenAI in FP32: {_EQUAL}",
    ),
    "sam2": _segmenter(make_sam2, "SAM 2 Hiera-T"),
    "edgetam": _segmenter(make_edgetam, "EdgeTAM RepViT-M1", "timm", "torchvision"),
    "sam-hq": _segmenter(make_sam_hq, "SAM-HQ ViT-Ti"),
}  # fmt: skip
