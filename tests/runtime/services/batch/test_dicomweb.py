"""A batch over a DICOMweb query, with the client of the extra ``batch`` and a server in the test."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner

from mimo_runtime.cli.commands import main
from mimo_runtime.errors import RequestError
from mimo_runtime.services.batch.dicomweb import web_source

pytest.importorskip("dicomweb_client")
pydicom = pytest.importorskip("pydicom")
pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)
TOKEN = "a-token-of-the-server"


class Archive(ThreadingHTTPServer):
    """QIDO-RS and WADO-RS over a folder of DICOM files. ``broken``: UIDs that it does not send."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID): path for path in folder.iterdir()}
        self.broken: set[str] = set()
        self.retrieved: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/dicom-web"


class Handler(BaseHTTPRequestHandler):
    server: Archive

    def do_GET(self) -> None:  # noqa: N802 - of the base class
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self.send_error(401)
        elif parts.path == "/dicom-web/instances":
            assert query["Modality"] == ["CT"]
            offset, limit = (int(query.get(name, [default])[0]) for name, default in (("offset", "0"), ("limit", "500")))
            self.reply(json.dumps(self.rows()[offset : offset + limit]).encode(), "application/dicom+json")
        else:
            uid = parts.path.rsplit("/", 1)[1]
            self.server.retrieved.append(uid)
            if uid in self.server.broken:
                self.send_error(404)
                return
            content = self.server.files[uid].read_bytes()
            body = b"--X\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n--X--\r\n"
            self.reply(body, 'multipart/related; type="application/dicom"; boundary=X')

    def rows(self) -> list[dict[str, object]]:
        rows = []
        for path in reversed(list(self.server.files.values())):
            data = pydicom.dcmread(path, stop_before_pixels=True)
            kept = pydicom.Dataset()
            for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "InstanceNumber"):
                setattr(kept, name, data.get(name))
            rows.append(kept.to_json_dict())
        return rows

    def reply(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    from dicom_series import write_ct_series

    write_ct_series(tmp_path / "study", slices=3)
    server = Archive(tmp_path / "study")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_query_is_answered_and_resumed_without_another_retrieval(
    archive: Archive, bundle_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    arguments = ["batch", str(bundle_folder), f"{archive.address}?Modality=CT", "--token-file", str(tmp_path / "token"),
                 "--text", "polyp", "-o", str(tmp_path / "out"), "--json"]  # fmt: skip
    lost = sorted(archive.files)[0]
    archive.broken = {lost}
    first = CliRunner().invoke(main, arguments)
    assert first.exit_code == 3, first.output
    report = json.loads(first.stdout)
    assert (report["answered"], len(report["failures"])) == (2, 1)
    assert "cannot be retrieved: status 404" in report["failures"][0]["reason"]
    archive.broken, archive.retrieved = set(), []
    second = CliRunner().invoke(main, arguments)
    assert second.exit_code == 0, second.output
    assert archive.retrieved == [lost]
    assert json.loads(second.stdout)["resumed"] == 2


def test_a_server_that_refuses_is_named_without_its_query(archive: Archive, bundle_folder: Path, tmp_path: Path) -> None:
    address = f"{archive.address}?PatientName=SECRET"
    result = CliRunner().invoke(main, ["batch", str(bundle_folder), address, "--text", "polyp", "-o", str(tmp_path / "out")])
    assert "the query of the DICOMweb server failed: status 401" in str(result.exception) + result.output
    assert "SECRET" not in str(result.exception) + result.output


@pytest.mark.parametrize(
    "address, token",
    [
        ("https://user:password@pacs.example/dicom-web", ""),
        ("http://pacs.example/dicom-web", TOKEN),
        ("ftp://pacs.example", ""),
    ],
)
def test_an_address_that_would_show_a_secret_is_refused(address: str, token: str) -> None:
    with pytest.raises(RequestError):
        web_source(address, token)
