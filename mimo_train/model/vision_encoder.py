"""Hierarchical Swin transformer and the feature pyramid that the other parts read.

Liu et al. 2021, arXiv:2103.14030. The block computes what Hugging Face's ``SwinModel`` computes (padding, shift and mask
included), so that its weights load; see ``hf.py``. Two additions, both optional: a convolutional stem and a depthwise
convolution for position, with which the encoder learns from few images.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimo_runtime.model.config import VisionConfig

from .attention import FeedForward, attend

#: ImageNet statistics of RGB in [0, 1], as in the training of the published Swin weights.
PIXEL_MEAN, PIXEL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def relative_position_index(window: int) -> Tensor:
    """[window^2, window^2] indices into a table of (2 * window - 1)^2 relative positions."""
    line = torch.arange(window)
    coords = torch.stack(torch.meshgrid(line, line, indexing="ij")).flatten(1)
    relative = (coords[:, :, None] - coords[:, None, :]).permute(1, 2, 0) + window - 1
    return relative[..., 0] * (2 * window - 1) + relative[..., 1]


@lru_cache(maxsize=64)
def shift_mask(height: int, width: int, window: int, shift: int) -> np.ndarray:
    """Bias [windows, 1, window^2, window^2] that keeps rolled-in pixels apart from their new neighbours.

    An array, not a tensor: during export a tensor would be symbolic, and the cache would keep it.
    """
    regions = np.zeros((height, width), np.float32)
    cuts = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    for i, rows in enumerate(cuts):
        for j, columns in enumerate(cuts):
            regions[rows, columns] = 3 * i + j
    flat = regions.reshape(height // window, window, width // window, window).transpose(0, 2, 1, 3).reshape(-1, window * window)
    return np.where(flat[:, None, :] != flat[:, :, None], np.float32(-100.0), np.float32(0.0))[:, None]


class WindowAttention(nn.Module):
    """Self-attention inside a window, with a learned bias per relative position."""

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)
        self.position_bias = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("index", relative_position_index(window).reshape(-1), persistent=False)
        nn.init.trunc_normal_(self.position_bias, std=0.02)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x [B * windows, N, C], mask [windows, 1, N, N] -> [B * windows, N, C]."""
        n, c = x.shape[1], x.shape[2]
        qkv = self.qkv(x).reshape(-1, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        bias = self.position_bias[self.index].reshape(n, n, self.heads).permute(2, 0, 1)[None]
        if mask is None:
            out = attend(qkv[0], qkv[1], qkv[2], bias)
        else:
            # One more axis for the windows: the mask differs between them, not between images.
            q, k, v = (t.reshape(-1, mask.shape[0], self.heads, n, c // self.heads) for t in (qkv[0], qkv[1], qkv[2]))
            out = attend(q, k, v, (bias + mask)[None]).reshape(-1, self.heads, n, c // self.heads)
        return self.output(out.transpose(1, 2).reshape(-1, n, c))


class SwinBlock(nn.Module):
    def __init__(self, dim: int, heads: int, window: int, shifted: bool, mlp_ratio: float, conv_position: bool) -> None:
        super().__init__()
        self.window, self.shifted = window, shifted
        self.position = nn.Conv2d(dim, dim, 3, padding=1, groups=dim) if conv_position else None
        self.norm_before = nn.LayerNorm(dim, eps=1e-5)
        self.attention = WindowAttention(dim, heads, window)
        self.norm_after = nn.LayerNorm(dim, eps=1e-5)
        self.mlp = FeedForward(dim, mlp_ratio)

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H, W, C].

        Norms, sums and linears see tokens [B, H * W, C]. Engines take the second of four axes for channels, and would
        transpose a map with channels last before and after every one of them.
        """
        height, width, channels = x.shape[1], x.shape[2], x.shape[3]
        tokens = x.reshape(-1, height * width, channels)
        if self.position is not None:
            mixed = self.position(x.permute(0, 3, 1, 2))
            tokens = tokens + mixed.permute(0, 2, 3, 1).reshape(-1, height * width, channels)
        tokens = tokens + self._attend(self.norm_before(tokens), height, width)
        return (tokens + self.mlp(self.norm_after(tokens))).reshape(-1, height, width, channels)

    def _attend(self, tokens: Tensor, height: int, width: int) -> Tensor:
        channels, w = tokens.shape[2], self.window
        x = tokens.reshape(-1, height, width, channels)
        # A feature map no larger than the window is one window: nothing to shift.
        shift = w // 2 if self.shifted and min(height, width) > w else 0
        pad_h, pad_w = -height % w, -width % w
        if pad_h or pad_w:
            x = F.pad(x, (0, 0, 0, pad_w, 0, pad_h))
        full_h, full_w = height + pad_h, width + pad_w
        if shift:
            x = torch.roll(x, (-shift, -shift), (1, 2))
        x = x.reshape(-1, full_h // w, w, full_w // w, w, channels).transpose(2, 3).reshape(-1, w * w, channels)
        x = self.attention(x, torch.from_numpy(shift_mask(full_h, full_w, w, shift)).to(x) if shift else None)
        x = x.reshape(-1, full_h // w, full_w // w, w, w, channels).transpose(2, 3).reshape(-1, full_h, full_w, channels)
        if shift:
            x = torch.roll(x, (shift, shift), (1, 2))
        if pad_h or pad_w:
            x = x[:, :height, :width]
        return x.reshape(-1, height * width, channels)


class PatchMerging(nn.Module):
    """Halves the resolution: four neighbours become one token of twice the width."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim, eps=1e-5)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        parts = (x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2])
        tokens = torch.cat(parts, dim=-1)
        height, width, channels = tokens.shape[1], tokens.shape[2], tokens.shape[3]
        merged = self.reduction(self.norm(tokens.reshape(-1, height * width, channels)))
        return merged.reshape(-1, height, width, channels // 2)


class SwinTransformer(nn.Module):
    """Pixels to four feature maps of strides 4, 8, 16, 32."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        if config.stem == "conv":
            self.stem: nn.Module = nn.Sequential(
                nn.Conv2d(3, dim // 2, 3, stride=2, padding=1), nn.GELU(), nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1)
            )
        else:
            self.stem = nn.Conv2d(3, dim, 4, stride=4)
        self.norm = nn.LayerNorm(dim, eps=1e-5)
        self.stages, self.merges = nn.ModuleList(), nn.ModuleList()
        for i, (depth, heads) in enumerate(zip(config.depths, config.heads)):
            if i:
                self.merges.append(PatchMerging(dim * 2 ** (i - 1)))
            self.stages.append(
                nn.Sequential(
                    *(
                        SwinBlock(dim * 2**i, heads, config.window, j % 2 == 1, config.mlp_ratio, config.conv_position)
                        for j in range(depth)
                    )
                )
            )

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """[B, 3, S, S] normalised -> four maps [B, S / stride, S / stride, C * 2^stage], channels last."""
        x = self.stem(pixels)
        channels, height, width = x.shape[1], x.shape[2], x.shape[3]
        x = self.norm(x.permute(0, 2, 3, 1).reshape(-1, height * width, channels)).reshape(-1, height, width, channels)
        maps = []
        for i, stage in enumerate(self.stages):
            if i:
                x = self.merges[i - 1](x)
            x = stage(x)
            maps.append(x)
        return maps


class VisionEncoder(nn.Module):
    """Swin, then a feature pyramid (Lin et al. 2017, arXiv:1612.03144): everything that depends on the image only."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.backbone = SwinTransformer(config)
        widths = [config.embed_dim * 2**i for i in range(4)]
        self.norms = nn.ModuleList(nn.LayerNorm(w, eps=1e-5) for w in widths)
        self.laterals = nn.ModuleList(nn.Linear(w, n) for w, n in zip(widths, config.neck))
        self.top_down = nn.ModuleList(nn.Conv2d(config.neck[i + 1], config.neck[i], 1) for i in range(3))
        self.smooth = nn.ModuleList(nn.Conv2d(n, n, 3, padding=1) for n in config.neck[:3])
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(PIXEL_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """RGB [B, 3, S, S] in [0, 1] -> pyramid of strides 4, 8, 16, 32, each [B, neck[i], S / stride, S / stride]."""
        maps = self.backbone((pixels - self.mean) / self.std)
        levels = [self._lateral(i, m) for i, m in enumerate(maps)]
        for i in (2, 1, 0):
            levels[i] = levels[i] + F.interpolate(self.top_down[i](levels[i + 1]), scale_factor=2.0, mode="nearest")
        fine = [smooth(F.gelu(level)) for smooth, level in zip(self.smooth, levels)]
        return fine[0], fine[1], fine[2], levels[3]

    def _lateral(self, level: int, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, neck, H, W]."""
        height, width, channels = x.shape[1], x.shape[2], x.shape[3]
        tokens = self.laterals[level](self.norms[level](x.reshape(-1, height * width, channels)))
        return tokens.transpose(1, 2).reshape(-1, tokens.shape[2], height, width)
