"""A result to be written: images, structures over their frames, sentences, and the model that made them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from ..errors import ImageError
from ..imageio.geometry import ImageGeometry
from ..imageio.image import ScanImage
from ..preprocessing.prompts import Prompt
from ..results.answer import Answer, Finding
from ..series.image_series import ImageSeries
from ..series.scans import SeriesAnswer
from ..utils.hashing import keyed_digest
from ..utils.messages import few


class Frames(Protocol):
    """Images in order: a tuple, or an ``ImageSeries``, which reads each when it is used."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> ScanImage: ...

    def __iter__(self) -> Iterator[ScanImage]: ...


@dataclass(frozen=True)
class ModelIdentity:
    """The model as objects name it.

    Args:
        name: e.g. "mimo-tiny".
        version: of the product.
        sha256: of the weights or of the bundle's manifest, hexadecimal.
    """

    name: str
    version: str
    sha256: str

    @staticmethod
    def of(info: Mapping[str, object]) -> ModelIdentity:
        """Of ``Mimo.info``, and the installed version of the product."""
        from importlib.metadata import version

        return ModelIdentity(str(info["id"]), version("mimo-edge"), str(info.get("sha256") or ""))


@dataclass(frozen=True, eq=False)
class Structure:
    """A structure in one or several frames.

    Args:
        name: as the answer calls it.
        masks: by frame of the result, bool ``[H, W]``; only frames that it reaches.
        score: of the finding.
        confident: whether it may be used without review.
        is_pointed_at: whether a person gave a box, point or mask for it.
        inner, outer: contours with a stated coverage, by frame; empty where the model has none.
        coverage: the stated share of masks for which each contour holds.
        tracking_id: unique among the structures of the result.
        person_id: an identifier by which a person says that this is the same structure at every time point; "" if none did.
    """

    name: str
    masks: Mapping[int, np.ndarray]
    score: float
    confident: bool = True
    is_pointed_at: bool = False
    inner: Mapping[int, np.ndarray] = field(default_factory=dict)
    outer: Mapping[int, np.ndarray] = field(default_factory=dict)
    coverage: float | None = None
    tracking_id: str = ""
    person_id: str = ""

    @cached_property
    def largest_frame(self) -> int:
        """The frame with the largest area; the first of equals."""
        return max(sorted(self.masks), key=lambda frame: int(self.masks[frame].sum()))


@dataclass(frozen=True, eq=False)
class StudyResult:
    """What is written.

    Args:
        images: the frames, in order; of one size where a volume is written.
        structures: that are present.
        sentences: by frame, without markup.
        refusals: by frame, where a question was not answered.
        model: that answered.
        request: what decides the result besides images and model: prompt and parameters, for reproducible identifiers.
        extents_mm: that each frame stands for along the normal; 0 for a frame without a volume, empty if no frame has one.
        salt: of the site; makes identifiers of de-identified objects independent of those of the source.
        is_complete: False if only a part of the frames that were asked about was analysed.
        failed: frames that could not be read.
        first_frame: the first one that was answered; it stands for the others.
    """

    images: Frames
    structures: tuple[Structure, ...]
    sentences: tuple[str, ...]
    refusals: tuple[str, ...]
    model: ModelIdentity
    request: str = ""
    extents_mm: tuple[float, ...] = ()
    salt: str = ""
    is_complete: bool = True
    failed: tuple[int, ...] = ()
    first_frame: int = 0

    @staticmethod
    def of_answer(image: ScanImage, prompt: Prompt, answer: Answer, model: ModelIdentity, salt: str = "") -> StudyResult:
        """The result of one image.

        Args:
            image: that was asked about.
            prompt: of the question.
            answer: of ``Scan.ask``.
            model: that answered; ``ModelIdentity.of(mimo.info)``.
            salt: see :class:`StudyResult`.
        """
        structures = tuple(_structure(finding, prompt) for finding in answer.findings if finding.present)
        refusals = (answer.plain_text,) if answer.refusal is not None else ()
        sentences = () if answer.refusal is not None or not answer.text else (answer.plain_text,)
        return StudyResult(
            (image,), _tracked(structures), sentences, refusals, model, request_key(prompt), salt=salt
        )  # fmt: skip

    @staticmethod
    def of_series(prompt: Prompt, answer: SeriesAnswer, model: ModelIdentity, salt: str = "") -> StudyResult:
        """The result of a series. Frames are read again when they are written, one at a time.

        Args:
            prompt: of the question.
            answer: of ``SeriesScans.ask`` or ``Mimo.segment_volume``.
            model, salt: as in :meth:`of_answer`.
        """
        structures, sizes = [], [frame.size for frame in answer.series.frames]
        for finding in answer.findings:
            masks = finding.masks(sizes)
            structures.append(Structure(finding.phrase, masks, finding.score, finding.confident, prompt.has_references))
        sentences = tuple(f.answer.plain_text for f in answer.frames if f.answer.text and f.answer.refusal is None)
        refusals = tuple(dict.fromkeys(f.answer.plain_text for f in answer.frames if f.answer.refusal is not None))
        failed, asked = tuple(failure.frame for failure in answer.failures), answer.asked
        return StudyResult(
            answer.series, _tracked(tuple(structures)), sentences, (*refusals, *_missing(answer)), model,
            request_key(prompt) + ("" if asked is None else f" frames {asked}"), answer.extents_mm() if asked is None else (),
            salt, answer.is_complete, failed, answer.frames[0].frame if answer.frames else 0,
        )  # fmt: skip

    @property
    def problem(self) -> str:
        """Why the frames are no regular volume; "" for a regular one and for a single image."""
        layout = getattr(self.images, "layout", None)
        known = str(getattr(self.images, "problem", "")) if layout is None else str(layout.problem)
        if self.failed and not known:
            known = f"{counted_frames(self.failed).lower()} could not be read"
        return known if len(self.images) > 1 else ""

    @property
    def patient_tag(self) -> str:
        """Four characters that differ for most pairs of patients and are shared by many; with a salt they are a keyed hash."""
        stored = getattr(self.images, "patient_tag", None)
        if stored is not None:
            return str(stored)
        source = self.images[self.first_frame].source
        known = [source.uid(keyword) for keyword in ("PatientID", "PatientName", "PatientBirthDate")] if source else []
        if not any(known):
            return ""
        digest = keyed_digest(self.salt, "tag", *known) if self.salt else hashlib.sha256("\0".join(known).encode()).digest()
        return digest.hex()[:4]

    def uid(self, purpose: str) -> str:
        """A UID that is the same for the same images, model, request and salt, and says nothing about them.

        Args:
            purpose: what it is for, e.g. "seg".
        """
        return uid_of(f"{self.fingerprint}\0{purpose}")

    def tracking_uid(self, structure: Structure) -> str:
        """Of a structure: the same at every time point of a patient where a person gave it an identifier."""
        if not structure.person_id:
            return self.uid(f"tracking {structure.tracking_id}")
        source = self.images[self.first_frame].source
        patient = source.uid("PatientID") if source else ""
        return uid_of(f"{self.salt}\0{patient}\0{structure.person_id}")

    @cached_property
    def fingerprint(self) -> str:
        """A hash of what decides this result and of what it says: another window or option gives other identifiers."""
        digest = hashlib.sha256()
        window = repr(self.images[self.first_frame].window) if len(self.images) else ""
        for part in (self.salt, self.model.sha256, self.model.version, self.request, window, *self.sentences, *self.refusals):
            digest.update(part.encode() + b"\0")
        for identity in _identities(self.images):
            digest.update(identity.encode() + b"\0")
        for structure in self.structures:
            digest.update(
                f"{structure.tracking_id}\0{structure.person_id}\0{structure.confident}\0{structure.is_pointed_at}\0".encode()
            )
            for frame, mask in sorted(structure.masks.items()):
                digest.update(f"{frame} {mask.shape}".encode() + np.packbits(mask).tobytes())
        return digest.hexdigest()


def _structure(finding: Finding, prompt: Prompt) -> Structure:
    """A finding of one image."""
    is_pointed_at = finding.query == 0 and prompt.has_references
    inner, outer = ({} if contour is None else {0: contour} for contour in (finding.inner, finding.outer))
    return Structure(
        finding.phrase, {0: finding.mask}, finding.score, finding.confident, is_pointed_at, inner, outer, finding.coverage
    )


def geometry_at(images: Frames, index: int) -> ImageGeometry:
    """The geometry of a frame, without reading its pixels where a series knows it."""
    known: Callable[[int], ImageGeometry] | None = getattr(images, "geometry", None)
    return known(index) if known else images[index].geometry


def size_at(images: Frames, index: int) -> tuple[int, int]:
    """``(height, width)`` of a frame, without reading its pixels where a series knows it."""
    if isinstance(images, ImageSeries):
        return images.frames[index].size
    image = images[index]
    return image.height, image.width


def uid_of(text: str) -> str:
    """A UID from a hash; PS3.5 B.2: those below 2.25 are integers of 128 bits."""
    return f"2.25.{int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], 'big')}"


def _missing(answer: SeriesAnswer) -> Iterator[str]:
    """What a result does not cover."""
    wanted = len(answer.series) if answer.asked is None else len(answer.asked)
    if not answer.is_complete and len(answer.frames) + len(answer.failures) < wanted:
        yield f"Only {len(answer.frames)} of {wanted} frames were analysed."
    if answer.series.lost and not answer.is_complete:
        yield f"{answer.series.lost} damaged file{'' if answer.series.lost == 1 else 's'} left out."
    if answer.failures:
        yield f"{counted_frames([f.frame for f in answer.failures])} of {wanted} could not be read."


def counted_frames(frames: Sequence[int]) -> str:
    """``Frames 3, 5, 8 and 2 more (counted from 0)``."""
    name = "Frame" if len(frames) == 1 else "Frames"
    return f"{name} {few(frames, 10)} (counted from 0)"


def _identities(images: Frames) -> Iterator[str]:
    """What tells each frame from others: its UID and frame number, else its pixels; the same for all that cannot be read."""
    if isinstance(images, ImageSeries) and all(frame.uid for frame in images.frames):
        yield from (f"{frame.uid} {frame.index}" for frame in images.frames)
        return
    for index in range(len(images)):
        try:
            image = images[index]
        except ImageError:
            yield "not read"
            continue
        uid = image.source.uid("SOPInstanceUID") if image.source else ""
        yield f"{uid} {image.source.frame}" if uid and image.source else image.sha256


def request_key(prompt: Prompt) -> str:
    """Text and references of a request in one line, for :class:`StudyResult`."""
    mask = "" if prompt.mask is None else hashlib.sha256(np.ascontiguousarray(prompt.mask).tobytes()).hexdigest()
    return repr((prompt.text, [list(map(float, b)) for b in prompt.boxes], [list(map(float, p)) for p in prompt.points], mask))


def _tracked(structures: tuple[Structure, ...]) -> tuple[Structure, ...]:
    """The structures with tracking identifiers: the name, numbered where it comes more than once."""
    names = [structure.name for structure in structures]
    numbers: dict[str, int] = {}
    result = []
    for structure in structures:
        numbers[structure.name] = number = numbers.get(structure.name, 0) + 1
        several = names.count(structure.name) > 1
        result.append(replace(structure, tracking_id=f"{structure.name} {number}" if several else structure.name))
    return tuple(result)
