"""A node that loads bundle, rules and TLS files again: what is there serves until all that is new is good."""

from __future__ import annotations

import json
import shutil
import signal
import ssl
from dataclasses import replace
from pathlib import Path
from socketserver import BaseServer

import fakes
import pytest
from dicomweb_store import Web
from node_cases import AWAY, Archive, NodeProcess, certificate, echo_over_tls, running_node, send, study
from pydicom.uid import generate_uid
from waiting import PATIENCE_S, wait_for

from mimo_runtime.errors import BundleError, RequestError
from mimo_runtime.services.dicom_node import node as node_module
from mimo_runtime.services.dicom_node.rules import Rule
from mimo_runtime.services.dicom_node.settings import Tls

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP")


def write_rules(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({"rules": [{"name": "a", "ask": "liver", **fields}]}))


def hang_up(node: NodeProcess, event: str) -> None:
    """SIGHUP, and the wait for one more line of the log with the event."""
    before = len(node.lines)
    node.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "loaded again" in "".join(node.lines[before:]))
    assert event in "".join(node.lines[before:])


def test_on_a_signal_rules_and_bundle_are_replaced_or_kept(bundle_folder: Path, tmp_path: Path, archive: Archive):
    bundle, rules = tmp_path / "a-bundle", tmp_path / "the-rules.json"
    shutil.copytree(bundle_folder, bundle)
    write_rules(rules, write=["seg", "sr"])
    receiver = f"ARCHIVE@127.0.0.1:{archive.peer.port}"
    node = NodeProcess(bundle, tmp_path / "data", receiver, "--rules", str(rules), "--quiet", "0.2")
    try:
        wait_for(lambda: "serving model generation 1" in node.log)
        write_rules(rules, write=["sr"])
        hang_up(node, "bundle, rules, credentials and TLS were loaded again")
        assert "serving model generation 2" in node.log
        assert send(node.port, study()) == [0]
        wait_for(lambda: "a result is delivered" in node.log)
        assert [data.Modality for data in archive.received] == ["SR"]

        write_rules(rules, colour=1)
        hang_up(node, "nothing was loaded again: rules: rules.0 does not fit this format version: unknown colour")
        rules.unlink()
        hang_up(node, "nothing was loaded again: the file of --rules cannot be read: No such file or directory. Name a JSON")
        write_rules(rules, write=["seg"])
        (bundle / "manifest.json").write_text("{")
        hang_up(node, "nothing was loaded again: the bundle cannot be served (BundleError). mimo-run verify BUNDLE says why.")
        assert send(node.port, study()) == [0]
        wait_for(lambda: node.log.count("a result is delivered") == 2)
        assert [data.Modality for data in archive.received] == ["SR", "SR"]
        assert node.stop() == 0
    finally:
        node.kill()
    assert "a-bundle" not in node.log and "the-rules" not in node.log and "Traceback" not in node.log


def test_on_a_signal_the_header_of_authorization_is_replaced_or_kept(bundle_folder: Path, tmp_path: Path):
    web, header = Web(), tmp_path / "the-header"
    header.write_text("Bearer old")
    node = NodeProcess(
        bundle_folder, tmp_path / "data", web.url, "--ask", "liver", "--quiet", "0.2", "--return-auth", str(header)
    )  # fmt: skip
    try:
        wait_for(lambda: "serving model generation 1" in node.log)
        header.write_bytes(b"\xff")
        hang_up(node, "nothing was loaded again: the file of --return-auth cannot be read: it is no text")
        assert send(node.port, study()) == [0]
        wait_for(lambda: len(web.headers) == 1)
        header.write_text("Bearer new")
        hang_up(node, "bundle, rules, credentials and TLS were loaded again")
        assert send(node.port, study()) == [0]
        wait_for(lambda: len(web.headers) == 2)
        assert [headers["Authorization"] for headers in web.headers] == ["Bearer old", "Bearer new"]
        assert node.stop() == 0
    finally:
        node.kill()
        web.server.shutdown()
    assert "Bearer" not in node.log and "the-header" not in node.log


def test_rules_that_the_model_cannot_answer_change_nothing(tmp_path: Path):
    config = replace(fakes.CONFIG, modalities=("ct",))
    with running_node(tmp_path / "data", AWAY, make=lambda: fakes.fake_mimo(config=config)) as node:
        with pytest.raises(RequestError, match="not trained on MR"):
            node.reload([Rule("mr", "liver", modality=("MR",))])
        assert node.host.generation == 1 and node.rules[0].name == "liver" and node.is_ready


def test_a_series_that_waits_is_asked_what_the_new_rule_says(tmp_path: Path, archive: Archive):
    first, second = study(2)
    second.SeriesInstanceUID = generate_uid()
    models = [fakes.fake_mimo(), fakes.fake_mimo()]
    make = iter(models).__next__
    with running_node(tmp_path / "data", archive.peer, [Rule("a", "liver")], make) as node:
        with fakes.held(models[0], "mask_decoder") as begun:  # the first series is not answered before the rules are there
            assert send(node.receiver.port, [first, second]) == [0, 0]
            assert begun.wait(PATIENCE_S)
            node.reload([Rule("a", "spleen", ("sr",))])
        wait_for(lambda: node.ledger.counts()["delivered"] == 3)
    assert sorted(data.Modality for data in archive.received) == ["SEG", "SR", "SR", "SR"]  # the first with both rules


def test_the_next_connection_has_the_new_certificate(tmp_path: Path):
    cert, key = certificate(tmp_path)
    (tmp_path / "new").mkdir()
    new_cert, new_key = certificate(tmp_path / "new")
    old_client, new_client = (ssl.create_default_context(cafile=str(path)) for path in (cert, new_cert))
    with running_node(tmp_path / "data", AWAY, tls=Tls(cert, key)) as node:
        port = node.receiver.port
        assert echo_over_tls(port, old_client) and not echo_over_tls(port, new_client)
        shutil.copy(new_cert, cert)
        with pytest.raises(RequestError, match="TLS files cannot be used"):
            node.reload(node.rules)  # a certificate without its key
        assert node.host.generation == 1 and echo_over_tls(port, old_client)
        shutil.copy(new_key, key)
        node.reload(node.rules)
        assert echo_over_tls(port, new_client) and not echo_over_tls(port, old_client)


def test_a_bundle_that_fails_keeps_the_certificate(tmp_path: Path):
    cert, key = certificate(tmp_path)
    with running_node(tmp_path / "data", AWAY, tls=Tls(cert, key)) as node:
        client = ssl.create_default_context(cafile=str(cert))

        def refuse(path: Path, options: object) -> object:
            raise BundleError("the bundle is damaged", "Build it again")

        node.host._load = refuse
        (tmp_path / "new").mkdir()
        for new, old in zip(certificate(tmp_path / "new"), (cert, key)):
            shutil.copy(new, old)
        with pytest.raises(BundleError):
            node.reload([Rule("other", "liver")])
        assert echo_over_tls(node.receiver.port, client) and node.rules[0].name == "liver"


def test_a_node_whose_port_takes_no_connection_sends_no_watchdog_notification(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(node_module, "_SILENT_S", 0.5)
    with running_node(tmp_path / "data", AWAY) as node:
        wait_for(lambda: node.is_alive)
        BaseServer.shutdown(node.receiver._server)
        wait_for(lambda: not node.is_alive)
