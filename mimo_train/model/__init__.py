"""The MIMO network. One file per part, named as the part (see docs/explanation/architecture.md)."""

from .fusion import FusionEncoder
from .mask_decoder import MaskDecoder
from .mimo import Mimo, PromptBatch
from .prompt_encoder import PromptEncoder
from .text_decoder import TextDecoder
from .text_encoder import TextEncoder
from .vision_encoder import VisionEncoder

__all__ = [
    "FusionEncoder",
    "MaskDecoder",
    "Mimo",
    "PromptBatch",
    "PromptEncoder",
    "TextDecoder",
    "TextEncoder",
    "VisionEncoder",
]
