"""Fields of each preset that differ from the defaults of ``MimoConfig``; ``config.PRESETS`` is built of them."""

from __future__ import annotations

from ..utils.untyped import Untyped
from .parts import FusionConfig, MaskDecoderConfig, PromptConfig, TextConfig, TextDecoderConfig, VisionConfig

PRESET_FIELDS: dict[str, dict[str, Untyped]] = {
    # The smallest thing with every part: tests only.
    "micro": dict(
        image_size=64,
        vocab_size=512,
        dim=32,
        vision=VisionConfig(
            embed_dim=8, depths=(2, 1, 2, 1), heads=(1, 2, 2, 4), window=4, mlp_ratio=2.0, neck=(16, 24, 32, 32)
        ),
        text=TextConfig(hidden=32, layers=1, heads=2, intermediate=64, max_length=32, positions=32),
        prompts=PromptConfig(max_boxes=2, max_points=4),
        fusion=FusionConfig(layers=1, heads=2),
        mask_decoder=MaskDecoderConfig(heads=2, queries=32),
        text_decoder=TextDecoderConfig(layers=1, heads=2, mlp_ratio=2.0, max_length=96),
    ),
    "tiny": {},
    # Swin-T and BERT-base: the shapes of the published Hugging Face weights.
    "base": dict(
        image_size=512,
        vocab_size=30592,
        dim=256,
        vision=VisionConfig(
            embed_dim=96,
            depths=(2, 2, 6, 2),
            heads=(3, 6, 12, 24),
            window=7,
            stem="patch",
            conv_position=False,
            neck=(96, 192, 256, 256),
        ),
        text=TextConfig(hidden=768, layers=12, heads=12, intermediate=3072, max_length=64, positions=512),
        prompts=PromptConfig(max_boxes=8, max_points=16),
        fusion=FusionConfig(layers=3, heads=8, mlp_ratio=4.0),
        mask_decoder=MaskDecoderConfig(heads=8, mlp_ratio=4.0, queries=92),
        text_decoder=TextDecoderConfig(layers=6, heads=8, max_length=256),
    ),
    # Swin-B (384 px variant's window) and BERT-large.
    "large": dict(
        image_size=768,
        vocab_size=30592,
        dim=384,
        vision=VisionConfig(
            embed_dim=128,
            depths=(2, 2, 18, 2),
            heads=(4, 8, 16, 32),
            window=12,
            stem="patch",
            conv_position=False,
            neck=(128, 256, 384, 384),
        ),
        text=TextConfig(hidden=1024, layers=24, heads=16, intermediate=4096, max_length=64, positions=512),
        prompts=PromptConfig(max_boxes=8, max_points=16),
        fusion=FusionConfig(layers=4, heads=12, mlp_ratio=4.0),
        mask_decoder=MaskDecoderConfig(heads=12, mlp_ratio=4.0, queries=92),
        text_decoder=TextDecoderConfig(layers=8, heads=12, max_length=256),
    ),
}
