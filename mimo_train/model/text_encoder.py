"""BERT encoder for the question (Devlin et al. 2019, arXiv:1810.04805); computes what Hugging Face's ``BertModel`` computes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mimo_runtime.model.config import TextConfig

from .attention import Attention, FeedForward, padding_bias

PAD_ID = 0


class BertLayer(nn.Module):
    """Post-norm transformer layer."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.attention = Attention(config.hidden, config.heads)
        self.norm_attention = nn.LayerNorm(config.hidden, eps=1e-12)
        self.mlp = FeedForward(config.hidden, config.intermediate / config.hidden)
        self.norm_mlp = nn.LayerNorm(config.hidden, eps=1e-12)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = self.norm_attention(x + self.attention(x, x, bias))
        return self.norm_mlp(x + self.mlp(x))


class TextEncoder(nn.Module):
    def __init__(self, config: TextConfig, vocab_size: int, dim: int) -> None:
        super().__init__()
        self.word = nn.Embedding(vocab_size, config.hidden)
        self.position = nn.Embedding(config.positions, config.hidden)
        #: BERT's embedding of "first sentence": there is never a second one here.
        self.token_type = nn.Parameter(torch.zeros(config.hidden))
        self.norm = nn.LayerNorm(config.hidden, eps=1e-12)
        self.layers = nn.ModuleList(BertLayer(config) for _ in range(config.layers))
        self.project = nn.Linear(config.hidden, dim)
        for table in (self.word, self.position):
            nn.init.trunc_normal_(table.weight, std=0.02)

    def hidden_states(self, token_ids: Tensor, valid: Tensor) -> Tensor:
        """[B, L] ids -> [B, L, hidden], before the projection."""
        x = self.norm(self.word(token_ids) + self.position.weight[: token_ids.shape[1]] + self.token_type)
        bias = padding_bias(valid)
        for layer in self.layers:
            x = layer(x, bias)
        return x

    def forward(self, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Ids [B, L] int32, 0 = padding -> embeddings [B, L, dim] (zero on padding) and valid [B, L] of 1 / 0."""
        valid = (token_ids != PAD_ID).to(self.project.weight.dtype)
        return self.project(self.hidden_states(token_ids, valid)) * valid[..., None], valid
