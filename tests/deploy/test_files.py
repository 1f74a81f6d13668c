"""The files of ``deploy/``: parsed, and held against the command line, the packages and the rules for containers and units."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from mimo_runtime.cli.commands import main

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
PINNED = re.compile(r"[\w./-]+:\d[\w.-]*")


def instructions() -> list[tuple[str, str]]:
    """Instruction and arguments of the lines of the Dockerfile."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text("utf-8"), flags=re.M).replace("\\\n", " ")
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


def check_command(arguments: list[str]) -> None:
    """``mimo-run`` reads these arguments; nothing is run."""
    name, *rest = arguments
    main.commands[name].make_context(name, rest)


def last_stage() -> list[tuple[str, str]]:
    lines = instructions()
    start = max(place for place, (name, _) in enumerate(lines) if name == "FROM")
    return lines[start:]


def test_the_image_runs_as_an_ordinary_user_and_knows_its_health() -> None:
    stage = dict(last_stage())
    user = stage["USER"].split(":")[0]
    assert user.isdecimal() and int(user) >= 1000
    assert stage["ENTRYPOINT"] == '["mimo-run"]'
    command = json.loads(stage["HEALTHCHECK"].split("CMD", 1)[1])
    compile(command[2], "health", "exec")
    assert "/ready" in command[2]


def test_base_images_are_pinned() -> None:
    lines = instructions()
    python = next(value for name, value in lines if name == "ARG").split("=")[1]
    images = [value.split()[0].replace("${PYTHON}", python) for name, value in lines if name == "FROM"]
    assert images and all(PINNED.fullmatch(image) for image in images)


def test_what_is_copied_exists_and_is_sent_to_the_builder(repository: Path) -> None:
    sent = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").split() if line.startswith("!")}
    copied = [
        source for name, value in instructions() if name == "COPY" and not value.startswith("--from")
        for source in value.split()[:-1]
    ]  # fmt: skip
    assert set(copied) == sent and all((repository / source).exists() for source in copied)


def test_the_image_installs_extras_that_exist(repository: Path) -> None:
    text = (repository / "pyproject.toml").read_text("utf-8")
    (extras,) = re.findall(r'"\.\[([\w,]+)\]"', (DEPLOY / "Dockerfile").read_text("utf-8"))
    assert all(re.search(rf"^{extra} = \[", text, re.M) for extra in extras.split(","))


def test_commands_of_the_comments_and_of_compose_are_read_by_the_command_line() -> None:
    yaml = pytest.importorskip("yaml")
    text = (DEPLOY / "Dockerfile").read_text("utf-8").replace("\\\n#", "")
    (line,) = re.findall(r"mimo-edge:0\.1\.0 (serve .*)", text)
    check_command(shlex.split(line))
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))["services"]
    check_command(services["page"]["command"])
    check_command(services["node"]["command"])


def test_services_of_compose_are_confined_and_reached_from_this_machine_only(repository: Path) -> None:
    yaml = pytest.importorskip("yaml")
    content = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
    for name, service in content["services"].items():
        assert PINNED.fullmatch(service["image"]), name
        assert "no-new-privileges:true" in service["security_opt"] and not service.get("privileged"), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        named = {volume.split(":")[0] for volume in service["volumes"] if not volume.startswith(".")}
        assert named <= set(content["volumes"]), name
    for name in ("page", "node"):
        service = content["services"][name]
        assert service["read_only"] and service["cap_drop"] == ["ALL"] and "/tmp" in service["tmpfs"]
        assert (DEPLOY / service["build"]["context"]).resolve() == repository
        assert (repository / service["build"]["dockerfile"]).is_file()


def test_archive_and_node_know_each_other() -> None:
    yaml = pytest.importorskip("yaml")
    archive = json.loads((DEPLOY / "orthanc.json").read_text("utf-8"))
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))["services"]
    command = services["node"]["command"]
    assert command[command.index("--return-to") + 1] == f"{archive['DicomAet']}@orthanc:{archive['DicomPort']}"
    assert command[command.index("--allow") + 1] == archive["DicomAet"]
    title, host, port = archive["DicomModalities"]["mimo"]
    options = {option.name: option.default for option in main.commands["node"].params}
    assert (title, host, port) == (options["aet"], "node", options["port"])


def option_of(command: str, name: str) -> object:
    """The default of an option of ``mimo-run``."""
    return {option.name: option.default for option in main.commands[command].params}[name]


def test_ports_of_the_image_are_those_of_its_programs() -> None:
    stage = dict(last_stage())
    ports = [option_of("serve", "port"), option_of("node", "port")]
    assert stage["EXPOSE"].split() == [str(port) for port in ports]
    assert f"127.0.0.1:{ports[0]}/ready" in stage["HEALTHCHECK"]


def test_ports_folders_and_times_of_compose_are_those_of_its_programs() -> None:
    yaml = pytest.importorskip("yaml")
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))["services"]
    archive = json.loads((DEPLOY / "orthanc.json").read_text("utf-8"))
    page, node, orthanc = (services[name] for name in ("page", "node", "orthanc"))
    assert page["ports"] == [f"127.0.0.1:8080:{option_of('serve', 'port')}"]
    assert orthanc["ports"] == [f"127.0.0.1:8042:{archive['HttpPort']}"]
    status = node["command"][node["command"].index("--status-port") + 1]
    assert f"127.0.0.1:{status}/ready" in node["healthcheck"]["test"][-1]
    targets = {name: [volume.split(":")[1] for volume in service["volumes"]] for name, service in services.items()}
    assert page["command"][1] in targets["page"] and node["command"][1] in targets["node"]
    assert node["command"][node["command"].index("--data") + 1] in targets["node"]
    assert orthanc["command"] == [targets["orthanc"][0]] and archive["StorageDirectory"] in targets["orthanc"]
    for service in (page, node):
        assert int(service["stop_grace_period"].removesuffix("s")) > max(option_of(name, "grace") for name in ("serve", "node"))
    assert set(node["depends_on"]) <= set(services)


def test_files_that_compose_mounts_lie_in_the_repository_or_are_made_by_the_demonstration(repository: Path) -> None:
    yaml = pytest.importorskip("yaml")
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))["services"]
    sources = {volume.split(":")[0] for service in services.values() for volume in service["volumes"]}
    paths = {(DEPLOY / source).resolve() for source in sources if source.startswith(".")}
    made = repository / "build" / "demo" / "bundle"
    assert made in paths and all(path == made or path.is_file() for path in paths)


UNITS = sorted(path.name for path in DEPLOY.glob("*.service"))


@pytest.mark.parametrize("name", UNITS)
def test_the_command_of_a_unit_is_read_by_the_command_line(name: str) -> None:
    text = (DEPLOY / name).read_text("utf-8").replace("\\\n", " ")
    (line,) = re.findall(r"^ExecStart=/opt/mimo/bin/mimo-run (.*)", text, re.M)
    for pair in " ".join(re.findall(r"^Environment=(.*)", text, re.M)).split():
        variable, value = pair.split("=")
        line = line.replace(f"${{{variable}}}", value)
    assert "$" not in line
    check_command(shlex.split(line))


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_is_reloaded_by_the_signal_that_its_program_takes(name: str) -> None:
    text = (DEPLOY / name).read_text("utf-8")
    assert "ExecReload=/bin/kill -HUP $MAINPID" in text and "Type=notify" in text and "WatchdogSec=" in text


@pytest.mark.parametrize("name", UNITS)
def test_systemd_waits_for_the_end_longer_than_the_program(name: str) -> None:
    text = (DEPLOY / name).read_text("utf-8").replace("\\\n", " ")
    (command,) = re.findall(r"^ExecStart=/opt/mimo/bin/mimo-run (\w+)", text, re.M)
    assert int(re.findall(r"^TimeoutStopSec=(\d+)", text, re.M)[0]) > option_of(command, "grace")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
@pytest.mark.parametrize("name", UNITS)
def test_systemd_accepts_a_unit_and_rates_it_as_confined(name: str, tmp_path: Path) -> None:
    text = (DEPLOY / name).read_text("utf-8")
    unit = tmp_path / name
    unit.write_text(text.replace("/opt/mimo/bin/mimo-run", shutil.which("true") or "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    problems = [line for line in done.stderr.splitlines() if unit.stem in line]
    assert done.returncode == 0 and not problems, done.stderr
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=25", unit], capture_output=True, text=True
    )
    assert rated.returncode == 0, rated.stdout[-600:] + rated.stderr
