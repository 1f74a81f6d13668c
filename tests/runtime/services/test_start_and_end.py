"""Before the model is ready, and after the service was asked to end."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import fakes
import pytest

pytest.importorskip("uvicorn")
import served
from served_process import Address
from starlette.testclient import TestClient
from waiting import PATIENCE_S, wait_for

from mimo_runtime.errors import BundleError
from mimo_runtime.services.host import HostOptions, ModelHost
from mimo_runtime.services.http import server as server_module
from mimo_runtime.services.http.app import create_app
from mimo_runtime.services.http.server import open_server
from mimo_runtime.services.settings import ServerSettings


def test_health_is_answered_before_the_model_is_ready():
    loads = threading.Event()

    def load(path: Path, options: HostOptions):
        loads.wait(PATIENCE_S)
        return fakes.fake_mimo(), 3

    with TestClient(create_app(ModelHost("x", load=load), served.SETTINGS), base_url=served.BASE) as client:
        assert client.get("/health").status_code == 200
        for reply in (client.get("/ready"), client.get("/v1/model"), client.post("/v1/images", content=served.png(), headers={
            "Content-Type": "image/png"
        })):  # fmt: skip
            assert reply.status_code == 503 and reply.headers["retry-after"] and "not ready" in reply.json()["error"]["message"]
        loads.set()
        wait_for(lambda: client.get("/ready").status_code == 200)
        assert client.get("/ready").json() == {"status": "ready", "samples": 3}


def test_a_model_that_fails_its_self_test_is_never_ready():
    def load(path: Path, options: HostOptions):
        raise BundleError("the bundle in /secret/place is damaged", "Build it again")

    app = create_app(ModelHost("x", load=load), served.SETTINGS)
    with TestClient(app, base_url=served.BASE) as client:
        wait_for(lambda: app.service.host.problem)
        reply = client.get("/ready")
        assert reply.status_code == 503 and reply.json()["error"]["message"] == "the model is not ready. See the log."
        assert client.get("/health").status_code == 200 and "secret" not in reply.text


def test_at_the_end_running_answers_have_a_while_and_then_give_what_is_complete(monkeypatch):
    monkeypatch.setattr(server_module, "_DELIVERY_S", 60)
    settings, mimo = ServerSettings(port=0, max_callers=1, grace_s=1), fakes.fake_mimo()
    app = create_app(served.host_of(lambda: mimo), settings)
    server, listening = open_server(app, settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    address, replies = Address(listening.getsockname()[1]), []
    wait_for(lambda: address.request("GET", "/ready")[0] == 200)
    image = address.upload()
    asking = threading.Thread(target=lambda: replies.append(address.ask(image)))
    mimo.engines["text_decoder"].delay = 0.3  # the masks are there soon, the text takes many seconds
    asking.start()
    wait_for(lambda: mimo.engines["text_decoder"].calls)
    begin = time.monotonic()
    server.should_exit = True
    asking.join(PATIENCE_S)
    thread.join(PATIENCE_S)
    assert not thread.is_alive() and time.monotonic() - begin > 0.9
    status, answer = replies[0]
    assert status == 200 and answer["finish_reason"] == "cancelled" and answer["findings"]
