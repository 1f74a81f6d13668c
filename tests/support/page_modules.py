"""The modules of the page without a service, as files side by side, and run by Node.js."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mimo_export.web.site import page_modules
from mimo_runtime.services.http.page.files import site_files

PROGRAM = shutil.which("node")
_SCRIPT = """
import { readFileSync } from "node:fs";
const [m, v] = [await import(process.argv[1]), JSON.parse(readFileSync(0))];
const plain = (key, value) => (ArrayBuffer.isView(value) ? Array.from(value) : value instanceof Map ? [...value] : value);
console.log(JSON.stringify(await (CODE), plain));
"""


def write_modules(folder: Path) -> Path:
    """The modules of the page of the service and those beside them, as a site has them."""
    served = {name.removeprefix("page/"): source for name, source in site_files().items() if name.endswith(".js")}
    for name, source in {**served, **page_modules()}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(source.read_bytes())
    return folder


class Node:
    """Runs expressions over the exports of a module. Skips the test where Node.js is missing."""

    def __init__(self, folder: Path) -> None:
        if PROGRAM is None:
            pytest.skip("no Node.js is installed (apt-get install nodejs)")
        self.folder = write_modules(folder)
        (self.folder / "package.json").write_text('{"type": "module"}')

    def call(self, module: str, code: str, **values: object) -> object:
        """The result of an expression over the exports ``m`` of a module and the values ``v``; arrays of numpy become lists."""
        address = (self.folder / f"{module}.js").as_uri()
        command = [str(PROGRAM), "--input-type=module", "-e", _SCRIPT.replace("CODE", code), address]
        outcome = subprocess.run(command, input=json.dumps(values, default=_plain), capture_output=True, text=True, timeout=300)
        assert outcome.returncode == 0, outcome.stderr[-2000:]
        return json.loads(outcome.stdout)


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray):
        return value.astype(np.uint8 if value.dtype == bool else value.dtype).reshape(-1).tolist()
    if isinstance(value, (np.floating, np.integer)):
        return value.item()
    raise TypeError(f"no JSON for {type(value).__name__}")
