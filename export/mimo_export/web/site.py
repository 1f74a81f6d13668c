"""``mimo-export web``: the page of the service as a static folder, with the graphs of a bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.errors import RequestError
from mimo_runtime.pipeline import Mimo
from mimo_runtime.services.http.page.files import POLICY, site_files
from mimo_runtime.utils.atomic import atomic_folder

from .facts import GRAPHS, facts_of
from .facts_numeric import domain_bytes
from .library import LIBRARIES, library_files

#: Only a folder that has it may be replaced.
MARKER = "page/site.json"
_OWN = Path(__file__).parent / "page"


def write_site(
    bundle_path: Path, output: Path, libraries: Mapping[str, Path | None] | None = None, overwrite: bool = False
) -> int:
    """Write the folder.

    Args:
        bundle_path: a bundle for the CPU.
        output: the folder.
        libraries: unpacked npm packages by name; the pinned releases of the others are downloaded.
        overwrite: replace an earlier site.

    Returns:
        Bytes of all files.

    Raises:
        RequestError: the bundle has no ONNX graphs for a CPU, or has no golden samples; see also ``library_files``.
        BundleError: it is damaged.
    """
    bundle = Bundle.open(bundle_path)
    graphs = {name: bundle.manifest.graphs[name] for name in GRAPHS}
    if bundle.manifest.target != "cpu" or not all(entry.file.endswith(".onnx") for entry in graphs.values()):
        raise RequestError(
            "the browser runs only ONNX graphs for the CPU", "Name a bundle that mimo-export build --target cpu wrote"
        )
    with atomic_folder(output, overwrite, MARKER) as folder:
        for name in ("page", "graphs", *(library.name for library in LIBRARIES)):
            (folder / name).mkdir()
        with Mimo.load(bundle) as mimo:
            facts = facts_of(bundle, mimo)
            if mimo.domain is not None:
                (folder / "page/domain.bin").write_bytes(domain_bytes(mimo.domain))
        for name, source in site_files().items():
            (folder / name).write_bytes(source.read_bytes())
        for name, source in page_modules().items():
            (folder / "page" / name).parent.mkdir(exist_ok=True)
            (folder / "page" / name).write_bytes(source.read_bytes())
        _edit_index(folder / "index.html")
        for name, entry in graphs.items():
            (folder / "graphs" / f"{name}.onnx").write_bytes(bundle.bytes(entry.file))
        for library in LIBRARIES:
            for name, data in library_files(library, (libraries or {}).get(library.name)).items():
                (folder / library.name / name).write_bytes(data)
            (folder / library.name / "NOTICE").write_text(library.notice, "utf-8")
        (folder / MARKER).write_text(json.dumps(facts, separators=(",", ":")), "utf-8")
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def page_modules() -> dict[str, Path]:
    """The modules of the page that are its own, by their path below ``page``."""
    return {path.relative_to(_OWN).as_posix(): path for path in sorted(_OWN.rglob("*.js"))}


def _edit_index(index: Path) -> None:
    """State the policy in the page, since a static server sends no header, and what differs from a page with a service."""
    policy = {**POLICY, "script-src": "'self' 'wasm-unsafe-eval'", "worker-src": "'self'"}
    del policy["frame-ancestors"]  # has no effect in a page
    content = "; ".join(f"{name} {value}" for name, value in policy.items())
    text = index.read_text("utf-8")
    for old, new in (
        ('<meta charset="utf-8">', f'<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{content}">'),
        (
            "PNG, JPEG, TIFF, DICOM, NIfTI, several files of a series, or a zip archive of them.",
            "PNG, JPEG, or DICOM files without compression.",
        ),
        ("Files go to this service only. It keeps them in memory, for a limited time.", "Files stay in this browser."),
    ):
        if old not in text:
            raise RequestError(f"the page lacks '{old[:40]}'", "Report this")
        text = text.replace(old, new)
    index.write_text(text, "utf-8")
