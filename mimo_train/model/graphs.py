"""The model cut into the six graphs of ``mimo_runtime.model.graph_spec``: modules whose forward takes and returns its tensors.

Export traces these modules and :class:`mimo_train.torch_engine.TorchEngine` runs them, so the reference of every parity check
is the very thing that was exported.
"""

from __future__ import annotations

from torch import Tensor, nn

from .mimo import Mimo


class FusionGraph(nn.Module):
    """Fusion, and the text decoder's cross-attention keys and values, which depend on the memory only."""

    def __init__(self, model: Mimo) -> None:
        super().__init__()
        self.fusion, self.text_decoder = model.fusion, model.text_decoder

    def forward(
        self,
        features_16: Tensor,
        features_32: Tensor,
        text_embeddings: Tensor,
        text_valid: Tensor,
        reference_tokens: Tensor,
        reference_valid: Tensor,
        reference_regions: Tensor,
        extent: Tensor,
    ) -> tuple[Tensor, ...]:
        fused, memory, valid, _ = self.fusion(
            features_16, features_32, text_embeddings, text_valid, reference_tokens, reference_valid, reference_regions, extent
        )
        return (fused, memory, valid, *self.text_decoder.cross_cache(memory))


class MaskDecoderGraph(nn.Module):
    """The mask decoder with its finest masks only; the coarser ones serve training."""

    def __init__(self, model: Mimo) -> None:
        super().__init__()
        self.mask_decoder = model.mask_decoder

    def forward(
        self,
        features_4: Tensor,
        features_8: Tensor,
        fused_16: Tensor,
        memory: Tensor,
        memory_valid: Tensor,
        reference_map: Tensor,
    ) -> tuple[Tensor, ...]:
        masks, boxes, presence, iou = self.mask_decoder(features_4, features_8, fused_16, memory, memory_valid, reference_map)
        return masks[-1], boxes, presence, iou


class TextDecoderGraph(nn.Module):
    """One step of the text decoder."""

    def __init__(self, model: Mimo) -> None:
        super().__init__()
        self.text_decoder = model.text_decoder

    def forward(
        self,
        token: Tensor,
        position: Tensor,
        past_keys: Tensor,
        past_values: Tensor,
        cross_keys: Tensor,
        cross_values: Tensor,
        memory_valid: Tensor,
    ) -> tuple[Tensor, ...]:
        return self.text_decoder.step(token, position, past_keys, past_values, cross_keys, cross_values, memory_valid)


def graph_modules(model: Mimo) -> dict[str, nn.Module]:
    """One module per graph, sharing the model's weights."""
    return {
        "vision_encoder": model.vision_encoder,
        "text_encoder": model.text_encoder,
        "prompt_encoder": model.prompt_encoder,
        "fusion": FusionGraph(model),
        "mask_decoder": MaskDecoderGraph(model),
        "text_decoder": TextDecoderGraph(model),
    }
