"""Mask decoder: a cascade from coarse to fine with masked attention (after Mask2Former, Cheng et al. 2022, arXiv:2112.01527).

Learnable queries read the unified memory, then the features of strides 16, 8 and 4. At each level they attend where the
previous level drew their mask, and draw a better one. The mask is applied softly (log-probability as a bias), not as a
threshold: no query can lose all its keys, gradients pass, and a small numeric change upstream stays small downstream.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimo_runtime.model.config import MaskDecoderConfig
from mimo_runtime.model.graph_spec import REFERENCE_MAP_CHANNELS

from .attention import Attention, FeedForward, mlp, padding_bias
from .position import CoordinateEmbedding, grid_centres

#: Floor of the attention bias: a query attends outside its mask with weight e^-6.
MASK_BIAS_FLOOR = -6.0


class QueryBlock(nn.Module):
    """Cross-attention to a source and feed-forward; pre-norm.

    There is no attention between queries. Each has a fixed meaning (the target, or one entity), so they do not have to divide
    the objects among themselves. Training computes only the queries that it compares with the truth.
    """

    def __init__(self, dim: int, source_dim: int, inner: int, heads: int, config: MaskDecoderConfig) -> None:
        super().__init__()
        self.norm_cross, self.norm_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.norm_source = nn.LayerNorm(source_dim)
        self.cross = Attention(dim, heads, source_dim, inner)
        self.mlp = FeedForward(dim, config.mlp_ratio)

    def forward(
        self, queries: Tensor, source: Tensor, bias: Tensor, query_position: Tensor, key_position: Tensor | None
    ) -> Tensor:
        x = queries + self.cross(self.norm_cross(queries), self.norm_source(source), bias, key_position, query_position)
        return x + self.mlp(self.norm_mlp(x))


class PixelLevel(nn.Module):
    """Features of one level: the image's own and what came from the coarser level, gated by the reference map.

    Args:
        finest: most of the pixels are here, so it is narrow: one block, and references only add to the pixels, since those
            of the coarser levels have passed the gate.
        referred: False leaves the references out. gate: False lets them add to the pixels only.
    """

    def __init__(self, channels: int, coarser: int, finest: bool, referred: bool, gate: bool) -> None:
        super().__init__()
        self.top_down = nn.Conv2d(coarser, channels, 1)
        #: No bias: without references both are exactly zero, and the pixels pass as they are.
        gate = gate and referred and not finest
        self.references = nn.Conv2d(REFERENCE_MAP_CHANNELS, channels, 3, padding=1, bias=False) if referred else None
        self.gate = nn.Conv2d(REFERENCE_MAP_CHANNELS, channels, 3, padding=1, bias=False) if gate else None
        if self.gate is not None:
            nn.init.zeros_(self.gate.weight)
        blocks, ratio = (1, 1.0) if finest else (2, 2.0)
        self.depthwise = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1, groups=channels) for _ in range(blocks))
        self.pointwise = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(channels), FeedForward(channels, ratio)) for _ in range(blocks)
        )

    def forward(self, own: Tensor, coarser: Tensor, reference_map: Tensor) -> Tensor:
        """[B, C, H, W], [B, coarser, H / k, W / k], [B, 6, 4 H.., ..] -> [B, C, H, W]."""
        x = self.top_down(coarser)
        ratio = own.shape[-1] // x.shape[-1]
        if ratio > 1:
            x = F.interpolate(x, scale_factor=float(ratio), mode="bilinear", align_corners=False)
        x = own + x
        if self.references is not None:
            cell = reference_map.shape[-1] // own.shape[-1]
            referred = F.avg_pool2d(reference_map, cell) if cell > 1 else reference_map
            if self.gate is not None:
                x = x * (1.0 + torch.tanh(self.gate(referred)))
            x = x + self.references(referred)
        for depthwise, pointwise in zip(self.depthwise, self.pointwise):
            # Tokens of three axes, as in the vision encoder: engines rearrange four axes with the channels last.
            height, width, channels = x.shape[2], x.shape[3], x.shape[1]
            tokens = pointwise(depthwise(x).permute(0, 2, 3, 1).reshape(-1, height * width, channels))
            x = x + tokens.reshape(-1, height, width, channels).permute(0, 3, 1, 2)
        return x


class SubPixels(nn.Conv2d):
    """From the features of a pixel to ``parts`` features of each of its ``ratio`` squared sub-pixels."""

    def __init__(self, channels: int, parts: int, ratio: int) -> None:
        super().__init__(channels, parts * ratio**2, 1)
        self.parts = parts

    def kernel(self, embedding: Tensor) -> Tensor:
        """The same weights from the other side: [..., parts] -> [..., ratio^2 * channels]."""
        return embedding @ self.weight.reshape(self.parts, -1)


class MaskDecoder(nn.Module):
    def __init__(self, config: MaskDecoderConfig, neck: tuple[int, ...], dim: int, gate: bool = True) -> None:
        super().__init__()
        self.config = config
        #: Channels per level, coarse to fine.
        self.channels = (dim, neck[1], neck[0])[: config.levels]
        self.queries = nn.Parameter(torch.randn(config.queries, dim) * 0.02)
        self.query_position = nn.Parameter(torch.randn(config.queries, dim) * 0.02)
        self.coordinates = CoordinateEmbedding(dim, seed=2)
        self.read_memory = QueryBlock(dim, dim, dim, config.heads, config)
        self.pixels, self.blocks, self.positions, self.embeddings = (nn.ModuleList() for _ in range(4))
        coarser, fine = dim, max(16, self.channels[-1] // 2)
        for level, channels in enumerate(self.channels):
            # About the same head width at every level keeps the matrix products square.
            heads = max(1, round(config.heads * channels / dim))
            heads = next(h for h in range(heads, 0, -1) if channels % h == 0)
            self.pixels.append(PixelLevel(channels, coarser, level == 2, config.reference_map, gate))
            self.blocks.append(QueryBlock(dim, channels, channels, heads, config))
            self.positions.append(nn.Linear(dim, channels))
            self.embeddings.append(mlp(dim, dim, fine if level == config.levels - 1 else channels))
            coarser = channels
        #: From the finest pixels to ``fine`` features of each of their sub-pixels; see :meth:`_draw_fine`.
        self.fine = SubPixels(self.channels[-1], fine, config.upsample)
        self.norm = nn.LayerNorm(dim)
        self.box, self.presence, self.iou = mlp(dim, dim, 4), mlp(dim, dim, 1), mlp(dim, dim, 1)

    def forward(
        self,
        features_4: Tensor,
        features_8: Tensor,
        fused_16: Tensor,
        memory: Tensor,
        memory_valid: Tensor,
        reference_map: Tensor,
        select: Tensor | None = None,
    ) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
        """Shapes as in ``mimo_runtime.model.graph_spec``.

        Args:
            select: [B, K] indices of the queries that are wanted; all (K = Q) if None.

        Returns:
            mask logits per level, coarse to fine: [B, K, side, side], the last [B, K, mask_size, mask_size];
            boxes [B, K, 4] as (x0, y0, x1, y1) in [0, 1]; presence logits [B, K]; iou [B, K] in [0, 1].
        """
        if select is None:
            queries, position = self.queries[None].expand(memory.shape[0], -1, -1), self.query_position[None]
        else:
            queries, position = self.queries[select], self.query_position[select]
        queries = self.read_memory(queries, memory, padding_bias(memory_valid), position, None)
        sources, pixels, masks = (fused_16, features_8, features_4), fused_16, []
        last = self.config.levels - 1
        for level, block in enumerate(self.blocks):
            pixels = self.pixels[level](sources[level], pixels, reference_map)
            # Queries read the finest level at half its resolution: a quarter of the keys, and its mask fits as it is.
            keys = F.avg_pool2d(pixels, 2) if level == 2 else pixels
            side = keys.shape[-1]
            if masks:
                inside, ratio = masks[-1], side // masks[-1].shape[-1]
                if ratio > 1:
                    inside = F.interpolate(inside, scale_factor=float(ratio), mode="bilinear", align_corners=False)
                # log(sigmoid(x)), written so that the exporter cannot make it Log(Sigmoid(x)), which is -inf below -104.
                bias = (-F.softplus(-inside)).clamp(min=MASK_BIAS_FLOOR).flatten(2)[:, None]
            else:
                bias = torch.zeros_like(pixels[:, :1, 0, None, :1])
            key_position = self.positions[level](self.coordinates(grid_centres(side, pixels.device).to(pixels)))
            queries = block(queries, keys.flatten(2).transpose(1, 2), bias, position, key_position)
            if level < last:
                masks.append(self._draw(level, queries, pixels))
        masks.append(self._draw_fine(queries, pixels))
        out = self.norm(queries)
        return masks, _corners(self.box(out).sigmoid()), self.presence(out)[..., 0], self.iou(out)[..., 0].sigmoid()

    def _draw(self, level: int, queries: Tensor, pixels: Tensor) -> Tensor:
        """Dot product of each query's embedding with each pixel, scaled so that it starts small: [B, Q, H, W]."""
        embedding = self.embeddings[level](queries) * pixels.shape[1] ** -0.5
        return (embedding @ pixels.flatten(2)).reshape(-1, queries.shape[1], pixels.shape[-2], pixels.shape[-1])

    def _draw_fine(self, queries: Tensor, pixels: Tensor) -> Tensor:
        """The finest masks: dot products with the features of sub-pixels, ``upsample`` squared to a pixel.

        ``fine`` is linear, so it is applied to the few query embeddings instead of to all pixels: the same numbers for a
        fraction of the work and memory.
        """
        ratio, (batch, count, _) = self.config.upsample, queries.shape
        channels = pixels.shape[1]
        parts = self.fine.parts
        embedding = self.embeddings[-1](queries) * parts**-0.5
        kernel = self.fine.kernel(embedding).reshape(batch, count * ratio**2, channels)
        offset = (embedding @ self.fine.bias.reshape(parts, ratio**2)).reshape(batch, count * ratio**2, 1)
        logits = (kernel @ pixels.flatten(2) + offset).reshape(batch, count * ratio**2, *pixels.shape[-2:])
        return F.pixel_shuffle(logits, ratio) if ratio > 1 else logits


def _corners(box: Tensor) -> Tensor:
    """(centre x, centre y, width, height) -> (x0, y0, x1, y1)."""
    centre, half = box[..., :2], box[..., 2:] * 0.5
    return torch.cat((centre - half, centre + half), dim=-1)
