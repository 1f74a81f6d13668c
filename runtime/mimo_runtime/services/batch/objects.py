"""Clinical objects of one answer of a batch, and what a de-identified batch leaves out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import RequestError
from .settings import BatchSettings

if TYPE_CHECKING:
    from ...clinical.study import StudyResult
    from ...clinical.writer import ObjectOptions
    from ...imageio.image import ScanImage
    from ...loading import ModelInfo
    from ...preprocessing.prompts import Prompt
    from ...results.answer import Answer


class ObjectFiles:
    """The objects of one answer. ``left_out`` says why formats are left out, once they are written."""

    def __init__(self, settings: BatchSettings, image: ScanImage, prompt: Prompt, answer: Answer, info: ModelInfo) -> None:
        self._settings, self._image, self._prompt, self._answer, self._info = settings, image, prompt, answer, info
        self.left_out: dict[str, str] = {}

    def write(self, target: Path) -> None:
        """Write the folder ``objects`` into another one. An answer that no format can hold has none."""
        if not self._settings.formats:
            return
        from ...clinical.writer import INDEX, write_into

        folder = target / "objects"
        folder.mkdir()
        try:
            write_into(self._study(), folder, self._settings.formats, self._options())
        except RequestError as error:
            shutil.rmtree(folder)
            self.left_out = dict.fromkeys(self._settings.formats, error.what)
            return
        self.left_out = json.loads((folder / INDEX).read_text("utf-8"))["left_out"]

    def may_show_pictures(self) -> bool:
        """Whether pictures of the image may be written."""
        if not self._settings.salt:
            return True
        from ...clinical.writer import check_pictures

        try:
            check_pictures(self._study(), self._options())
        except RequestError:
            return False
        return True

    def without_words(self) -> tuple[Prompt, Answer]:
        """Prompt and answer; of a de-identified batch without the words of the request."""
        if not self._settings.salt:
            return self._prompt, self._answer
        from ...clinical.pseudonyms import answer_without_words

        return answer_without_words(self._prompt, self._answer)

    def _options(self) -> ObjectOptions:
        from ...clinical.writer import ObjectOptions

        return ObjectOptions(self._settings.salt, self._settings.allow_burned_in, self._settings.show_patient)

    def _study(self) -> StudyResult:
        from ...clinical.study import ModelIdentity, StudyResult

        identity = ModelIdentity.of(self._info)
        return StudyResult.of_answer(self._image, self._prompt, self._answer, identity, self._settings.salt)
