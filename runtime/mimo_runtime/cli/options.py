"""Options that several commands share."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from ..errors import RequestError

if TYPE_CHECKING:
    from ..clinical.study import ModelIdentity, StudyResult
    from ..clinical.writer import ObjectOptions
    from ..imageio.image import ScanImage
    from ..pipeline import ModelInfo
    from ..preprocessing.prompts import Prompt
    from ..results.answer import Answer
    from ..tiling.grid import Tiles

#: Writes files into a folder.
Writer = Callable[[Path], None]
#: A command before or after options are added to it.
Callback = TypeVar("Callback", bound=Callable[..., object])


class Coordinates(click.ParamType[tuple[float, ...]]):
    """Numbers with commas between: ``40,60,180,200``."""

    def __init__(self, form: str, *lengths: int) -> None:
        self.name, self.lengths = form, lengths

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        try:
            numbers = tuple(float(part) for part in value.split(","))
        except ValueError:
            numbers = ()
        if len(numbers) not in self.lengths:
            self.fail(f"{value!r} is not {self.name}", param, ctx)
        return numbers


class TileSize(click.ParamType["Tiles"]):
    """``auto``, a side in pixels, or side and overlap: ``512,128``."""

    name = "auto, SIDE or SIDE,OVERLAP"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> Tiles:
        from ..tiling.grid import AUTO, Tiles

        if value == AUTO:
            return Tiles.of(AUTO)
        try:
            numbers = tuple(int(part) for part in value.split(","))
        except ValueError:
            numbers = ()
        if len(numbers) not in (1, 2):
            self.fail(f"{value!r} is not {self.name}", param, ctx)
        return Tiles(*numbers).checked()


def trust_option(command: Callback) -> Callback:
    """The option that says whose bundles are loaded."""
    message = "Public key (PEM): refuse a BUNDLE that this key did not sign."
    return click.option("--trust", metavar="PUB", help=message)(command)


def where(command: Callback) -> Callback:
    """The options that say where a bundle runs, and whose bundles do."""
    command = trust_option(command)
    choices = click.Choice(("auto", "cpu", "cuda", "tensorrt", "tensorrt-rtx"))
    message = "Where to run. auto is what BUNDLE was built for; the CPU instead of a GPU needs --allow-fallback."
    command = click.option("--device", type=choices, default="auto", help=message)(command)
    message = "Run on the CPU what was built for a GPU, if that is missing or does not load it; the answer says so."
    return click.option("--allow-fallback", is_flag=True, help=message)(command)


def check_output(output: str | None, force: bool) -> None:
    """Refuse an output folder before the work rather than after it. Raises RequestError."""
    from ..results.folder import ANSWER
    from ..utils.atomic import check_output_folder

    if output is not None:
        check_output_folder(output, force, ANSWER)
    elif force:
        raise RequestError("--force has no effect without -o", "Name the folder to replace with -o")


_FORMATS = "Also write OUT/objects, in one or more of: seg,labelmap,sr,sc,pdf,rtstruct,nifti,coco,contours,stl,html."


def object_options(command: Callback) -> Callback:
    """The options that say which clinical objects are written; :func:`object_request` reads them."""
    options = (
        click.option("--write", metavar="FORMATS", help=_FORMATS),
        click.option("--deidentify", metavar="FILE", help="De-identify the objects; FILE holds a secret text of your site."),
        click.option("--patient", is_flag=True, help="Show the patient's name and identifier on the report (html, pdf)."),
        click.option("--allow-burned-in", is_flag=True, help="With --deidentify: pictures may have text in their pixels."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@dataclass(frozen=True)
class ObjectRequest:
    """Which clinical objects to write; no formats: none."""

    formats: tuple[str, ...] = ()
    salt: str = ""
    allow_burned_in: bool = False
    show_patient: bool = False

    def writer(self, result: Callable[[str], StudyResult]) -> Writer | None:
        """A function that writes the folder ``objects`` into another one; None where no format is named.

        Args:
            result: of the secret of the site.
        """
        if not self.formats:
            return None

        def write(target: Path) -> None:
            from ..clinical.writer import INDEX, write_into

            (target / "objects").mkdir()
            write_into(result(self.salt), target / "objects", self.formats, self._options())
            index = json.loads((target / "objects" / INDEX).read_text("utf-8"))
            for name, reason in index["left_out"].items():
                click.echo(f"note: {name} is left out: {reason}", err=True)

        return write

    def _options(self) -> ObjectOptions:
        from ..clinical.writer import ObjectOptions

        return ObjectOptions(self.salt, self.allow_burned_in, self.show_patient)

    def may_show_pictures(self, result: Callable[[str], StudyResult]) -> bool:
        """Whether pictures of the images may be written beside the folder ``objects``; where not, a note says so.

        Args:
            result: of the secret of the site.
        """
        if not self.salt:
            return True
        from ..clinical.writer import check_pictures

        try:
            check_pictures(result(self.salt), self._options())
        except RequestError as error:
            click.echo(f"note: pictures are left out: {error.what}", err=True)
            return False
        return True

    def without_words(self, prompt: Prompt, answer: Answer) -> tuple[Prompt, Answer]:
        """Prompt and answer; with a secret, without the words of the request."""
        if not self.salt:
            return prompt, answer
        from ..clinical.pseudonyms import answer_without_words

        return answer_without_words(prompt, answer)

    def json_without_words(self, report: Mapping[str, object]) -> dict[str, object]:
        """JSON of answers; with a secret, without the words of the request."""
        return {key: _hidden(value) if self.salt else value for key, value in report.items()}


def _hidden(value: object) -> object:
    from ..clinical.pseudonyms import without_words

    if isinstance(value, str):
        return without_words(value)
    if isinstance(value, Mapping):
        return {key: "" if key == "subject" else _hidden(part) for key, part in value.items()}
    return [_hidden(part) for part in value] if isinstance(value, (list, tuple)) else value


def object_request(options: dict[str, object], output: str | None) -> ObjectRequest:
    """Take the values of :func:`object_options` out of the options of a command, and check them.

    Raises:
        RequestError: an unknown format, an option that would do nothing, or a secret that cannot be read.
    """
    write, deidentify = (None if value is None else str(value) for value in map(options.pop, ("write", "deidentify")))
    allow_burned_in, patient = (bool(options.pop(name)) for name in ("allow_burned_in", "patient"))
    if write is None:
        given = {"--deidentify": deidentify is not None, "--allow-burned-in": allow_burned_in, "--patient": patient}
        if any(given.values()):
            what = ", ".join(name for name, is_given in given.items() if is_given)
            raise RequestError(f"{what} without --write", "Name the formats with --write")
        return ObjectRequest()
    from ..clinical.writer import formats_of

    formats = formats_of(write)
    if output is None:
        raise RequestError("--write without --output", "Name a folder with -o")
    if allow_burned_in and deidentify is None:
        raise RequestError("--allow-burned-in without --deidentify", "Leave it out")
    if patient and (deidentify is not None or not {"html", "pdf"} & set(formats)):
        raise RequestError("--patient is for --write html or pdf without --deidentify", "Leave it out")
    return ObjectRequest(formats, "" if deidentify is None else _secret(deidentify), allow_burned_in, patient)


def _secret(path: str) -> str:
    try:
        text = Path(path).read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise RequestError(f"the file of --deidentify cannot be read: {reason}", "Name a text file") from None
    if len(text) < 16:
        raise RequestError("the secret of --deidentify is shorter than 16 characters", "Write a longer one")
    return text


def identity_of(info: ModelInfo) -> ModelIdentity:
    """The model as objects name it."""
    from ..clinical.study import ModelIdentity

    return ModelIdentity.of(info)


def study_of(image: ScanImage, prompt: Prompt, answer: Answer, info: ModelInfo, salt: str) -> StudyResult:
    """The result of one image, to be written as clinical objects."""
    from ..clinical.study import StudyResult

    return StudyResult.of_answer(image, prompt, answer, identity_of(info), salt)
