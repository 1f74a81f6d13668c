"""The whole model, as the composition of its parts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mimo_runtime.model.config import MimoConfig

from .fusion import FusionEncoder
from .mask_decoder import MaskDecoder
from .prompt_encoder import PromptEncoder
from .text_decoder import TextDecoder
from .text_encoder import TextEncoder
from .vision_encoder import VisionEncoder


@dataclass
class PromptBatch:
    """A batch of prompts, ``N`` of them; fields as the inputs of the graphs in ``mimo_runtime.model.graph_spec``."""

    token_ids: Tensor
    boxes: Tensor
    box_labels: Tensor
    points: Tensor
    point_labels: Tensor
    mask: Tensor
    mask_label: Tensor
    extent: Tensor

    def references(self) -> tuple[Tensor, ...]:
        return self.boxes, self.box_labels, self.points, self.point_labels, self.mask, self.mask_label


@dataclass
class Grounding:
    """The outputs of fusion for the two decoders, and the embeddings of the contrastive loss."""

    pyramid: tuple[Tensor, ...]
    text: Tensor
    text_valid: Tensor
    references: Tensor
    reference_valid: Tensor
    reference_map: Tensor
    fused_16: Tensor
    memory: Tensor
    memory_valid: Tensor
    #: [N, 1, S / 16, S / 16] logits: the location of the target, by fusion.
    target: Tensor


def _repeat(features: Tensor, times: int) -> Tensor:
    """Each image ``times`` times, channels last in memory as the encoder made them."""
    return features.permute(0, 2, 3, 1).repeat_interleave(times, dim=0).permute(0, 3, 1, 2)


class Mimo(nn.Module):
    """Image, text query and visual references in; masks and a grounded answer out."""

    def __init__(self, config: MimoConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.vision_encoder = VisionEncoder(config.vision)
        self.text_encoder = TextEncoder(config.text, config.vocab_size, dim)
        self.prompt_encoder = PromptEncoder(dim)
        self.fusion = FusionEncoder(config.fusion, dim)
        self.mask_decoder = MaskDecoder(config.mask_decoder, config.vision.neck, dim, config.fusion.gate)
        self.text_decoder = TextDecoder(config.text_decoder, config.vocab_size, dim)
        #: Projections of image region, text and reference into one space, for InfoNCE only; not exported.
        self.contrast = nn.ModuleDict({name: nn.Linear(dim, 64) for name in ("image", "text", "reference")})
        self.contrast_scale = nn.Parameter(torch.tensor([2.66]))  # ln(1 / 0.07), as in CLIP; FSDP takes no scalars

    def ground(self, pixels: Tensor, prompts: PromptBatch) -> Grounding:
        """pixels [B, 3, S, S] in [0, 1]; prompts: N = B * k, k per image, in image order."""
        return self.ground_features(self.vision_encoder(pixels), prompts)

    def ground_features(self, pyramid: tuple[Tensor, ...], prompts: PromptBatch) -> Grounding:
        """As :meth:`ground`, from the features of B images."""
        repeat = prompts.token_ids.shape[0] // pyramid[0].shape[0]
        coarse = pyramid[2], pyramid[3]
        if repeat > 1:
            pyramid = tuple(_repeat(f, repeat) for f in pyramid)
        text, text_valid = self.text_encoder(prompts.token_ids)
        references, valid, regions, reference_map = self.prompt_encoder(*prompts.references(), pyramid[2])
        # Fusion gets the features once per image: its layers before the prompt are not repeated.
        fused, memory, memory_valid, target = self.fusion(*coarse, text, text_valid, references, valid, regions, prompts.extent)
        return Grounding(pyramid, text, text_valid, references, valid, reference_map, fused, memory, memory_valid, target)

    def decode_masks(self, g: Grounding, select: Tensor | None = None) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
        return self.mask_decoder(g.pyramid[0], g.pyramid[1], g.fused_16, g.memory, g.memory_valid, g.reference_map, select)
