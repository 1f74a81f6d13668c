"""Coordinates as vectors: the same Fourier features place image tokens, points and boxes in one space."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def grid_centres(side: int, device: torch.device | None = None) -> Tensor:
    """Centres of a ``side`` x ``side`` grid as fractions of the image: [side * side, 2] in (x, y) order."""
    line = (torch.arange(side, device=device, dtype=torch.float32) + 0.5) / side
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack((x.reshape(-1), y.reshape(-1)), dim=-1)


class CoordinateEmbedding(nn.Module):
    """Random Fourier features of normalised coordinates (Tancik et al. 2020, arXiv:2006.10739), as in Segment Anything.

    The frequencies are a buffer: they belong to the checkpoint but are not trained.
    """

    def __init__(self, dim: int, scale: float = 2.0, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("frequencies", torch.randn(2, dim // 2, generator=generator) * scale)

    def forward(self, xy: Tensor) -> Tensor:
        """[..., 2] fractions of the image -> [..., dim]."""
        angle = (2.0 * math.pi) * ((2.0 * xy - 1.0) @ self.frequencies)
        return torch.cat((angle.sin(), angle.cos()), dim=-1)


def mask_geometry(mask: Tensor) -> Tensor:
    """Centroid x, y, square root of the area, extent x, y (two standard deviations) of soft masks, as fractions.

    Args:
        mask: [B, 1, G, G] in [0, 1].

    Returns:
        [B, 5].
    """
    weight = mask.flatten(1)
    total = weight.sum(-1, keepdim=True)
    share = weight / (total + 1e-4)
    xy = grid_centres(mask.shape[-1], mask.device).to(mask)
    centroid = share @ xy
    # E[x^2] - E[x]^2 may dip below zero by rounding.
    spread = (share @ xy.square() - centroid.square()).clamp(min=0.0)
    area = (total / weight.shape[1] + 1e-6).sqrt()
    return torch.cat((centroid, area, 2.0 * (spread + 1e-6).sqrt()), dim=-1)
