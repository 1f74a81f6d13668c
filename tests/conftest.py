"""What every test shares. Fixtures of one package live in that package's folder."""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

# The same examples in every run; a search for new ones is `pytest --hypothesis-profile default`.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")

# What the tests of several packages import: fake libraries, small models, small data sets, cases.
SUPPORT = Path(__file__).parent / "support"
sys.path[:0] = [str(SUPPORT), *(str(SUPPORT / name) for name in ("fake_libraries", "models", "data_sets", "cases"))]

# Small models on few cores: more threads only wait for each other, and one thread gives the same sums every time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Nothing may reach for the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

#: Beginnings of the environment variables that a test must leave as they are. Libraries set others when they are imported.
_LOOKED_AT = ("MIMO_", "PYTHON", "PATH", "HOME", "TMPDIR", "XDG_", "OMP_")
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parents[1]


def _process_state() -> dict[str, object]:
    """What of the process a test may change, and what the tests after it would meet."""
    ours = logging.getLogger("mimo_runtime")
    variables = {name: value for name, value in os.environ.items() if name.startswith(_LOOKED_AT)}
    return {
        "the current folder": os.getcwd(), "the level of the root logger": logging.root.level,
        "logging.disable": logging.root.manager.disable,
        "the logger of the package": (ours.level, ours.propagate, ours.disabled),
        **{f"the variable {name}": value for name, value in variables.items()},
    }  # fmt: skip


@pytest.fixture(autouse=True)
def _process_is_left_as_it_was() -> Iterator[None]:
    """Random numbers are those of the test alone, and a test that changes its process for the others fails."""
    random.seed(0)
    np.random.seed(0)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(0)
        threads = torch.get_num_threads()
    before = _process_state()
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    yield
    for number, handler in handlers.items():  # a command installs its own, for the end of its process
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)
    if torch is not None and torch.get_num_threads() != threads:  # likewise, of --threads
        torch.set_num_threads(threads)
    after = _process_state()
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    if changed:
        os.chdir(str(before["the current folder"]))
        logging.root.setLevel(before["the level of the root logger"])
        logging.disable(before["logging.disable"])
        ours = logging.getLogger("mimo_runtime")
        ours.level, ours.propagate, ours.disabled = before["the logger of the package"]
        for name in changed:
            variable = name.removeprefix("the variable ")
            if variable != name:
                os.environ.pop(variable, None)
                if name in before:
                    os.environ[variable] = str(before[name])
        pytest.fail(f"the test changed {', '.join(changed)} for the tests after it. Use monkeypatch")


def _once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that one of the workers of this session makes, and that all of them read."""
    from filelock import FileLock  # comes with torch

    base = tmp_path_factory.getbasetemp()
    # A test that runs other tests in a process of its own gives them the folders of its session.
    shared = Path(
        os.environ.get("MIMO_TESTS_SHARED") or (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    )
    shared.mkdir(exist_ok=True)
    folder = shared / name
    with FileLock(shared / f"{name}.lock"):
        if not folder.exists():
            unfinished = shared / f"unfinished-{name}"
            make(unfinished)
            unfinished.rename(folder)
    return folder


@pytest.fixture(scope="session")
def micro_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest checkpoint with every part of the model, with random weights. Read only."""
    pytest.importorskip("torch")
    pytest.importorskip("onnx")
    from random_weights import write_checkpoint

    return _once(tmp_path_factory, "mimo-micro", write_checkpoint)


@pytest.fixture(scope="session")
def micro_bundle(micro_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that the exporter built from :func:`micro_checkpoint`. Takes half a minute, once a session. Read only."""
    from mimo_export.build import build

    return _once(tmp_path_factory, "micro-bundle", lambda folder: build(micro_checkpoint, folder, parity_samples=7))


@pytest.fixture(scope="session")
def tiny_bundle(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the shipped checkpoint. Takes a minute, once a session: for slow tests. Read only."""
    from mimo_export.build import build

    checkpoint = repository / "checkpoints/mimo-tiny"
    return _once(tmp_path_factory, "tiny-bundle", lambda folder: build(checkpoint, folder, parity_samples=2))
