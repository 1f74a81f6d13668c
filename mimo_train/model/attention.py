"""Attention written so that one graph serves every engine: masks are additive arithmetic, never control flow."""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Added to the logits of padding. Far below any logit, yet inside the float16 range.
PADDING_BIAS = -1e4


def padding_bias(valid: Tensor) -> Tensor:
    """``valid`` [B, N] of 1 / 0 -> additive bias [B, 1, 1, N] that removes padding from a softmax over N."""
    return ((1.0 - valid) * PADDING_BIAS)[:, None, None, :]


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, N, C] -> [B, heads, N, C / heads]."""
    return x.reshape(x.shape[0], x.shape[1], heads, x.shape[2] // heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[B, heads, N, d] -> [B, N, heads * d]."""
    x = x.transpose(1, 2)
    return x.reshape(x.shape[0], x.shape[1], x.shape[2] * x.shape[3])


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762).

    Args:
        query: [B, heads, N, d]; key, value: [B, heads, M, d].
        bias: added to the logits, broadcastable to [B, heads, N, M].

    Returns:
        [B, heads, N, d].
    """
    # The query is scaled before the product: the logits then stay small enough for float16.
    logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    if bias is not None:
        logits = logits + bias
    return torch.softmax(logits, dim=-1) @ value


class Attention(nn.Module):
    """Multi-head attention from ``dim`` to ``source_dim`` with inner width ``inner``."""

    def __init__(self, dim: int, heads: int, source_dim: int | None = None, inner: int | None = None) -> None:
        super().__init__()
        source_dim, inner = source_dim or dim, inner or dim
        self.heads = heads
        self.query = nn.Linear(dim, inner)
        self.key = nn.Linear(source_dim, inner)
        self.value = nn.Linear(source_dim, inner)
        self.output = nn.Linear(inner, dim)

    def forward(
        self,
        x: Tensor,
        source: Tensor,
        bias: Tensor | None = None,
        key_position: Tensor | None = None,
        query_position: Tensor | None = None,
    ) -> Tensor:
        """x [B, N, dim] attends to source [B, M, source_dim]. Positions are added to query and key only."""
        query = self.query(x if query_position is None else x + query_position)
        key = self.key(source if key_position is None else source + key_position)
        heads = (split_heads(t, self.heads) for t in (query, key, self.value(source)))
        return self.output(merge_heads(attend(*heads, bias)))


class FeedForward(nn.Sequential):
    """Linear, GELU, Linear."""

    def __init__(self, dim: int, ratio: float) -> None:
        super().__init__(nn.Linear(dim, int(dim * ratio)), nn.GELU(), nn.Linear(int(dim * ratio), dim))


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers of these widths with GELU between them."""
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(zip(widths, widths[1:])):
        layers += [nn.GELU()] * (i > 0) + [nn.Linear(a, b)]
    return nn.Sequential(*layers)
