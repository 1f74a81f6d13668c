"""Synthetic CT-, MR-, X-ray- and ultrasound-like images with exact masks: what tests, the demo and parity runs use."""

from __future__ import annotations

from .base import CLASS_IDS, LESIONS, PhantomImage
from .dataset import MODALITIES, generate, phantom

__all__ = ["CLASS_IDS", "LESIONS", "MODALITIES", "PhantomImage", "generate", "phantom"]
