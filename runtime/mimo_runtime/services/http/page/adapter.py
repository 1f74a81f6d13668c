"""The page as a part of the service: its files, and what it asks for beside questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..service import Adapter, Service
from .files import OPERATIONS as FILES
from .files import file_routes
from .series import OPERATIONS as SERIES
from .series import SeriesRoutes

if TYPE_CHECKING:
    from starlette.routing import BaseRoute


def _routes(service: Service) -> Sequence[BaseRoute]:
    return [*file_routes(), *SeriesRoutes(service).routes()]


#: The files are answered without a key: the page asks for it.
PAGE = Adapter(_routes, ("/", "/page/"), (*FILES, *SERIES))
