"""Which question is asked about which series: a JSON file of rules.

    {"rules": [{"name": "liver", "modality": ["CT"], "body_part": ["ABDOMEN"], "series_description": ["*portal*"],
                "ask": "Where is the liver?", "write": ["seg", "sr"]}]}

Every rule that fits a series is run. A field that is absent fits all.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import MimoError, RequestError
from ...modalities import canonical
from ...model.config import MimoConfig
from ...model.json_fields import Check, FieldError, array, constant, is_too_deep, record, text, unique_keys, whole
from ...request import AskRequest
from .headers import InstanceHeader

#: Formats that are DICOM objects: names of ``clinical.writer.FORMATS``.
OBJECTS = ("seg", "labelmap", "sr", "sc", "pdf", "rtstruct")
_LARGEST_FILE = 1 << 20
#: Sides of the image that a question is checked with; it has no coordinates.
_SIDE = 64


@dataclass(frozen=True)
class Rule:
    """A question, and the series that it is asked about.

    Args:
        name: in logs; unique.
        ask: a name of a structure, or a question.
        write: the objects of the result, of :data:`OBJECTS`.
        modality: of DICOM, e.g. "CT".
        body_part: of BodyPartExamined.
        series_description: patterns with ``*`` and ``?``; letters match in either case.
        sop_class: UIDs of storage classes.
        min_images: of the series; fewer are not answered.
    """

    name: str
    ask: str
    write: tuple[str, ...] = ("seg", "sr")
    modality: tuple[str, ...] = ()
    body_part: tuple[str, ...] = ()
    series_description: tuple[str, ...] = ()
    sop_class: tuple[str, ...] = ()
    min_images: int = 1

    def fits(self, headers: Sequence[InstanceHeader]) -> bool:
        """Whether it is asked about a series. The first instance stands for the others."""
        first = headers[0]
        described = first.series_description.casefold()
        return (
            len(headers) >= self.min_images
            and (not self.modality or first.modality in self.modality)
            and (not self.body_part or first.body_part in self.body_part)
            and (not self.sop_class or first.sop_class in self.sop_class)
            and (
                not self.series_description
                or any(fnmatch.fnmatchcase(described, pattern.casefold()) for pattern in self.series_description)
            )
        )

    def key(self) -> str:
        """What decides the result, in one line."""
        return json.dumps([self.ask, self.write])


def _texts(pattern: str | None = None) -> Check:
    return array(text(64, pattern), 64, 1)


_RULE = record(
    {"name": text(40, r"[A-Za-z0-9_.-]+"), "ask": text(400, r".*\S.*")},
    {
        "write": array(constant(*OBJECTS), len(OBJECTS), 1), "modality": _texts("[A-Z0-9]{2,16}"), "body_part": _texts(),
        "series_description": _texts(), "sop_class": _texts(r"[0-9.]{1,64}"), "min_images": whole(1, 100_000),
    },
)  # fmt: skip
_FILE = record({"rules": array(_RULE, 200, 1)})


def read_rules(path: Path) -> tuple[Rule, ...]:
    """The rules of a file.

    Raises:
        RequestError: it cannot be read, has another field, or a value that does not fit.
    """
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise RequestError(f"--rules {path} is larger than 1 MB", "Name a JSON file of rules")
        content = json.loads(path.read_text("utf-8"), object_pairs_hook=unique_keys)
    except OSError as error:
        raise RequestError(f"--rules {path} cannot be read: {error.strerror}", "Name a JSON file of rules") from None
    except (ValueError, RecursionError):
        raise RequestError(f"--rules {path} is no valid JSON", "Write one JSON object, each key once") from None
    return parse_rules(content)


def parse_rules(content: object) -> tuple[Rule, ...]:
    """The rules of a JSON value. Raises RequestError for an unknown field, or a value that does not fit."""
    try:
        if is_too_deep(content):
            raise FieldError("nests too deep")
        _FILE(content)
    except FieldError as error:
        raise RequestError(error.describe("rules"), "docs/how-to/pacs.md lists the fields") from None
    assert isinstance(content, dict)
    rules = tuple(map(_rule, content["rules"]))
    names = [rule.name for rule in rules]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RequestError(f"two rules are called {twice}", "Give each rule a name of its own")
    return rules


def _rule(entry: dict[str, object]) -> Rule:
    """Of checked JSON; body parts as headers write them."""
    fields = {key: tuple(map(str, value)) if isinstance(value, list) else value for key, value in entry.items()}
    rule = Rule(**fields)  # type: ignore[arg-type]
    return replace(rule, body_part=tuple(part.upper() for part in rule.body_part))


def is_known(modality: str, config: MimoConfig) -> bool:
    """Whether the model was trained on a modality of DICOM; a model without a list answers about all."""
    return not config.modalities or canonical(modality) in config.modalities


def check_rules(rules: Sequence[Rule], config: MimoConfig) -> None:
    """Refuse rules that the model cannot answer.

    Raises:
        RequestError: a modality that the model was not trained on, or a question that it cannot take.
    """
    for rule in rules:
        unknown = [modality for modality in rule.modality if not is_known(modality, config)]
        if unknown:
            known = ", ".join(config.modalities)
            raise RequestError(f"rule {rule.name}: the model was not trained on {unknown[0]}", f"It was trained on {known}")
        try:
            AskRequest.of(rule.ask).validate(_SIDE, _SIDE, config)
        except MimoError as error:
            raise RequestError(f"rule {rule.name}: {error.what}", error.remedy) from None
