"""The type of objects that come from libraries without type information."""

from __future__ import annotations

from typing import Any, TypeAlias

#: A TensorRT builder, an OpenVINO port, a ctypes library, a volume of nibabel: attributes are not checked.
Untyped: TypeAlias = Any
