"""The configurations of the model's parts, and how many weights each of them has."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class VisionConfig:
    """Swin transformer (Liu et al. 2021, arXiv:2103.14030). Tuples hold one entry per stage (strides 4, 8, 16, 32)."""

    embed_dim: int = 48
    depths: tuple[int, ...] = (2, 2, 4, 1)
    heads: tuple[int, ...] = (2, 4, 6, 12)
    window: int = 8
    mlp_ratio: float = 4.0
    #: "patch": one 4x4 convolution as in the paper; "conv": two 3x3 convolutions of stride 2, which learn from few images.
    stem: str = "conv"
    #: A depthwise 3x3 convolution before each block, as position information that does not depend on the resolution.
    conv_position: bool = True
    #: Channels of the pyramid that other parts read, strides 4, 8, 16, 32. The last two equal ``MimoConfig.dim``.
    neck: tuple[int, ...] = (64, 96, 160, 160)

    @property
    def widths(self) -> tuple[int, int, int, int]:
        """Channels of the stages."""
        return self.embed_dim, self.embed_dim * 2, self.embed_dim * 4, self.embed_dim * 8

    def parameter_count(self) -> int:
        """About as many weights as the encoder has: those of its matrices."""
        count = 0.0
        for width, depth, heads in zip(self.widths, self.depths, self.heads):
            count += depth * (width**2 * (4 + 2 * self.mlp_ratio) + heads * (2 * self.window - 1) ** 2)
        count += sum(8 * width**2 for width in self.widths[:3]) + sum(w * n for w, n in zip(self.widths, self.neck))
        return int(count) + sum(a * b + 9 * a**2 for a, b in zip(self.neck, self.neck[1:]))


@dataclass(frozen=True)
class TextConfig:
    """BERT encoder (Devlin et al. 2019, arXiv:1810.04805)."""

    hidden: int = 128
    layers: int = 2
    heads: int = 4
    intermediate: int = 384
    #: Longest query in tokens, special tokens included. The graph is static at this length.
    max_length: int = 32
    #: Rows of the position table; BERT's published weights have 512.
    positions: int = 32

    def parameter_count(self, vocabulary: int, dim: int) -> int:
        """About as many weights as the encoder has: those of its matrices."""
        layer = 4 * self.hidden**2 + 2 * self.hidden * self.intermediate
        return self.hidden * (vocabulary + self.positions + dim) + self.layers * layer


@dataclass(frozen=True)
class PromptConfig:
    """How many references a request may have."""

    max_boxes: int = 4
    max_points: int = 8

    @property
    def references(self) -> int:
        """Reference tokens: one per box, one per point, one for the mask."""
        return self.max_boxes + self.max_points + 1


@dataclass(frozen=True)
class FusionConfig:
    """Transformer over image, text and reference tokens."""

    layers: int = 2
    heads: int = 5
    mlp_ratio: float = 2.0
    #: Reference tokens bias the attention logits towards the referred region.
    region_bias: bool = True
    #: References gate the result of the cross-attention, and the pixels of the mask decoder's coarser levels.
    gate: bool = True

    def parameter_count(self, dim: int) -> int:
        """About as many weights as the fusion has: those of its matrices."""
        return int(dim**2 * (4 + self.layers * (22 + 6 * self.mlp_ratio)))


@dataclass(frozen=True)
class MaskDecoderConfig:
    """Mask queries that attend to the pyramid, coarse to fine."""

    heads: int = 5
    mlp_ratio: float = 1.5
    #: Query 0 draws what the question refers to; query ``1 + i`` draws ``MimoConfig.entities[i]``.
    queries: int = 48
    #: Cascade levels used, coarse to fine: 3 = strides 16, 8, 4.
    levels: int = 3
    #: The finest mask is drawn on a grid this many times finer than stride 4 (sub-pixel shuffle).
    upsample: int = 2
    #: References reach the pixels as a dense map; without it there is nothing to gate the pixels with.
    reference_map: bool = True

    def parameter_count(self, dim: int, neck: tuple[int, ...]) -> int:
        """About as many weights as the decoder has: those of its matrices."""
        channels = (dim, neck[1], neck[0])[: self.levels]
        count = (
            2 * self.queries * dim + dim**2 * (7 + 2 * self.mlp_ratio) + channels[-1] * max(16, channels[-1]) * self.upsample**2
        )
        return int(count + sum(dim**2 * (1 + 2 * self.mlp_ratio) + 5 * dim * c + 10 * c**2 for c in channels))


@dataclass(frozen=True)
class TextDecoderConfig:
    """Transformer that writes the answer token by token."""

    layers: int = 2
    heads: int = 5
    mlp_ratio: float = 4.0
    #: Longest answer in tokens, ``<bos>`` included.
    max_length: int = 128

    def parameter_count(self, vocabulary: int, dim: int) -> int:
        """About as many weights as the decoder has: those of its matrices."""
        return int(dim * (vocabulary + self.max_length + dim) + self.layers * dim**2 * (8 + 2 * self.mlp_ratio))
