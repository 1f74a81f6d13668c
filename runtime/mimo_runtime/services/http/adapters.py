"""The protocols of ``mimo-run serve`` besides its own; another one is a line here."""

from __future__ import annotations

from ..monai_label.routes import MONAI_LABEL
from ..nninteractive.routes import adapter as nninteractive
from .chat import CHAT
from .page.adapter import PAGE
from .service import Adapter

BUILT_IN: tuple[Adapter, ...] = (CHAT, PAGE, nninteractive(), MONAI_LABEL)
