"""A service over the numpy fakes, for tests of routes."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import fakes
import numpy as np
from PIL import Image
from waiting import wait_for

from mimo_runtime.pipeline import Mimo
from mimo_runtime.services.host import HostOptions, ModelHost
from mimo_runtime.services.http.app import create_app
from mimo_runtime.services.http.service import Adapter
from mimo_runtime.services.settings import ServerSettings

BASE = "http://127.0.0.1"
SETTINGS = ServerSettings(max_callers=2)


def png(pixels: np.ndarray | None = None) -> bytes:
    """A PNG file of the picture of the fakes."""
    buffer = io.BytesIO()
    Image.fromarray(fakes.picture() if pixels is None else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def host_of(make: Callable[[], Mimo] = fakes.fake_mimo) -> ModelHost:
    """A host of models without a bundle."""

    def load(path: Path, options: HostOptions) -> tuple[Mimo, int]:
        return make(), 0

    return ModelHost("fake", load=load)


def client(settings: ServerSettings = SETTINGS, make: Callable[[], Mimo] = fakes.fake_mimo, adapters: Sequence[Adapter] = ()):
    """A client of an application whose model is ready; use it as a context."""
    from starlette.testclient import TestClient

    class ReadyClient(TestClient):
        def __enter__(self):
            entered = super().__enter__()
            wait_for(lambda: self.get("/ready").status_code == 200)
            return entered

    app = create_app(host_of(make), settings, adapters)
    made = ReadyClient(app, base_url=BASE, raise_server_exceptions=False)
    made.service = app.service
    return made
