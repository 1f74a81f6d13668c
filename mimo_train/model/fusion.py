"""Fusion: image, text and references become one memory.

The heart of the model is the **referring-aware cross-attention** between prompt (text and reference tokens) and image.
The references act twice: a bias on the attention logits draws attention towards the referred region, and a learned gate
scales its result. Without any reference the bias is exactly 0 and the gate exactly 1: the model is then an
ordinary text-conditioned one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mimo_runtime.model.config import FusionConfig

from .attention import Attention, FeedForward, attend, merge_heads, mlp, padding_bias, split_heads
from .position import CoordinateEmbedding, grid_centres, mask_geometry


class SelfAttentionBlock(nn.Module):
    """Pre-norm self-attention and feed-forward inside one modality."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.norm_mlp = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim, mlp_ratio)

    def forward(self, x: Tensor, bias: Tensor | None = None, position: Tensor | None = None) -> Tensor:
        y = self.norm_attention(x)
        x = x + self.attention(y, y, bias, position, position)
        return x + self.mlp(self.norm_mlp(x))


class ReferringCrossAttention(nn.Module):
    """Cross-attention with a logit bias towards referred regions, and a gate on its result that the references open."""

    def __init__(self, dim: int, config: FusionConfig) -> None:
        super().__init__()
        self.heads, self.region_bias = config.heads, config.region_bias
        self.norm_x, self.norm_source = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)
        #: Strength of the region bias per reference and head; it starts at +1, towards the region. The name is that of the
        #: parameter in checkpoints.
        self.pull = nn.Linear(dim, config.heads)
        nn.init.zeros_(self.pull.weight)
        nn.init.ones_(self.pull.bias)
        #: No bias term: a zero summary must give tanh(0) = 0.
        self.gate = nn.Linear(dim, dim, bias=False) if config.gate else None
        if self.gate is not None:
            nn.init.zeros_(self.gate.weight)

    def pulls(self, references: Tensor, valid: Tensor) -> Tensor:
        """Region bias per reference and head [B, heads, R]; zero on padding, and everywhere if the bias is switched off."""
        return (self.pull(references) * (valid * float(self.region_bias))[..., None]).transpose(1, 2)

    def forward(
        self,
        x: Tensor,
        source: Tensor,
        bias: Tensor,
        summary: Tensor,
        where: Tensor,
        query_position: Tensor | None = None,
        key_position: Tensor | None = None,
    ) -> Tensor:
        """x [B, N, dim] attends to source [B, M, dim].

        Args:
            bias: added to the logits, broadcastable to [B, heads, N, M].
            summary: [B, dim], mean of the valid reference tokens, zero without references.
            where: [B, N, 1] or 1, how far the gate reaches each query.
        """
        query, source = self.norm_x(x), self.norm_source(source)
        value = self.value(source)
        query = self.query(query if query_position is None else query + query_position)
        key = self.key(source if key_position is None else source + key_position)
        out = self.output(merge_heads(attend(*(split_heads(t, self.heads) for t in (query, key, value)), bias)))
        if self.gate is not None:
            out = out * (1.0 + where * torch.tanh(self.gate(summary))[:, None, :])
        return x + out


class FusionBlock(nn.Module):
    def __init__(self, dim: int, config: FusionConfig) -> None:
        super().__init__()
        self.image = SelfAttentionBlock(dim, config.heads, config.mlp_ratio)
        self.text = SelfAttentionBlock(dim, config.heads, config.mlp_ratio)
        self.references = SelfAttentionBlock(dim, config.heads, config.mlp_ratio)
        self.prompt_to_image = ReferringCrossAttention(dim, config)
        self.image_to_prompt = ReferringCrossAttention(dim, config)

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        references: Tensor,
        text_valid: Tensor,
        valid: Tensor,
        regions: Tensor,
        position: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        length = text.shape[1]
        image = self.image(image, position=position)
        if image.shape[0] != text.shape[0]:  # training: several prompts per image
            image = image.repeat_interleave(text.shape[0] // image.shape[0], dim=0)
        text = self.text(text, padding_bias(text_valid))
        references = self.references(references, padding_bias(valid)) * valid[..., None]
        summary = references.sum(1) / valid.sum(1, keepdim=True).clamp(min=1.0)

        # Prompt to image: the bias moves every prompt token's attention to the image tokens inside the regions.
        pulls = self.prompt_to_image.pulls(references, valid)
        prompt, prompt_valid = torch.cat((text, references), dim=1), torch.cat((text_valid, valid), dim=1)
        prompt = (
            self.prompt_to_image(
                prompt,
                image,
                (pulls @ regions)[:, :, None, :],
                summary,
                torch.ones_like(summary[:, :1, None]),
                key_position=position,
            )
            * prompt_valid[..., None]
        )
        text, references = prompt[:, :length], prompt[:, length:]

        # Image to prompt: the bias moves the attention inside region r to reference token r; the gate opens inside the regions.
        pulls = self.image_to_prompt.pulls(references, valid)
        towards = pulls[:, :, None, :] * regions.transpose(1, 2)[:, None]
        neutral = torch.zeros_like(towards[..., :1]) * text_valid[:, None, None, :]
        image = self.image_to_prompt(
            image,
            prompt,
            torch.cat((neutral, towards), dim=-1) + padding_bias(prompt_valid),
            summary,
            regions.amax(1)[..., None],
            query_position=position,
        )
        return image, text, references


class TargetLocator(nn.Module):
    """The location of the target: a map over the stride-16 tokens, and a token that summarises it.

    The map is supervised with the target's mask. The token holds the features of the map's region and its place, area
    and extent, in the square and relative to the image. The text decoder can then read "upper left" and "small" from one
    token instead of estimating them from a few hundred image tokens. Both are measured twice: on the map itself,
    whose sum is the area, and around its peak. The map of an uncertain small target is low but positive everywhere, so its
    centroid is the middle of the image, wherever the peak is.
    """

    #: Slope of the map around the peak, and the distance below the peak at which it is one half.
    SHARPNESS, BELOW_PEAK = 4.0, 1.0

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score = mlp(dim, dim // 2, 1)
        self.geometry = mlp(23, dim, dim)
        self.pooled = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, extent: Tensor) -> tuple[Tensor, Tensor]:
        """tokens [B, side^2, dim], extent [B, 2] -> token [B, 1, dim], logits [B, 1, side, side]."""
        side = round(tokens.shape[1] ** 0.5)
        logits = self.score(tokens).transpose(1, 2).reshape(-1, 1, side, side)
        inside = torch.sigmoid(logits)
        # A peak above the threshold needs no lowering of it: then the two maps nearly agree.
        level = (logits.amax((-2, -1), keepdim=True) - self.BELOW_PEAK).clamp(max=0.0)
        sharp = torch.sigmoid(self.SHARPNESS * (logits - level))
        numbers = torch.cat((mask_geometry(inside), mask_geometry(sharp)), dim=1)
        width, height = extent[:, 0:1], extent[:, 1:2]
        relative = numbers / torch.cat((width, height, (width * height).sqrt(), width, height), dim=1).repeat(1, 2)
        weights = inside.flatten(2)
        peak = weights.amax(-1)
        pooled = (weights / (weights.sum(-1, keepdim=True) + 1e-4)) @ tokens
        geometry = self.geometry(torch.cat((numbers, relative, extent, peak), dim=1))
        return self.norm(self.pooled(pooled) + geometry[:, None]), logits


class FusionEncoder(nn.Module):
    def __init__(self, config: FusionConfig, dim: int) -> None:
        super().__init__()
        self.coordinates = CoordinateEmbedding(dim, seed=1)
        self.position = nn.Linear(dim, dim)
        self.level = nn.Parameter(torch.randn(2, dim) * 0.02)
        self.blocks = nn.ModuleList(FusionBlock(dim, config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(dim)
        self.locator = TargetLocator(dim)
        #: image, text, references, target
        self.modality = nn.Parameter(torch.randn(4, dim) * 0.02)

    def forward(
        self,
        features_16: Tensor,
        features_32: Tensor,
        text: Tensor,
        text_valid: Tensor,
        references: Tensor,
        valid: Tensor,
        regions: Tensor,
        extent: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Shapes as in ``mimo_runtime.model.graph_spec``; the features may be of fewer images, each with as many prompts.

        Returns:
            fused_16 [B, dim, S / 16, S / 16], memory [B, image + text + references + 1, dim], memory_valid [B, same],
            target logits [B, 1, S / 16, S / 16].
        """
        side = features_16.shape[-1]
        image = torch.cat(
            [f.flatten(2).transpose(1, 2) + self.level[i] for i, f in enumerate((features_16, features_32))], dim=1
        )
        centres = torch.cat((grid_centres(side, image.device), grid_centres(side // 2, image.device)))
        position = self.position(self.coordinates(centres.to(image)))
        for block in self.blocks:
            image, text, references = block(image, text, references, text_valid, valid, regions, position)
        fused = self.norm(image[:, : side * side])
        target, located = self.locator(fused, extent)
        memory_valid = torch.cat((torch.ones_like(image[..., 0]), text_valid, valid, torch.ones_like(extent[:, :1])), dim=1)
        # The decoders name locations, so the memory of the image carries its position.
        parts = [self.norm(image + position), self.norm(text), self.norm(references), target]
        memory = torch.cat([x + self.modality[i] for i, x in enumerate(parts)], dim=1) * memory_valid[..., None]
        return fused.transpose(1, 2).reshape(-1, image.shape[2], side, side), memory, memory_valid, located
