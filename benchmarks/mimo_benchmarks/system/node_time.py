"""The way of a CT slice through the DICOM node: from its C-STORE until an archive has segmentation and report.

    python -m mimo_benchmarks.system.node_time BUNDLE --repeats 5

The archive is an Orthanc of this machine (Debian package ``orthanc``) with an empty folder of its own. The node is a process of
``mimo-run node``. Each slice is a phantom in a study of its own. The time has the quiet time of the node, after which a study
counts as complete.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, TypedDict, cast

import click
import numpy as np

from mimo_runtime.cli.app import Program
from mimo_runtime.cli.json_output import print_json
from mimo_runtime.errors import RequestError, VerificationError
from mimo_runtime.utils.tables import table

from ..dicom_slices import CT, ct_slice
from ..report import machine
from ..report.result import BenchmarkResult, Figure, closing_lines
from ..request import Request, make_request
from .measured_bundle import describe_bundle, distributions

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

#: Goal of the project: seconds from a slice to its stored results.
SECONDS = 10.0
#: Centre and width of the window that 8-bit phantoms are taken for.
_WINDOW = 40.0, 400.0
_POLL_S, _PATIENCE_S, _START_S = 0.02, 120.0, 120.0
_RESULTS = ["SEG", "SR"]


class NodeTime(TypedDict):
    """The details of the result. ``structures``: segments of the segmentation of each slice."""

    quiet_s: float
    seconds: list[float]
    structures: list[int]


class _Series(TypedDict):
    """What Orthanc says of a series."""

    MainDicomTags: dict[str, str]
    Instances: list[str]


class Archive:
    """Orthanc on free ports of this machine. Use it as a context.

    Args:
        folder: empty; for its configuration and storage.

    Raises:
        RequestError: Orthanc is not installed.
        VerificationError: it does not start.
    """

    def __init__(self, folder: Path) -> None:
        program = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
        if program is None:
            raise RequestError("Orthanc is not installed", "apt-get install orthanc")
        self.dicom, self._http = free_port(), free_port()
        content = {
            "StorageDirectory": str(folder), "IndexDirectory": str(folder), "HttpPort": self._http, "DicomPort": self.dicom,
            "DicomAet": "ORTHANC", "RemoteAccessAllowed": False, "AuthenticationEnabled": False, "Plugins": [],
            "DicomAlwaysAllowStore": True,
        }  # fmt: skip
        (folder / "orthanc.json").write_text(json.dumps(content))
        self._process = subprocess.Popen(
            [program, str(folder / "orthanc.json")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder, text=True
        )

    def __enter__(self) -> Archive:
        _wait(self._is_open, self._process, _START_S, "Orthanc did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60)

    def _is_open(self) -> bool:
        try:
            return bool(self._request("GET", "/system"))
        except OSError:
            return False

    def has_results(self, study: str) -> bool:
        """Whether segmentation and report of a study are stored."""
        return sorted(self._results(study)) == _RESULTS

    def _results(self, study: str) -> dict[str, str]:
        """Modality and identifier in Orthanc of the objects of a study."""
        query = {"Level": "Series", "Expand": True, "Query": {"StudyInstanceUID": study}}
        series = cast("list[_Series]", self._request("POST", "/tools/find", json.dumps(query).encode()))
        return {one["MainDicomTags"]["Modality"]: one["Instances"][0] for one in series if one["Instances"]}

    def segments(self, study: str) -> int:
        """Of the segmentation of a study."""
        instance = self._results(study)["SEG"]
        tags = cast("dict[str, list[object]]", self._request("GET", f"/instances/{instance}/simplified-tags"))
        return len(tags["SegmentSequence"])

    def _request(self, method: str, path: str, body: bytes | None = None) -> object:
        connection = http.client.HTTPConnection("127.0.0.1", self._http, timeout=60)
        try:
            connection.request(method, path, body)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


class Node:
    """``mimo-run node`` on a free port of this machine, when its model is ready. Use it as a context."""

    def __init__(self, bundle: Path, data: Path, archive: Archive, options: Sequence[str]) -> None:
        self.port, self._status = free_port(), free_port()
        command = [
            sys.executable, "-m", "mimo_runtime", "node", str(bundle), "--data", str(data), "--port", str(self.port),
            "--return-to", f"ORTHANC@127.0.0.1:{archive.dicom}", "--status-port", str(self._status), "--log-level", "error",
            *options,
        ]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def __enter__(self) -> Node:
        _wait(self._is_ready, self.process, _START_S, "the node did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.communicate(timeout=120)

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._status, timeout=10)
        try:
            connection.request("GET", "/ready")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def send(self, data: Dataset) -> None:
        """C-STORE, as a scanner does it. Raises VerificationError: the node refuses."""
        from pynetdicom import AE
        from pynetdicom.presentation import build_context

        entity = AE("SCANNER")
        association = entity.associate("127.0.0.1", self.port, [build_context(CT)], "MIMO")
        if not association.is_established:
            raise VerificationError("the node accepts no association", "Start mimo-run node yourself")
        status = association.send_c_store(data).get("Status")
        association.release()
        if status != 0:
            raise VerificationError(f"the node took the slice with status {status}", "Start mimo-run node yourself")


def free_port() -> int:
    """A port of this machine that is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(is_done: Callable[[], bool], process: subprocess.Popen[str], seconds: float, what: str) -> None:
    """Until ``is_done()``. Raises VerificationError: the process ended, or the time is over."""
    end = time.monotonic() + seconds
    while not is_done():
        if process.poll() is not None or time.monotonic() > end:
            error = process.stderr.read() if process.stderr is not None and process.poll() is not None else ""
            raise VerificationError(f"{what}: {error.strip()[-200:] or f'not within {seconds:g} s'}", "Start it yourself")
        time.sleep(_POLL_S)


def slice_of(request: Request) -> Dataset:
    """The phantom of a request as a CT slice of a study of its own."""
    centre, width = _WINDOW
    values = request.pixels[..., 0].astype(np.float32) / 255 * width + centre - width / 2
    return ct_slice(values, 0, f"2.25.{uuid.uuid4().int}")


@contextlib.contextmanager
def running(bundle: Path, options: Sequence[str]) -> Iterator[tuple[Archive, Node]]:
    """An archive, and a node that returns its results to it."""
    with tempfile.TemporaryDirectory(prefix="mimo-node-") as name:
        (Path(name) / "archive").mkdir()
        with Archive(Path(name) / "archive") as archive, Node(bundle, Path(name) / "data", archive, options) as node:
            yield archive, node


def measure(bundle: Path, text: str, repeats: int, quiet_s: float, threads: int | None) -> BenchmarkResult:
    """Send phantoms one after the other, each when the results of the one before are stored.

    Args:
        text: the question.
        quiet_s: seconds without news after which the node takes a study as complete.
        threads: of the node; None is one per core.

    Raises:
        RequestError, VerificationError: archive or node do not start, or no segmentation and report come.
    """
    from mimo_runtime.bundle.archive import Bundle

    opened = Bundle.open(bundle)
    described = machine.describe(distributions(opened), threads)
    options = ["--ask", text, "--quiet", str(quiet_s), *([] if threads is None else ["--threads", str(threads)])]
    seconds, structures = [], []
    with running(bundle, options) as (archive, node):
        for number in range(repeats):
            data = slice_of(make_request(seed=number))
            started = time.monotonic()
            node.send(data)
            stored = partial(archive.has_results, str(data.StudyInstanceUID))
            _wait(stored, node.process, _PATIENCE_S, "segmentation and report did not come")
            seconds.append(round(time.monotonic() - started, 3))
            structures.append(archive.segments(str(data.StudyInstanceUID)))
    machine.finish(described)
    figures = [
        Figure("seconds from slice to stored results, first", seconds[0], "s", "lower", SECONDS),
        Figure("seconds from slice to stored results, median", median(seconds), "s", "lower", SECONDS),
        Figure("seconds from slice to stored results, slowest", max(seconds), "s", "lower", SECONDS),
    ]
    details: NodeTime = {"quiet_s": quiet_s, "seconds": seconds, "structures": structures}
    return BenchmarkResult("node-time", describe_bundle(opened), described, figures, details)


@click.command(cls=Program)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--text", default="What do you see?", show_default=True, help="The question.")
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(1), help="Slices, one after the other.")
@click.option("--quiet", default=2.0, show_default=True, type=click.FloatRange(0.05), help="Quiet time of the node in seconds.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads per engine of the node. Default: its own.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(bundle: Path, text: str, repeats: int, quiet: float, threads: int | None, as_json: bool) -> None:
    """Time the way of a CT slice through the node, from C-STORE until Orthanc has segmentation and report."""
    result = measure(bundle, text, repeats, quiet, threads)
    if as_json:
        print_json(result.to_dict(), indent=1)
        return
    rows = [(figure.name, f"{figure.value:g} {figure.unit}", f"goal {figure.goal:g}") for figure in result.figures]
    rows.append(("quiet time of the node, within these", f"{quiet:g} s", ""))
    click.echo("\n".join([table(rows), *closing_lines(result)]))


if __name__ == "__main__":
    command.main(prog_name="python -m mimo_benchmarks.system.node_time")
