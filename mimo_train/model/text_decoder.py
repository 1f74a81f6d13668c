"""Text decoder: autoregressive transformer with cross-attention to the unified memory.

Training runs all positions at once (:meth:`TextDecoder.forward`); a device runs one token at a time with a dynamic
self-attention cache (:meth:`TextDecoder.step`) and cross-attention keys and values computed once per answer
(:meth:`TextDecoder.cross_cache`). A test holds that both give the same logits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mimo_runtime.model.config import TextDecoderConfig

from .attention import FeedForward, attend, merge_heads, padding_bias, split_heads


class DecoderLayer(nn.Module):
    """Pre-norm: causal self-attention, cross-attention, feed-forward."""

    def __init__(self, dim: int, config: TextDecoderConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm_self, self.norm_cross, self.norm_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.self_qkv = nn.Linear(dim, 3 * dim)
        self.self_output = nn.Linear(dim, dim)
        self.cross_query = nn.Linear(dim, dim)
        self.cross_key, self.cross_value = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.cross_output = nn.Linear(dim, dim)
        self.mlp = FeedForward(dim, config.mlp_ratio)

    def forward(
        self,
        x: Tensor,
        past_key: Tensor | None,
        past_value: Tensor | None,
        cross_key: Tensor,
        cross_value: Tensor,
        cross_bias: Tensor,
        causal: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, dim]; caches [B, heads, P, d] -> x, key and value of length P + T."""
        query, key, value = (split_heads(t, self.heads) for t in self.self_qkv(self.norm_self(x)).chunk(3, dim=-1))
        if past_key is not None and past_value is not None:
            key, value = torch.cat((past_key, key), dim=2), torch.cat((past_value, value), dim=2)
        x = x + self.self_output(merge_heads(attend(query, key, value, causal)))
        query = split_heads(self.cross_query(self.norm_cross(x)), self.heads)
        x = x + self.cross_output(merge_heads(attend(query, cross_key, cross_value, cross_bias)))
        return x + self.mlp(self.norm_mlp(x)), key, value


class WordEmbedding(nn.Embedding):
    """Vectors of words, and with the same weights the output layer (Press and Wolf 2017, arXiv:1608.05859)."""

    def logits(self, x: Tensor) -> Tensor:
        """Logits of all words: [..., dim] -> [..., vocabulary]."""
        return x @ self.weight.t()


class TextDecoder(nn.Module):
    def __init__(self, config: TextDecoderConfig, vocab_size: int, dim: int) -> None:
        super().__init__()
        self.word = WordEmbedding(vocab_size, dim)
        self.position = nn.Embedding(config.max_length, dim)
        self.layers = nn.ModuleList(DecoderLayer(dim, config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(dim)
        #: Projection of the target token, added to all values of the memory; see :meth:`cross_cache`.
        self.target = nn.Linear(dim, dim, bias=False)
        nn.init.zeros_(self.target.weight)
        for table in (self.word, self.position):
            nn.init.normal_(table.weight, std=0.02)

    def cross_cache(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """memory [B, M, dim] -> cross-attention keys and values, each [layers, B, heads, M, d].

        The last token of the memory is the target token. It is added to all values, so that every word has the place and
        size of the target, wherever its attention goes: to find that one token among hundreds is slow to learn.
        """
        keys = [split_heads(layer.cross_key(memory), layer.heads) for layer in self.layers]
        target_memory = memory + self.target(memory[:, -1:])
        values = [split_heads(layer.cross_value(target_memory), layer.heads) for layer in self.layers]
        return torch.stack(keys), torch.stack(values)

    def forward(self, tokens: Tensor, memory: Tensor, memory_valid: Tensor) -> Tensor:
        """Teacher forcing: tokens [B, T] -> logits [B, T, vocabulary] of the token after each."""
        length = tokens.shape[1]
        x = self.word(tokens) + self.position.weight[:length]
        causal = torch.full((length, length), -1e4, device=x.device, dtype=x.dtype).triu(1)
        cross_keys, cross_values = self.cross_cache(memory)
        bias = padding_bias(memory_valid)
        for i, layer in enumerate(self.layers):
            x, _, _ = layer(x, None, None, cross_keys[i], cross_values[i], bias, causal)
        return self.word.logits(self.norm(x))

    def step(
        self,
        token: Tensor,
        position: Tensor,
        past_keys: Tensor,
        past_values: Tensor,
        cross_keys: Tensor,
        cross_values: Tensor,
        memory_valid: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One token: shapes as in ``mimo_runtime.model.graph_spec``.

        Every cached token precedes the new one, so no causal mask is needed.
        """
        x = self.word(token) + self.position(position)
        bias = padding_bias(memory_valid)
        keys, values = [], []
        for i, layer in enumerate(self.layers):
            x, key, value = layer(x, past_keys[i], past_values[i], cross_keys[i], cross_values[i], bias, None)
            keys.append(key)
            values.append(value)
        return self.word.logits(self.norm(x)), torch.stack(keys), torch.stack(values)
