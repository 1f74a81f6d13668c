"""Writes a model repository for the Triton Inference Server.

::

    REPO/mimo.json                       what is in it
    REPO/mimo/config.pbtxt               the model that answers questions: Python backend
    REPO/mimo/1/model.py, bundle/        its program and the bundle
    REPO/mimo/warmup/                    a request that Triton sends before the model is ready
    REPO/mimo_vision_encoder/ …          each graph for the backend of a GPU (bundles for cuda and tensorrt)
"""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mimo_runtime.bundle.archive import SUFFIX, Bundle
from mimo_runtime.bundle.schema import MANIFEST
from mimo_runtime.bundle.signature import SIGNATURE
from mimo_runtime.errors import RequestError
from mimo_runtime.utils.atomic import atomic_folder

from .config import BUNDLE_FILE, BUNDLE_FOLDER, GRAPH_BACKENDS, MODEL, ServingOptions, graph_config, model_config

#: Every repository has it; only a folder that has it may be replaced.
MARKER = "mimo.json"
_WARMUP = {"text": "What is this?", "boxes": [[8, 8, 56, 56]]}


@dataclass(frozen=True)
class Repository:
    """What was written: names of models, and the engine of each graph that has no model of its own."""

    path: Path
    models: tuple[str, ...]
    left_out: dict[str, str]


def write_repository(bundle: Path, output: Path, options: ServingOptions, *, force: bool = False) -> Repository:
    """Write the repository of a bundle, in one step.

    Args:
        bundle: a folder or a ``.mimo`` file; it may be for another machine.
        output: the repository.
        options: how it serves.
        force: replace an earlier repository.

    Raises:
        BundleError: the bundle is missing or damaged.
        RequestError: the bundle is still to be compiled, an option is outside its range, or the output cannot be written.
    """
    opened = Bundle.open(bundle, this_machine=False)
    if opened.manifest.portable:
        raise RequestError("the bundle is still to be compiled", "Run mimo-run prepare on the server, and export its result")
    _check(options)
    gpu = opened.manifest.target != "cpu"
    graphs = opened.manifest.graphs if gpu else {}
    with_backend = {name: entry for name, entry in graphs.items() if entry.engine in GRAPH_BACKENDS}
    with atomic_folder(output, force, MARKER) as target:
        version = target / MODEL / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text((Path(__file__).parent / "backend_model.py").read_text("utf-8"), "utf-8")
        name = _copy_bundle(opened, bundle, version)
        (target / MODEL / "config.pbtxt").write_text(model_config(options, name, gpu=gpu), "utf-8")
        _write_warmup(target / MODEL / "warmup")
        for graph, entry in with_backend.items():
            folder = target / f"{MODEL}_{graph}"
            (folder / "1").mkdir(parents=True)
            (folder / "1" / GRAPH_BACKENDS[entry.engine][1]).write_bytes(opened.bytes(entry.file))
            (folder / "config.pbtxt").write_text(graph_config(folder.name, entry, options), "utf-8")
        models = (MODEL, *(f"{MODEL}_{graph}" for graph in with_backend))
        content = {"model": opened.manifest.model_id, "target": opened.manifest.target, "models": models}
        (target / MARKER).write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    left_out = {name: entry.engine for name, entry in graphs.items() if name not in with_backend}
    return Repository(output, models, left_out)


def _check(options: ServingOptions) -> None:
    for name, value, most in (
        ("--instances", options.instances, 256), ("--max-batch", options.max_batch, 1024), ("--callers", options.callers, 1024)
    ):  # fmt: skip
        if not 1 <= value <= most:
            raise RequestError(f"{name} is {value}", f"Use 1 to {most}")
    if options.python_env and not options.python_env.startswith(("/", "$$TRITON_MODEL_DIRECTORY/")):
        raise RequestError("--python-env is no absolute path", "Name the environment as the server sees it: /opt/mimo")


def _copy_bundle(opened: Bundle, bundle: Path, version: Path) -> str:
    """Copy the verified bundle into the version folder; its name there."""
    if bundle.name.endswith(SUFFIX) and bundle.is_file():
        shutil.copyfile(bundle, version / BUNDLE_FILE)
        return BUNDLE_FILE
    folder = version / BUNDLE_FOLDER
    for name in opened.names():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(opened.bytes(name))
    (folder / MANIFEST).write_bytes(opened.raw_manifest)
    if opened.signature is not None:
        shutil.copyfile(bundle / SIGNATURE, folder / SIGNATURE)
    return BUNDLE_FOLDER


def _write_warmup(folder: Path) -> None:
    """Inputs of the warm-up request. Triton reads a string as its length, 4 bytes in little-endian, and its bytes."""
    folder.mkdir()
    picture = io.BytesIO()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(picture, "PNG")
    for name, data in (("image", picture.getvalue()), ("request", json.dumps(_WARMUP).encode())):
        (folder / name).write_bytes(len(data).to_bytes(4, "little") + data)
