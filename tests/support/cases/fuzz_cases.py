"""Random changes of what comes from outside: manifests, tokenizers, graphs, prompts, images. ``fuzz.py`` tries them."""

from __future__ import annotations

import copy
import importlib.util
import io
import itertools
import json
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fakes
import numpy as np
from deep_cases import png16, tiff16
from PIL import Image

from mimo_runtime.bundle.graph_check import check_graph
from mimo_runtime.bundle.manifest import parse_manifest, spell, with_checksum
from mimo_runtime.bundle.schema import MANIFEST
from mimo_runtime.engines import create_engine
from mimo_runtime.errors import BundleError, EngineError, ImageError, MimoError, PromptError, RequestError
from mimo_runtime.model.graph_spec import GRAPHS, graph_specs
from mimo_runtime.model.tokenizer import Tokenizer
from mimo_runtime.pipeline import Mimo

#: Prepares one case; None: no program can write it. What it returns runs the case.
Case = Callable[[random.Random], Callable[[], object] | None]


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        cases: a context whose value prepares a case.
        refusals: the errors that may refuse it.
    """

    cases: Callable[[], Any]
    refusals: tuple[type[MimoError], ...]


VALUES: list[Any] = [
    None, True, False, -1, 0, 1, 2**31, 2**63, 2**70, 1.5, -0.0, 1e308, "", "x", "a\nb", "\u202e", "\0", "x" * 5000, "../x",
    "9" * 4000,
    [], [[]], {}, {"a": 1}, {"": None}, [None] * 50, ["x"], [0, 1, 2], [1.5], {"min": "1"}, ["\u2028"], ...,
]  # fmt: skip


def nested(depth: int) -> list[Any]:
    """A list in a list in a list."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def mutate(data: Any, rng: random.Random) -> Any:
    """Another value at one to three places of a JSON value, a place gone, moved or doubled."""
    changed = copy.deepcopy(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        inner, parents = changed, []
        while isinstance(inner, (dict, list)) and inner and (not parents or rng.random() < 0.8):
            key = rng.choice(list(inner)) if isinstance(inner, dict) else rng.randrange(len(inner))
            parents.append((inner, key))
            inner = inner[key]
        if not parents:
            return changed
        parent, key = parents[-1]
        value = rng.choice([*VALUES, inner, [inner], {"x": inner}, nested(rng.choice((20, 200, 900)))])
        if value is ...:
            del parent[key]
        elif isinstance(parent, dict) and rng.random() < 0.1:
            parent[rng.choice(["", "x", "\n", "x" * 3000, "__proto__"])] = value
        elif isinstance(parent, list) and rng.random() < 0.1:
            parent.insert(0, value)
        else:
            parent[key] = value
    return changed


def mutate_bytes(data: bytes, rng: random.Random, head: int | None = None) -> bytes:
    """One to eight places of a file changed, inserted, removed, blanked or doubled, or its end cut off.

    Args:
        head: most changes are within so many bytes from the start, where the structure of a file is.
    """
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(min(len(changed), head or len(changed))) if changed else 0
        span = rng.choice((0, 1, 1, 1, 3))
        changed[at : at + span] = rng.randbytes(rng.choice((0, 1, 1, 1, 2)))
        if rng.random() < 0.05:
            end = at + rng.choice((4, 50, 400))
            changed[at:end] = rng.choice((bytes(end - at), b"\xff" * (end - at), changed[at:end] * 2))
    return bytes(changed[: rng.randrange(len(changed) + 1)] if rng.random() < 0.05 else changed)


# -- bundles ----------------------------------------------------------------------------------------------------------


@contextmanager
def manifests() -> Iterator[Case]:
    """Manifests whose checksum is right."""
    import onnx_bundle

    with tempfile.TemporaryDirectory(prefix="mimo-fuzz-") as folder:
        data = json.loads((onnx_bundle.write_bundle(Path(folder) / "bundle") / MANIFEST).read_text("utf-8"))

    def case(rng: random.Random) -> Callable[[], object] | None:
        try:
            raw = spell(with_checksum(mutate(data, rng)))
        except (ValueError, RecursionError):
            return None
        return lambda: parse_manifest(raw, "bundle/manifest.json")

    yield case


@contextmanager
def tokenizers() -> Iterator[Case]:
    """Files ``tokenizer.json``; what is read also encodes and decodes."""
    data = json.loads(fakes.tokenizer().to_json())

    def run(content: bytes) -> None:
        tokenizer = Tokenizer.from_bytes(content, "bundle/tokenizer.json")
        tokenizer.decode(tokenizer.encode_answer("aaaa <p>liver</p><seg0>"))

    def case(rng: random.Random) -> Callable[[], object] | None:
        try:
            content = json.dumps(mutate(data, rng)).encode()
        except (ValueError, RecursionError):
            return None
        return lambda: run(content)

    yield case


@contextmanager
def graphs() -> Iterator[Case]:
    """ONNX files. Every fourth that passes the check is loaded by ONNX Runtime."""
    import onnx_bundle

    specs = graph_specs(fakes.CONFIG)
    files = {name: onnx_bundle.model_bytes(spec, fakes.CONFIG) for name, spec in specs.items()}

    def run(name: str, data: bytes, load: bool) -> None:
        check_graph(data, specs[name], fakes.CONFIG, f"bundle/{name}.onnx")
        if load:
            create_engine("onnxruntime", data, specs[name], threads=1).close()

    def case(rng: random.Random) -> Callable[[], object]:
        name = rng.choice(list(specs))
        data, load = mutate_bytes(files[name], rng, 4000), rng.random() < 0.25
        return lambda: run(name, data, load)

    yield case


# -- requests ---------------------------------------------------------------------------------------------------------

#: Makes a value anew for each use: iterators are used up.
ARGUMENTS: list[Callable[[], Any]] = [
    *((lambda value=value: value) for value in (
        None, 0, 1, -1, 1.5, 1 / 3, float("nan"), float("inf"), 10**400, -(10**400),
        1e308, complex(1, 2), True, False, "x", "1234", "", "cpu", "no",
        "\ud800", b"ab", (), {"a": 1}, frozenset({1}), range(4), int, ..., "where is the polyp?", "x" * 100_000, "\0", 2**63,
        np.float32(3), np.int64(2), np.array(5), np.array([1, 2]), np.array(["a"]), np.array([[1, 2, 3, 4]]),
        np.zeros((60, 100)),
        np.ones((60, 100), bool), np.full((60, 100), "a"), np.zeros((0, 0)), np.full((60, 100), np.nan), np.zeros((2,) * 9),
        np.array([None, {}], object), np.datetime64("2020-01-01"), np.ma.array([[1, 2, 3, 4]], mask=[[0, 1, 0, 0]]),
    )),
    list, dict, set, object, lambda: [1, 2], lambda: [1, 2, 3, 4], lambda: [[1, 2, 3, 4]], lambda: [(1, 2)],
    lambda: [[1, 2], [3]], lambda: ["1234"], lambda: ["12"], lambda: [None], lambda: [[None] * 4], lambda: [[1] * 100] * 60,
    lambda: [[1, 2, 3, 4, 5]], lambda: [{1: 2}], lambda: [{"x": 1, "y": 2}], lambda: [np.array([1, 2, 3, 4])],
    lambda: [[10**400, 1, 2, 3]], lambda: [[1e308] * 4], lambda: iter([(5, 5)]), lambda: (x for x in [(1, 1, 9, 9)]),
    itertools.count, lambda: itertools.repeat((1, 2)), lambda: nested(900), lambda: [[1, 2]] * 100_000,
]  # fmt: skip
OPTIONS = (
    "text", "boxes", "points", "mask", "text_answer", "refine", "max_tokens", "temperature", "top_k", "top_p", "seed",
    "should_stop",
)  # fmt: skip


class _AnyText(fakes.FakeEngine):
    """A text decoder that takes any tokens: sampling leaves the script of the fake one."""

    def _text_decoder(self, x: Any) -> dict[str, np.ndarray]:
        past = x["past_keys"].shape[3]
        logits = np.random.default_rng(past).normal(size=(1, 1, self.config.vocab_size)).astype(np.float32)
        cache = np.pad(x["past_keys"], ((0, 0), (0, 0), (0, 0), (0, 1), (0, 0)))
        return {"logits": logits, "keys": cache, "values": cache}


@contextmanager
def prompts() -> Iterator[Case]:
    """Arguments of ``Scan.ask`` of any type."""
    engines = {graph: fakes.FakeEngine(graph, fakes.CONFIG) for graph in GRAPHS}
    engines["text_decoder"] = _AnyText("text_decoder", fakes.CONFIG)
    with Mimo(fakes.CONFIG, engines, fakes.tokenizer(), {"id": "fake"}) as mimo:
        scan = mimo.open(fakes.picture())

        def case(rng: random.Random) -> Callable[[], object]:
            options = {name: rng.choice(ARGUMENTS)() for name in rng.sample(OPTIONS, rng.randint(1, 4))}
            if rng.random() < 0.6:
                options.setdefault("text", "polyp")
            return lambda: scan.ask(**options)

        yield case


# -- images -----------------------------------------------------------------------------------------------------------


def pictures() -> list[bytes]:
    """A small file of every format that is installed here."""
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (24, 32, 3), np.uint8)
    rgb, deep = Image.fromarray(colour), rng.integers(0, 4096, (12, 16, 3)).astype(np.uint16)
    modes = {"PNG": ("RGB", "L", "P", "RGBA", "1"), "JPEG": ("RGB", "L", "CMYK"), "TIFF": ("RGB", "L", "P"),
             "BMP": ("RGB", "P"), "GIF": ("P",), "WEBP": ("RGB", "RGBA"), "PPM": ("RGB", "L")}  # fmt: skip
    files = [png16(deep), png16(deep, interlaced=True), tiff16(deep), tiff16(deep, deep, deflate=True)]
    for kind, names in modes.items():
        for name in names:
            buffer = io.BytesIO()
            rgb.convert(name).save(buffer, kind)
            files.append(buffer.getvalue())
    buffer = io.BytesIO()
    rgb.save(buffer, "TIFF", compression="tiff_lzw")
    files.append(buffer.getvalue())
    if importlib.util.find_spec("nibabel"):
        import nibabel

        volume = nibabel.Nifti1Image(rng.integers(0, 999, (8, 9, 3)).astype(np.int16), np.diag([2.0, 2, 3, 1]))
        files += [volume.to_bytes(), nibabel.Nifti1Image(rng.random((5, 6)).astype(np.float32), np.eye(4)).to_bytes()]
    if importlib.util.find_spec("pydicom"):
        from dicom_cases import STORED, as_bytes, dataset
        from pydicom.encaps import encapsulate
        from pydicom.uid import JPEGBaseline8Bit, RLELossless

        files += [as_bytes(dataset()), as_bytes(dataset(np.stack([STORED] * 2), WindowCenter=500, WindowWidth=400))]
        packed = dataset()
        packed.compress(RLELossless)
        jpeg = io.BytesIO()
        rgb.convert("L").save(jpeg, "JPEG")
        lossy = dataset(colour[..., 0].copy())
        lossy.PixelData, lossy.file_meta.TransferSyntaxUID = encapsulate([jpeg.getvalue()]), JPEGBaseline8Bit
        files += [as_bytes(packed), as_bytes(lossy)]
    return files


@contextmanager
def images() -> Iterator[Case]:
    """Damaged files of every format, as bytes or by path; what is read is also asked about."""
    files = pictures()
    with tempfile.TemporaryDirectory(prefix="mimo-fuzz-") as folder, fakes.fake_mimo(cache_images=1) as mimo:
        path = Path(folder) / "scan"

        def case(rng: random.Random) -> Callable[[], object]:
            data = mutate_bytes(rng.choice(files), rng, rng.choice((200, 1000, None)))
            if rng.random() < 0.5:
                return lambda: mimo.open(data).ask("polyp")
            path.write_bytes(data)
            return lambda: mimo.open(path).ask("polyp")

        yield case


KINDS: dict[str, Kind] = {
    "manifests": Kind(manifests, (BundleError,)),
    "tokenizers": Kind(tokenizers, (BundleError,)),
    "graphs": Kind(graphs, (BundleError, EngineError)),
    "prompts": Kind(prompts, (PromptError, RequestError)),
    "images": Kind(images, (ImageError,)),
}
