"""What clients send: the questions as dataclasses, and the parts of a multipart request."""

from __future__ import annotations

import asyncio
import base64
import binascii
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, ParamSpec, TypeVar

import numpy as np

from ...errors import PromptError, RequestError
from ...imageio.image import MAX_PIXELS
from ...imageio.masks import read_mask
from ...request import AskRequest
from ..jobs import Job
from ..store import ImageStore, Reading
from .errors import HttpError
from .fields import read_json

if TYPE_CHECKING:
    from starlette.requests import Request

#: Most bytes of the JSON part of a multipart request.
MAX_JSON = 16 << 20
_PARTS = ("image", "request", "mask")

#: Bodies below are read at once.
_SMALL = 1 << 18

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
MaskFormat = Literal["rle", "png", "none"]


@dataclass(frozen=True)
class RunLengthMask:
    """A mask as run lengths (COCO, uncompressed).

    Args:
        counts: lengths of runs of 0 and 1 in turn, down the columns, the first of 0.
        size: height and width in pixels.
    """

    counts: tuple[int, ...]
    size: tuple[int, int]

    def array(self) -> np.ndarray:
        """bool ``[H, W]``.

        Raises:
            PromptError: the runs do not fill the size, or the size is no image.
        """
        height, width = self.size
        counts = np.array([min(max(count, -1), MAX_PIXELS + 1) for count in self.counts], np.int64)
        if height < 1 or width < 1 or height * width > MAX_PIXELS or (counts < 0).any() or int(counts.sum()) != height * width:
            raise PromptError("the runs of the mask do not fill its size", "Send counts whose sum is height * width")
        values = np.arange(len(counts)) % 2 == 1
        return np.repeat(values, counts).reshape(width, height).T.copy()


@dataclass(frozen=True)
class AskBody:
    """A question about an image.

    Args:
        image: id of a stored image; left out where the request carries an image as a part of its own.
        text: a name ("polyp") or a question; "" if there is a box, point or mask.
        boxes: each [x0, y0, x1, y1] in pixels of the image.
        points: each [x, y] or [x, y, label], label 1 on the target, 0 not on it.
        mask: a rough mask of the target: run lengths, or a PNG in base64.
        frame: of a multi-frame file, or slice of a volume; from 0.
        modality: of an image that does not state it, e.g. "mri"; "ct" selects the model's window.
        window: centre and width for grey values.
        masks: whether findings with masks are wanted.
        text_answer: whether a sentence is wanted.
        refine: whether small targets are refined.
        any_domain: answer about images unlike those of the training, too.
        max_tokens: longest sentence in tokens.
        temperature: 0 takes the most probable sentence.
        top_k: sample among so many tokens.
        top_p: sample among the most probable tokens of this sum.
        seed: of the sampling.
        deadline_ms: milliseconds from the arrival of the request; what is complete then is the answer.
        mask_format: of the masks in the answer: run lengths, PNG in base64, or none.
        contours: whether each finding has its inner and outer contour as masks, too.
        objects: clinical objects to write: "seg", "sr", "pdf" and others; each comes as a file in base64.
    """

    image: str | None = None
    text: str = ""
    boxes: tuple[tuple[float, ...], ...] = ()
    points: tuple[tuple[float, ...], ...] = ()
    mask: RunLengthMask | str | None = None
    frame: int = 0
    modality: str | None = None
    window: tuple[float, float] | None = None
    masks: bool = True
    text_answer: bool = True
    refine: bool = True
    any_domain: bool = False
    max_tokens: int | None = None
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    deadline_ms: float | None = None
    mask_format: MaskFormat = "rle"
    contours: bool = False
    objects: tuple[str, ...] = ()

    @property
    def reading(self) -> Reading:
        """How the image is read."""
        return Reading(self.frame, self.modality, self.window)

    def request(self, job: Job, mask: bytes | None = None) -> AskRequest:
        """For ``Scan.ask_request``; it ends with the job.

        Args:
            mask: the file of a part of its own.

        Raises:
            PromptError: a reference that cannot be read.
            ImageError: the mask is no picture.
        """
        rough = self._mask(mask)
        return AskRequest.of(
            self.text, self.boxes, self.points, rough, masks=self.masks, text_answer=self.text_answer, refine=self.refine,
            max_tokens=self.max_tokens, temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, seed=self.seed,
            should_stop=job.is_stopped, any_domain=self.any_domain, deadline=job.deadline,
        )  # fmt: skip

    def _mask(self, file: bytes | None) -> np.ndarray | None:
        if file is not None and self.mask is not None:
            raise RequestError("the request has two masks", "Send one of them")
        if file is not None:
            return read_mask(file)
        if isinstance(self.mask, str):
            return read_mask(decode_base64(self.mask, "the mask"))
        return None if self.mask is None else self.mask.array()


@dataclass(frozen=True)
class AskParts:
    """A request with the files that it carries."""

    body: AskBody
    image: bytes | None = None
    mask: bytes | None = None


def decode_base64(text: str, name: str) -> bytes:
    """The bytes of a text in base64.

    Raises:
        RequestError: it is none.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(f"{name} is no base64", "Encode the bytes of the file") from None


async def read_ask(request: Request) -> AskParts:
    """The body of ``POST /v1/ask``: JSON, or multipart with the parts ``image``, ``request`` and ``mask``.

    Raises:
        HttpError: another media type, or malformed parts.
        RequestError: fields that are not understood; see ``read_json``.
    """
    kind = media_type(request)
    if kind == "application/json":
        data = await request.body()
        return AskParts(await in_thread(len(data), read_json, data, AskBody))
    if kind == "multipart/form-data":
        parts = await read_parts(request)
        content = parts.get("request", b"{}")
        body = await in_thread(len(content), read_json, content, AskBody)
        return AskParts(body, parts.get("image"), parts.get("mask"))
    raise HttpError(415, "the body is neither JSON nor multipart", "Send application/json or multipart/form-data")


async def in_thread(
    nbytes: int, function: Callable[Arguments, Result], *args: Arguments.args, **kw: Arguments.kwargs
) -> Result:
    """The result of ``function``; in a thread if it reads many bytes, so that other requests go on."""
    if nbytes < _SMALL:
        return function(*args, **kw)
    return await asyncio.get_running_loop().run_in_executor(None, functools.partial(function, *args, **kw))


def media_type(request: Request) -> str:
    """``Content-Type`` without its parameters, in small letters."""
    content: str = request.headers.get("content-type", "")
    return content.partition(";")[0].strip().lower()


def check_fits(store: ImageStore, nbytes: int) -> None:
    """Refuse a file that could not be kept. Raises HttpError."""
    if not store.fits(nbytes):
        what = f"the file is larger than the store of {max(1, store.files.max_bytes >> 20)} MB"
        raise HttpError(413, what, "Start the service with a larger --store, or send the file with each question to /v1/ask")


async def read_parts(request: Request) -> dict[str, bytes]:
    """The parts of a multipart request by name, in memory. Names of files are not used.

    Raises:
        HttpError: malformed, a part of another name, or one twice.
    """
    from starlette.datastructures import UploadFile
    from starlette.formparsers import MultiPartException, MultiPartParser

    malformed = HttpError(400, "the multipart body is malformed", "Send it with an HTTP library")
    parser = MultiPartParser(
        request.headers, request.stream(), max_files=len(_PARTS), max_fields=len(_PARTS), max_part_size=MAX_JSON
    )
    parser.spool_max_size = 1 << 62  # never a temporary file; the size of the request is limited
    try:
        form = await parser.parse()
    except (MultiPartException, UnicodeError, KeyError, ValueError):
        raise malformed from None
    parts: dict[str, bytes] = {}
    for name, part in form.multi_items():
        if name not in _PARTS:
            raise HttpError(400, "a part of the request has another name", f"Name the parts {', '.join(_PARTS)}")
        if name in parts:
            raise HttpError(400, f"the part {name} comes twice", "Send it once")
        parts[name] = await part.read() if isinstance(part, UploadFile) else part.encode()
    if not parts:
        raise malformed
    await form.close()
    return parts
