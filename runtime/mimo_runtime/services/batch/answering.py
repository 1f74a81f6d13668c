"""The answer about one image of a batch: read, ask, write the result folder."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import ImageError, MimoError, RequestError
from ...imageio.files import open_file
from ...imageio.masks import read_mask_file
from ...imageio.reader import Source, read_image
from ...request import AskRequest
from ...utils.hashing import sha256_of
from .items import BatchItem
from .ledger import Entry, folder_of, key_of
from .question import Question
from .settings import BatchSettings

if TYPE_CHECKING:
    from ...imageio.image import ScanImage
    from ...pipeline import Mimo
    from ...results.answer import Answer


@dataclass(frozen=True)
class Outcome:
    """What became of one item.

    Args:
        number: of the item.
        key: in the ledger; "" where the image could not be read.
        entry: None where it was answered before, or failed.
        failure: one sentence without patient data; "" without one.
    """

    number: int
    key: str
    entry: Entry | None = None
    failure: str = ""

    def to_json(self) -> str:
        """One line, which :meth:`of_json` reads."""
        return json.dumps(asdict(self))

    @staticmethod
    def of_json(text: str) -> Outcome:
        """Of a line of :meth:`to_json`."""
        fields = json.loads(text)
        entry = fields.pop("entry")
        return Outcome(**fields, entry=None if entry is None else Entry(**entry))


class OutputError(RequestError):
    """A result cannot be written: no image of the batch can. Exit code 2."""


class Answerer:
    """Answers about images with one model. Threads may share it.

    Args:
        settings: of the batch.
        done: keys that the ledger has; these images are not answered again.
        mimo: None loads the bundle of the settings.
    """

    def __init__(self, settings: BatchSettings, done: frozenset[str], mimo: Mimo | None = None) -> None:
        from ...pipeline import Mimo

        self._settings, self._done = settings, done
        self._mimo = mimo or Mimo.load(
            settings.bundle, settings.device, settings.threads, cache_images=0, allow_fallback=settings.allow_fallback,
            trust=settings.trust,
        )  # fmt: skip

    def __call__(self, item: BatchItem) -> Outcome:
        """Answer about one image and write its folder.

        Raises:
            OutputError: the folder cannot be written. All other failures are in the outcome.
        """
        key = ""
        try:
            began = time.monotonic()
            key = self._key_of(item)
            if key in self._done:
                return Outcome(item.number, key)
            image, request, notes = self._read(item)
            answer = self._mimo.open(image, modality=item.question.modality).ask_request(request)
            answer = replace(answer, warnings=(*notes, *answer.warnings))
            facts, findings, left_out = self._write(key, image, request, answer)
        except OutputError:
            raise
        except MimoError as error:
            return Outcome(item.number, key, failure=str(error))
        except OSError as error:
            return Outcome(item.number, key, failure=f"{item.name} cannot be read: {error.strerror or type(error).__name__}.")
        except Exception as error:  # one image of thousands must not end the run; its message may hold values of the file
            return Outcome(item.number, key, failure=f"internal error: {type(error).__name__}. Run mimo-run predict on it.")
        return Outcome(item.number, key, Entry(key, facts, findings, left_out, round(time.monotonic() - began, 3)))

    def close(self) -> None:
        """Free the model."""
        self._mimo.close()

    def _key_of(self, item: BatchItem) -> str:
        identity = f"uid {item.instance.sop}" if item.instance is not None else f"sha256 {_hash(item.path, item.name)}"
        mask = _hash(item.question.mask, f"the mask of {item.name}") if item.question.mask else ""
        settings = self._settings
        return key_of(settings.salt, identity, settings.bundle_sha256, settings.request_json(item.question, mask))

    def _read(self, item: BatchItem) -> tuple[ScanImage, AskRequest, tuple[str, ...]]:
        """The image, the request, and notes about the mask."""
        question, settings = item.question, self._settings
        source: Source = item.path
        if item.instance is not None:
            from .dicomweb import retrieve

            assert settings.web is not None
            source = retrieve(settings.web, item.instance)
        image = read_image(
            source, frame=question.frame, modality=question.modality, window=settings.window, windows=self._mimo.windows,
            name=item.name,
        )  # fmt: skip
        mask, notes = _mask_of(question, item.name, image)
        request = AskRequest.of(
            question.text, question.boxes, question.points, mask, masks=settings.masks, text_answer=settings.text_answer,
            refine=settings.refine and settings.masks, any_domain=settings.any_domain,
        )  # fmt: skip
        request.validate(image.height, image.width, self._mimo.config)
        return image, request, notes

    def _write(
        self, key: str, image: ScanImage, request: AskRequest, answer: Answer
    ) -> tuple[dict[str, object], tuple[Mapping[str, object], ...], dict[str, str]]:
        """Write the result folder; facts and findings for the summary, and formats that are left out."""
        from ...results.described import described
        from ...results.folder import write_result
        from .objects import ObjectFiles

        objects = ObjectFiles(self._settings, image, request.prompt, answer, self._mimo.info)
        prompt, shown = objects.without_words()
        facts = described(image)
        folder = self._settings.output / folder_of(key)
        with _writing(folder):
            report = {"model": self._mimo.info["id"], "image": facts}
            write_result(folder, True, image.pixels, prompt, shown, report, objects.write, pictures=objects.may_show_pictures())
        known = {**facts, "text": shown.plain_text, "refusal": shown.refusal.reason if shown.refusal else None,
                 "domain": None if shown.domain is None else shown.domain.to_dict()["verdict"],
                 "warnings": list(shown.warnings)}  # fmt: skip
        return known, tuple(finding.to_dict() for finding in shown.findings), objects.left_out


def _mask_of(question: Question, name: str, image: ScanImage) -> tuple[np.ndarray | None, tuple[str, ...]]:
    if not question.mask:
        return None, ()
    with open_file(question.mask, f"the mask of {name}") as file:
        data = file.read()
    mask = read_mask_file(data, question.frame).fitted(image)
    return mask.inside(), tuple(f"mask: {note}" for note in mask.notes)


def _hash(path: str, name: str) -> str:
    with open_file(path, name) as file:
        if isinstance(file, io.BytesIO):
            raise ImageError(f"{name} is no regular file", "Save it to a file first")
        return sha256_of(file)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except RequestError as error:
        raise OutputError(error.what, error.remedy) from error
    except OSError as error:
        if not (folder / "answer.json").is_file():  # else another worker has written the answer about an equal image
            raise OutputError(f"a result cannot be written: {error.strerror}", "Make room, or choose another place") from error
