"""DICOM nodes for tests: senders and receivers in the process, the process of ``mimo-run node``, and an Orthanc."""

from __future__ import annotations

import base64
import contextlib
import datetime
import http.client
import json
import shutil
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import fakes
import pytest
import served
from dicom_series import as_bytes, ball, ct_slice
from ports import free_port
from waiting import PATIENCE_S, wait_for

pytest.importorskip("pynetdicom")
from pydicom.dataset import Dataset  # noqa: E402
from pydicom.uid import generate_uid  # noqa: E402
from pynetdicom import AE, evt  # noqa: E402
from pynetdicom.presentation import build_context  # noqa: E402

from mimo_runtime.pipeline import Mimo  # noqa: E402
from mimo_runtime.services.dicom_node import node as node_module  # noqa: E402
from mimo_runtime.services.dicom_node.network.contexts import COMMITMENT, LABEL_MAP, storage_classes  # noqa: E402
from mimo_runtime.services.dicom_node.node import Node  # noqa: E402
from mimo_runtime.services.dicom_node.rules import Rule  # noqa: E402
from mimo_runtime.services.dicom_node.settings import NodeSettings, Peer, WebStore  # noqa: E402

LIVER = Rule("liver", "liver")
#: A receiver that is not there.
AWAY = Peer("AWAY", "127.0.0.1", 9)
SEG, SR = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.33"


def study(slices: int = 1, **elements: Any) -> list[Dataset]:
    """CT slices of a new study of one series."""
    values, _ = ball(max(slices, 2))
    uids = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid(), "FrameOfReferenceUID": generate_uid()}
    made = []
    for k in range(slices):
        data = ct_slice(k + 1, values[k], (0.0, 0.0, 2.0 * k), **{**uids, "SOPInstanceUID": generate_uid(), **elements})
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
        made.append(data)
    return made


def send(
    port: int, objects: Sequence[Dataset], caller: str = "PACS", called: str = "MIMO", tls: tuple[Any, str] | None = None
) -> list[int | None]:  # fmt: skip
    """C-STORE; the status of each object, None without a response."""
    entity = AE(caller)
    wanted = {(str(o.SOPClassUID), str(o.file_meta.TransferSyntaxUID)) for o in objects}
    association = entity.associate("127.0.0.1", port, [build_context(*pair) for pair in sorted(wanted)], called, tls_args=tls)
    if not association.is_established:
        return [None] * len(objects)
    statuses = [association.send_c_store(data).get("Status") for data in objects]
    association.release()
    return statuses


def echo_over_tls(port: int, context: ssl.SSLContext) -> bool:
    """Whether a node answers C-ECHO over TLS."""
    entity = AE("PACS")
    entity.acse_timeout = entity.connection_timeout = PATIENCE_S
    entity.add_requested_context("1.2.840.10008.1.1")
    association = entity.associate("127.0.0.1", port, ae_title="MIMO", tls_args=(context, "localhost"))
    if not association.is_established:
        return False
    status = association.send_c_echo()
    association.release()
    return status.get("Status") == 0


class Archive:
    """A receiver in this process.

    Attributes:
        received: objects in the order of their arrival, repeated ones, too.
        status: that it answers.
        reports: reports about storage commitment that it got: type of event and content.
    """

    def __init__(
        self, status: int = 0, commits: Sequence[bool] = (), node: Callable[[], int] | None = None, tls: Any = None,
        reports_at_once: bool = False,
    ) -> None:  # fmt: skip
        self.received: list[Dataset] = []
        self.reports: list[tuple[int, Dataset]] = []
        self.requests = 0
        self.status, self.commits, self.node = status, list(commits), node
        self.reports_at_once = reports_at_once  # on the association of the request
        self.entity = AE("ARCHIVE")
        for uid in (*storage_classes(), LABEL_MAP):
            self.entity.add_supported_context(uid)
        self.entity.add_supported_context(COMMITMENT, scu_role=True, scp_role=True)
        handlers = [
            (evt.EVT_C_STORE, self._store), (evt.EVT_N_ACTION, self._action), (evt.EVT_N_EVENT_REPORT, self._report),
        ]  # fmt: skip
        self.server = self.entity.start_server(("127.0.0.1", 0), block=False, ssl_context=tls, evt_handlers=handlers)
        self.peer = Peer("ARCHIVE", "127.0.0.1", self.server.server_address[1])

    def _store(self, event: Any) -> int:
        if self.status == 0:
            data = event.dataset
            data.file_meta = event.file_meta
            self.received.append(data)
        return self.status

    def _action(self, event: Any) -> tuple[int, None]:
        self.requests += 1
        succeeds = self.commits.pop(0) if self.commits else True
        association = event.assoc if self.reports_at_once else None
        threading.Thread(target=self._commit, args=(event.action_information, succeeds, association)).start()
        return 0, None

    def _commit(self, request: Dataset, succeeds: bool, association: Any) -> None:
        from pynetdicom import build_role

        report, items = Dataset(), list(request.ReferencedSOPSequence)
        report.TransactionUID = request.TransactionUID
        kept, lost = (items, []) if succeeds else (items[1:], items[:1])
        if kept:
            report.ReferencedSOPSequence = kept
        if lost:
            lost[0].FailureReason = 0x0112
            report.FailedSOPSequence = lost
        if association is None:
            assert self.node is not None
            association = AE("ARCHIVE").associate(
                "127.0.0.1", self.node(), [build_context(COMMITMENT)], "MIMO", ext_neg=[build_role(COMMITMENT, scp_role=True)]
            )
        # On the association of the request, it waits until the response to that is sent.
        status, _ = association.send_n_event_report(report, 1 if succeeds else 2, COMMITMENT, "1.2.840.10008.1.20.1.1")
        assert status.Status == 0
        if not self.reports_at_once:
            association.release()

    def _report(self, event: Any) -> tuple[int, None]:
        self.reports.append((event.event_type, event.event_information))
        return 0, None

    def of(self, modality: str) -> list[Dataset]:
        return [data for data in self.received if data.Modality == modality]

    def close(self) -> None:
        self.entity.shutdown()


@contextlib.contextmanager
def running_node(
    folder: Path,
    return_to: Peer | WebStore,
    rules: Sequence[Rule] = (LIVER,),
    make: Callable[[], Mimo] = fakes.fake_mimo,
    before: Callable[[Node], object] = bool,
    **settings: Any,
) -> Iterator[Node]:
    """A node over the numpy fakes, whose model is ready; ``before`` is called before its start."""
    defaults: dict[str, Any] = {
        "port": 0, "quiet_s": 0.2, "min_free": 0, "retry_s": 0.05, "grace_s": 20.0, "status_port": 0
    }  # fmt: skip
    node = Node(served.host_of(make), rules, NodeSettings(folder, return_to, **{**defaults, **settings}))
    before(node)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node_module, "_SLEEP_S", 0.1)  # between two looks at the queue
        patch.setattr(node_module, "_SWEEP_S", 0.1)
        node.start()
        try:
            wait_for(lambda: node.host.generation or node.problem)
            yield node
        finally:
            node.stop()


class NodeProcess:
    """``mimo-run node`` with the small bundle; ``log`` is its standard error."""

    def __init__(
        self, bundle: Path, data: Path, return_to: str, *options: str, port: int = 0, environment: dict[str, str] | None = None
    ) -> None:  # fmt: skip
        command = [
            sys.executable, "-m", "mimo_runtime", "node", str(bundle), "--data", str(data), "--return-to", return_to,
            "--port", str(port), "--min-free", "0", *options,
        ]  # fmt: skip
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )  # fmt: skip
        line = self.process.stdout.readline()
        assert line.startswith("listening as "), line + self.process.stderr.read()
        self.port = int(line.rpartition(":")[2])
        self.status_port = int(self.process.stdout.readline().rpartition(":")[2]) if "--status-port" in options else 0
        self.lines: list[str] = []
        threading.Thread(target=lambda: self.lines.extend(self.process.stderr), daemon=True).start()

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def metric(self, name: str) -> float:
        """The value of a line of ``/metrics``; 0 where it is not there."""
        connection = http.client.HTTPConnection("127.0.0.1", self.status_port, timeout=PATIENCE_S)
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
        connection.close()
        return next((float(line.split()[-1]) for line in lines if line.startswith(f"{name} ")), 0.0)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE_S)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)


class Orthanc:
    """A process of the Debian package ``orthanc`` with a configuration and a storage of its own.

    Args:
        node_port: of the modality "mimo".
        lua: script that it runs.
        user: name and password, ``NAME:PASSWORD``, that it asks for over HTTP; "" answers everybody.
    """

    def __init__(self, folder: Path, node_port: int, lua: str = "", user: str = "") -> None:
        program = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
        if program is None:
            pytest.skip("orthanc is not installed (apt-get install orthanc)")
        self.http, self.dicom, self.node_port = free_port(), free_port(), node_port
        plugin = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
        self.has_dicomweb = plugin.exists()
        modality = {"AET": "MIMO", "Host": "127.0.0.1", "Port": node_port, "AllowStorageCommitment": True}
        content = {
            "Name": "test", "StorageDirectory": str(folder / "storage"), "IndexDirectory": str(folder / "storage"),
            "HttpPort": self.http, "DicomPort": self.dicom, "DicomAet": "ORTHANC", "RemoteAccessAllowed": False,
            "AuthenticationEnabled": bool(user), "StableAge": 1, "DicomModalities": {"mimo": modality},
            "Plugins": [str(plugin)] if self.has_dicomweb else [], "DicomWeb": {"Enable": True},
            "DicomCheckModalityHost": False, "DicomAlwaysAllowStore": True,
        }  # fmt: skip
        self.authorization = f"Basic {base64.b64encode(user.encode()).decode()}" if user else ""
        if user:
            content["RegisteredUsers"] = dict([user.split(":")])
        if lua:
            (folder / "script.lua").write_text(lua)
            content["LuaScripts"] = [str(folder / "script.lua")]
        (folder / "orthanc.json").write_text(json.dumps(content))
        with (folder / "orthanc.log").open("wb") as log:
            command = [program, str(folder / "orthanc.json")]
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
        wait_for(self._answers)

    @property
    def web(self) -> str:
        """Address of DICOMweb. Skips the test where Orthanc has no plugin for it."""
        if not self.has_dicomweb:
            pytest.skip("the DICOMweb plugin of Orthanc is not installed (apt-get install orthanc-dicomweb)")
        return f"http://127.0.0.1:{self.http}/dicom-web"

    @property
    def peer(self) -> str:
        return f"ORTHANC@127.0.0.1:{self.dicom}"

    def _answers(self) -> bool:
        assert self.process.poll() is None, "Orthanc ended"
        try:
            return bool(self.get("/system"))
        except OSError:
            return False

    def request(self, method: str, path: str, body: bytes | None = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.http, timeout=PATIENCE_S)
        connection.request(method, path, body, {"Authorization": self.authorization} if self.authorization else {})
        reply = connection.getresponse()
        content = reply.read()
        connection.close()
        assert reply.status == 200, (reply.status, content[:300])
        return json.loads(content)

    def get(self, path: str) -> Any:
        return self.request("GET", path)

    def upload(self, objects: Sequence[Dataset]) -> str:
        """Put objects into it; returns its name of their study."""
        return [self.request("POST", "/instances", as_bytes(data))["ParentStudy"] for data in objects][0]

    def instances(self, modality: str) -> list[dict[str, Any]]:
        """Stored objects of a modality, with their tags."""
        query = {"Level": "Instance", "Expand": True, "Query": {"Modality": modality}}
        return self.request("POST", "/tools/find", json.dumps(query).encode())

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(PATIENCE_S)


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of "localhost" that signs itself, and its key."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return cert_file, key_file
