"""Promptable segmenters of the SAM family with random weights, from ``transformers``: what an edge device could run instead.

They take the image at the bundle's resolution, so that the input is the same, and one box or point. A request without either is
asked with its centre. They name nothing and write nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image

from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.results.answer import Finding

from ..engine_trace import EngineTrace
from ..request import Request, RequestKind
from .base import Contender, ContenderSetup

if TYPE_CHECKING:
    import torch
    from torch import nn

Output = TypeVar("Output")
#: Features of the encoder: tensors, or for SAM-HQ one of the last and several of the inner layers.
Embeddings = Sequence[object]
_MEAN, _DEVIATION = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


class SegmenterContender(Contender):
    """A model with ``get_image_embeddings`` and ``forward(image_embeddings=, input_points= or input_boxes=)``.

    Args:
        size: of its square input, in pixels.
    """

    def __init__(self, setup: ContenderSetup, model: nn.Module, size: int) -> None:
        import torch

        super().__init__(EngineTrace())
        if setup.threads:
            torch.set_num_threads(setup.threads)
        self._model, self._size = model.eval(), size
        self._known: Embeddings | None = None

    def prepare(self, request: Request, kind: RequestKind) -> None:
        self._known = self._encode(request) if kind.known else None

    def answer(self, request: Request, kind: RequestKind) -> tuple[str, tuple[Finding, ...], dict[str, float]]:
        start = time.perf_counter()
        embeddings = self._known or self._encode(request)
        encoded = time.perf_counter()
        self._decode(request, embeddings)
        return "", (), {"encode": 1000 * (encoded - start), "masks": 1000 * (time.perf_counter() - encoded)}

    def _encode(self, request: Request) -> Embeddings:
        import torch

        image = Image.fromarray(request.pixels).resize((self._size, self._size), Image.Resampling.BILINEAR)
        values = (np.asarray(image, np.float32) / 255 - _MEAN) / _DEVIATION
        tensor = torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)[None]))
        return self._run("vision_encoder", lambda: self._model.get_image_embeddings(tensor))

    def _decode(self, request: Request, embeddings: Embeddings) -> np.ndarray:
        """Bool ``[H, W]`` of the image."""
        import torch

        prompt = _prompt(request, self._size)
        inputs = {**self._features(embeddings), **prompt}
        outputs = self._run("mask_decoder", lambda: self._model(**inputs, multimask_output=False))
        height, width = request.pixels.shape[:2]
        logits = torch.nn.functional.interpolate(outputs.pred_masks[0, :1, :1].float(), (height, width), mode="bilinear")
        mask: np.ndarray = (logits[0, 0] > 0).numpy()
        return mask

    def _features(self, embeddings: Embeddings) -> dict[str, object]:
        """What the decoder takes of the encoder's outputs."""
        return {"image_embeddings": embeddings}

    def _run(self, graph: str, call: Callable[[], Output]) -> Output:
        import torch

        start = time.perf_counter()
        with torch.inference_mode():
            result = call()
        self.trace.runs.append((graph, start, time.perf_counter()))
        return result


def _prompt(request: Request, size: int) -> dict[str, torch.Tensor]:
    """The first box, else the first point, else the centre, in pixels of the model's input."""
    import torch

    height, width = request.pixels.shape[:2]
    scale = np.array([size / width, size / height], np.float32)
    if request.boxes:
        box = np.array(request.boxes[0], np.float32).reshape(2, 2) * scale
        return {"input_boxes": torch.from_numpy(box.reshape(1, 1, 4))}
    point = np.array(request.points[0][:2] if request.points else (width / 2, height / 2), np.float32) * scale
    return {"input_points": torch.from_numpy(point.reshape(1, 1, 1, 2)), "input_labels": torch.ones(1, 1, 1, dtype=torch.long)}


def make_sam2(setup: ContenderSetup) -> Contender:
    """SAM 2 with the Hiera-T encoder (27 million values in the encoder)."""
    import torch
    from transformers import Sam2Config, Sam2Model

    size = _size(setup)
    config = Sam2Config()
    config.vision_config.backbone_config.image_size = [size, size]
    config.vision_config.backbone_feature_sizes = [[size // stride] * 2 for stride in (4, 8, 16)]
    config.prompt_encoder_config.image_size = size
    torch.manual_seed(0)
    return SegmenterContender(setup, Sam2Model(config), size)


def make_edgetam(setup: ContenderSetup) -> Contender:
    """EdgeTAM with the RepViT-M1 encoder."""
    import torch
    from transformers import EdgeTamConfig, EdgeTamModel

    size = _size(setup)
    config = EdgeTamConfig()
    config.vision_config.backbone_feature_sizes = [[size // stride] * 2 for stride in (4, 8, 16)]
    config.prompt_encoder_config.image_size = size
    torch.manual_seed(0)
    return SegmenterContender(setup, EdgeTamModel(config), size)


def make_sam_hq(setup: ContenderSetup) -> Contender:
    """SAM-HQ with a ViT-Ti encoder: width 192, 12 layers, 3 heads."""
    import torch
    from transformers import SamHQConfig, SamHQModel
    from transformers.models.sam_hq.configuration_sam_hq import SamHQVisionConfig

    size = _size(setup)
    vision = SamHQVisionConfig(
        hidden_size=192, num_hidden_layers=12, num_attention_heads=3, image_size=size, mlp_dim=768,
        global_attn_indexes=[2, 5, 8, 11],
    )  # fmt: skip
    prompt = {"image_size": size, "image_embedding_size": size // 16}
    torch.manual_seed(0)
    config = SamHQConfig(vision_config=vision.to_dict(), prompt_encoder_config=prompt, mask_decoder_config={"vit_dim": 192})
    return SamHqContender(setup, SamHQModel(config), size)


class SamHqContender(SegmenterContender):
    """SAM-HQ's decoder also takes features of the encoder's inner layers."""

    def _features(self, embeddings: Embeddings) -> dict[str, object]:
        return {"image_embeddings": embeddings[0], "intermediate_embeddings": embeddings[1]}


def _size(setup: ContenderSetup) -> int:
    """The bundle's resolution, as a multiple of 32 pixels."""
    return max(64, Bundle.open(setup.bundle).config.image_size // 32 * 32)
