"""The logger of the package, ``mimo_runtime``. It is silent until a program configures ``logging``.

No record may carry what identifies a patient: no file names, texts, references or pixels.
"""

from __future__ import annotations

import logging

LOGGER = logging.getLogger("mimo_runtime")
LOGGER.addHandler(logging.NullHandler())
