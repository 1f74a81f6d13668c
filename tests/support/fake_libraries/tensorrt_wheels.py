"""The real Python bindings of TensorRT, loaded without TensorRT: wheels from the index, against libraries that do nothing.

    python tests/support/fake_libraries/tensorrt_wheels.py            # compares releases with tensorrt_api.json, builds
    python tests/support/fake_libraries/tensorrt_wheels.py --write    # writes tensorrt_api.json

The bindings need nine functions of three libraries; with those they import, and every class can be looked at. Nothing computes.
Wheels, their content and the stubs are kept in build/tensorrt-bindings/.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[2] / "build" / "tensorrt-bindings"

#: Release: distribution, version on the index, and the newest Python that it has a wheel for.
WHEELS = {
    "10.3.0": ("tensorrt-cu12-bindings", "10.3.0", (3, 12)),
    "10.16.1.11": ("tensorrt-cu12-bindings", "10.16.1.11", (3, 13)),
    "11.4.0.106": ("tensorrt-cu13-bindings", "11.4.0.106", (3, 13)),
}
FUNCTIONS = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry", "getNvOnnxParserVersion",
    "getPluginRegistry", "initLibNvInferPlugins",
)  # fmt: skip
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")


class Unavailable(Exception):
    """Why the bindings of a release cannot be looked at here."""


def unpacked(release: str) -> Path:
    """The folder with the bindings of a release; downloads them once (about 1.3 MB).

    Raises:
        Unavailable: no wheel for this Python or platform, or the index cannot be reached.
    """
    distribution, version, newest = WHEELS[release]
    if not (sys.platform == "linux" and os.uname().machine == "x86_64"):
        raise Unavailable(f"the stub libraries are made for Linux on x86-64, this is {sys.platform}")
    if sys.version_info[:2] > newest:
        raise Unavailable(f"{distribution} {version} has no wheel for Python {sys.version_info[0]}.{sys.version_info[1]}")
    folder = CACHE / f"{distribution}-{version}-cp{sys.version_info[0]}{sys.version_info[1]}"
    if not (folder / "tensorrt_bindings" / "__init__.py").is_file():
        wheels = CACHE / "wheels"
        wheels.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += [
            "--only-binary",
            ":all:",
            "--retries",
            "0",
            "--timeout",
            "5",
            "-d",
            str(wheels),
            f"{distribution}=={version}",
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        except subprocess.TimeoutExpired:
            raise Unavailable("the package index does not answer") from None
        found = sorted(
            wheels.glob(f"{distribution.replace('-', '_')}-{version}-cp{sys.version_info[0]}{sys.version_info[1]}-*")
        )
        if done.returncode or not found:
            raise Unavailable(f"pip finds no {distribution} {version}: the index cannot be reached, or lacks it")
        partial = folder.with_name(f".{folder.name}.{os.getpid()}")
        with zipfile.ZipFile(found[0]) as wheel:
            wheel.extractall(partial)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    return folder


def stubs(major: str) -> Path:
    """The folder with the three libraries of a major version.

    Raises:
        Unavailable: there is no C compiler.
    """
    folder = CACHE / f"stubs-{major}"
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise Unavailable("there is no C compiler, which makes the stub libraries")
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "stub.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS), "utf-8")
    for name in LIBRARIES:
        library = f"lib{name}.so.{major}"
        if not (folder / library).is_file():
            target = folder / f".{library}.{os.getpid()}"
            command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", str(target), str(source)]
            subprocess.run(command, check=True, capture_output=True, timeout=300)
            target.rename(folder / library)
    return folder


def probe(release: str, work: Path) -> dict[str, Any]:
    """Import the bindings of a release in a process of their own and run the builder against them.

    Returns:
        ``surface`` as in ``tensorrt_api.json``, ``version``, and ``problems`` that the builder has with them.

    Raises:
        Unavailable: see above.
    """
    bindings, libraries = unpacked(release), stubs(release.split(".")[0])
    environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries)}
    environment["PYTHONPATH"] = os.pathsep.join([str(bindings), str(HERE), *filter(None, sys.path)])
    command = [sys.executable, str(HERE / "tensorrt_wheels.py"), "--probe", str(work)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise RuntimeError(f"TensorRT {release}: {done.stderr}")
    return json.loads(done.stdout)


def surface(trt: Any) -> dict[str, Any]:
    """The API of loaded bindings: attributes of classes with the arguments that they take, and members of enums."""
    import tensorrt_fake

    classes = {}
    for name in tensorrt_fake.CLASSES:
        kind = getattr(trt, name)
        names = [n for n in dir(kind) if not n.startswith("_")] + ["__init__"]
        classes[name] = {n: arguments(getattr(kind, n)) for n in names}
    enums = {name: {n: int(v) for n, v in getattr(trt, name).__members__.items()} for name in tensorrt_fake.ENUMS}
    return {"classes": classes, "enums": enums}


def arguments(attribute: Any) -> list[int] | None:
    """The fewest and most arguments of a method over its overloads, from its docstring; None if it does not tell."""
    counts = []
    for line in (getattr(attribute, "__doc__", None) or "").splitlines() if callable(attribute) else ():
        found = re.match(r"(?:\d+\. )?\w+\(self: [\w.]+(?:, )?(.*)\)(?: ->|$)", line)
        if found:
            # Brackets of types and defaults hold commas of their own.
            flat = found[1]
            while flat != (flat := re.sub(r"\[[^\[\]]*\]|\([^()]*\)|<[^<>]*>", "", flat)):
                pass
            given = [one for one in flat.split(",") if one.strip()]
            counts.append((sum("=" not in one for one in given), len(given)))
    return [min(low for low, _ in counts), max(high for _, high in counts)] if counts else None


def _probe_here(work: Path) -> None:
    import tensorrt_bindings as trt
    import tensorrt_fake

    found = surface(trt)
    fake = tensorrt_fake.Fake(trt.__version__, found, real=trt)
    print(json.dumps({"version": trt.__version__, "surface": found, "problems": tensorrt_fake.exercise(fake, work)}))


def _write(found: dict[str, Any], path: Path) -> None:
    """One class per line, so that changes can be read."""
    releases = []
    for release, parts in found.items():
        groups = []
        for group, entries in parts.items():
            lines = ",\n".join(
                f"   {json.dumps(name)}: {json.dumps(entries[name], sort_keys=True)}" for name in sorted(entries)
            )
            groups.append(f"  {json.dumps(group)}: {{\n{lines}\n  }}")
        releases.append(f" {json.dumps(release)}: {{\n" + ",\n".join(groups) + "\n }")
    path.write_text("{\n" + ",\n".join(releases) + "\n}\n", "utf-8")


def main() -> int:
    import tempfile

    import tensorrt_fake

    found, failed = {}, False
    for release in WHEELS:
        with tempfile.TemporaryDirectory() as work:
            result = probe(release, Path(work))
        found[release] = result["surface"]
        print(release, "problems:", result["problems"] or "none")
        failed |= bool(result["problems"])
    if "--write" in sys.argv:
        _write(found, tensorrt_fake.INVENTORY)
    elif found != tensorrt_fake.inventory():
        print(f"{tensorrt_fake.INVENTORY.name} is not what the bindings have: run this with --write")
        failed = True
    return int(failed)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--probe"]:
        _probe_here(Path(sys.argv[2]))
    else:
        sys.exit(main())
