"""A study of SECRET^NAME through the service at the most talkative level: no log names it, and nothing stays on disk."""

from __future__ import annotations

import base64
import json
import os
import sys
import textwrap
from pathlib import Path

import pytest

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("highdicom")
pytest.importorskip("uvicorn")
import served_process  # noqa: E402
from dicom_series import write_ct_series  # noqa: E402

#: Every logger at DEBUG, all warnings, and pydicom's own debugging.
PROGRAM = """
    import logging, sys, warnings
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    warnings.simplefilter("always")
    import pydicom
    pydicom.config.debug(True)
    from mimo_runtime.cli.commands import main
    main(sys.argv[1:])
"""


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_no_log_names_the_patient_and_no_file_stays(bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (source,) = write_ct_series(tmp_path / "study", slices=1)
    data = source.read_bytes()
    damaged = [data[: len(data) // 2], data[:-900], data.replace(b"MONOCHROME2", b"SECRETSECRE")]
    places = {name: tmp_path / name for name in ("home", "tmp", "cwd")}
    for place in places.values():
        place.mkdir()
    environment = {**os.environ, "HOME": str(places["home"]), "TMPDIR": str(places["tmp"])}
    start = served_process.subprocess.Popen

    def at_debug(command, **options):
        return start([sys.executable, "-c", textwrap.dedent(PROGRAM), *command[3:]], **options)

    monkeypatch.setattr(served_process.subprocess, "Popen", at_debug)
    server = served_process.Process(bundle_folder, "--log-level", "debug", cwd=places["cwd"], environment=environment)
    try:
        server.wait_ready()
        replies = [
            server.request("POST", "/v1/images", content, Content_Type="application/dicom") for content in (data, *damaged)
        ]
        assert replies[0][0] == 201 and {status for status, _ in replies[1:]} <= {201, 422}
        image = replies[0][1]["id"]
        replies.append(server.ask(image, text="Where is the polyp of SECRET^NAME?", boxes=[]))
        replies.append(server.ask(image, text="SECRET^NAME", boxes=[]))
        replies.append(server.ask("SECRET^NAME"))
        replies.append(server.request("GET", "/v1/images/SECRET%5eNAME?frame=SECRET"))
        replies.append(server.request("GET", "/SECRET%5eNAME", X_Request_ID="SECRET^NAME", User_Agent="SECRET^NAME"))
        replies.append(server.request("POST", "/v1/ask", b'{"SECRET^NAME": 1}', Content_Type="application/json"))
        form = b'--limit\r\nContent-Disposition: form-data; name="image"; filename="SECRET^NAME.dcm"\r\n\r\n' + data
        form += b'\r\n--limit\r\nContent-Disposition: form-data; name="request"\r\n\r\n{"text": "polyp"}\r\n--limit--\r\n'
        replies.append(server.request("POST", "/v1/ask", form, Content_Type="multipart/form-data; boundary=limit"))
        assert replies[-1][0] == 200, replies[-1]
        url = "data:application/dicom;base64," + base64.b64encode(data).decode()
        parts = [{"type": "text", "text": "polyp"}, {"type": "image_url", "image_url": {"url": url}}]
        chat = json.dumps({"messages": [{"role": "user", "content": parts}], "user": "SECRET^NAME"}).encode()
        replies.append(server.request("POST", "/v1/chat/completions", chat, Content_Type="application/json"))
        assert replies[-1][0] == 200, replies[-1]
        status, answer = server.ask(image, objects=["seg", "sr"], boxes=[[5, 5, 30, 30]])
        assert status == 200, answer
        metrics = server.request("GET", "/metrics")[1]["text"]
        assert not [name for place in places.values() for name in files_in(place)]
        assert server.stop() == 0
    finally:
        server.kill()
    for _, content in replies:
        refusal = json.dumps(content.get("error", ""))
        assert "SECRET" not in refusal.replace("no field 'SECRET^NAME'", ""), refusal
    assert "SECRET" not in server.log and "SECRET" not in metrics
    assert "Traceback" not in server.log
    segmentation = pydicom.dcmread(pydicom.filebase.DicomBytesIO(base64.b64decode(answer["objects"]["files"]["seg.dcm"])))
    assert segmentation.SOPClassUID == pydicom.uid.SegmentationStorage and str(segmentation.PatientName) == "SECRET^NAME"
    assert not [path for place in places.values() for path in place.iterdir()]
