"""Visual referring prompts: any mix of boxes, points and one mask becomes reference tokens and soft region maps.

A slot whose label is -1 is padding: its token, its validity and its region are zero, so one static graph takes every mix.
Coordinate embedding as in Segment Anything (Kirillov et al. 2023, arXiv:2304.02643). In addition every reference pools the
image features under its region, so that a token holds what it points at as well as where.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import mlp
from .position import CoordinateEmbedding, mask_geometry

#: Standard deviation of a point's blob as a fraction of the image: on the stride-4 map and on the token grids.
POINT_SIGMA_FINE, POINT_SIGMA_TOKENS = 0.016, 0.06
#: Distance, as a fraction of the image, in which the nearness to a point falls by a factor of e.
NEARNESS_LENGTH = 0.1


def box_map(boxes: Tensor, side: int) -> Tensor:
    """Soft inside of boxes [B, N, 4] on a grid: [B, N, side, side] in [0, 1]; the edge is about one cell wide."""
    centre = (torch.arange(side, device=boxes.device, dtype=boxes.dtype) + 0.5) / side
    # A trapezoid: the covered fraction of a cell whose centre lies at most half a cell from the edge. Exact area coverage.
    x = ((centre - boxes[..., 0:1]) * side + 0.5).clamp(0, 1) * ((boxes[..., 2:3] - centre) * side + 0.5).clamp(0, 1)
    y = ((centre - boxes[..., 1:2]) * side + 0.5).clamp(0, 1) * ((boxes[..., 3:4] - centre) * side + 0.5).clamp(0, 1)
    return y[..., :, None] * x[..., None, :]


def point_map(points: Tensor, side: int, sigma: float) -> Tensor:
    """Gaussian blobs of peak 1 at points [B, N, 2]: [B, N, side, side]."""
    centre = (torch.arange(side, device=points.device, dtype=points.dtype) + 0.5) / side
    x = torch.exp(-((centre - points[..., 0:1]) / sigma).square() * 0.5)
    y = torch.exp(-((centre - points[..., 1:2]) / sigma).square() * 0.5)
    return y[..., :, None] * x[..., None, :]


def nearness_map(points: Tensor, side: int) -> Tensor:
    """Nearness of each cell to points [B, N, 2]: exp(-distance / length), [B, N, side, side] in (0, 1].

    A blob is zero a few cells away from its point. Nearness falls slowly, so that pixels of two structures with the same
    appearance differ in it.
    """
    centre = (torch.arange(side, device=points.device, dtype=points.dtype) + 0.5) / side
    x, y = (centre - points[..., 0:1]).square(), (centre - points[..., 1:2]).square()
    return torch.exp((y[..., :, None] + x[..., None, :] + 1e-8).sqrt() * (-1.0 / NEARNESS_LENGTH))


class PromptEncoder(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.coordinates = CoordinateEmbedding(dim)
        self.box = mlp(2 * dim, dim, dim)
        self.point = mlp(dim, dim, dim)
        self.geometry = mlp(5, dim, dim)
        #: box, negative point, positive point, mask
        self.kind = nn.Parameter(torch.randn(4, dim) * 0.02)
        self.pooled = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(
        self,
        boxes: Tensor,
        box_labels: Tensor,
        points: Tensor,
        point_labels: Tensor,
        mask: Tensor,
        mask_label: Tensor,
        features_16: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Shapes as in ``mimo_runtime.model.graph_spec``.

        Returns:
            reference_tokens [B, R, dim], reference_valid [B, R], reference_regions [B, R, image tokens] in [0, 1],
            reference_map [B, 6, S / 4, S / 4]: boxes, positive points, negative points, mask, nearness to the positive points,
            nearness to the negative points. All are zero without such references.
        """
        real = features_16.dtype
        valid = torch.cat((box_labels >= 0, point_labels >= 0, mask_label >= 0), dim=1).to(real)
        n_boxes, n_points = boxes.shape[1], points.shape[1]
        side16, side4 = features_16.shape[-1], mask.shape[-1]

        mask = mask * (mask_label >= 0).to(real)[..., None, None]
        regions = (
            torch.cat([self._regions(boxes, points, mask, side) for side in (side16, side16 // 2)], dim=-1) * valid[..., None]
        )

        # Reference tokens: where (coordinates), what kind, and what is there (pooled features).
        positive = (point_labels > 0).to(real)[..., None]
        tokens = torch.cat(
            (
                self.box(torch.cat((self.coordinates(boxes[..., :2]), self.coordinates(boxes[..., 2:])), dim=-1))
                + self.kind[0],
                self.point(self.coordinates(points)) + self.kind[1] * (1.0 - positive) + self.kind[2] * positive,
                (self.geometry(mask_geometry(mask)) + self.kind[3])[:, None],
            ),
            dim=1,
        )
        weights = regions[..., : side16 * side16]
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-4)
        tokens = self.norm(tokens + self.pooled(weights @ features_16.flatten(2).transpose(1, 2))) * valid[..., None]

        box_valid, point_valid = valid[:, :n_boxes, None, None], valid[:, n_boxes : n_boxes + n_points, None, None]
        blobs = point_map(points, side4, POINT_SIGMA_FINE) * point_valid
        near = nearness_map(points, side4) * point_valid
        reference_map = torch.cat(
            (
                (box_map(boxes, side4) * box_valid).amax(1, keepdim=True),
                (blobs * positive[..., None]).amax(1, keepdim=True),
                (blobs * (1.0 - positive)[..., None]).amax(1, keepdim=True),
                mask,
                (near * positive[..., None]).amax(1, keepdim=True),
                (near * (1.0 - positive)[..., None]).amax(1, keepdim=True),
            ),
            dim=1,
        )
        return tokens, valid, regions, reference_map

    @staticmethod
    def _regions(boxes: Tensor, points: Tensor, mask: Tensor, side: int) -> Tensor:
        cell = mask.shape[-1] // side
        maps = (box_map(boxes, side), point_map(points, side, POINT_SIGMA_TOKENS), F.avg_pool2d(mask, cell))
        return torch.cat([m.flatten(2) for m in maps], dim=1)
