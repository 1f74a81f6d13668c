"""Files of rules: what is read, and what is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import fakes
import pytest

from mimo_runtime.errors import RequestError
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.services.dicom_node.rules import Rule, check_rules, parse_rules, read_rules

GOOD = {"name": "a", "ask": "liver"}


def test_a_file_of_rules_is_read(tmp_path: Path):
    path = tmp_path / "rules.json"
    entry = {
        **GOOD,
        "modality": ["CT"],
        "body_part": ["Liver"],
        "series_description": ["*x*"],
        "write": ["sr"],
        "min_images": 3,
    }
    path.write_text(json.dumps({"rules": [entry, {**GOOD, "name": "b", "sop_class": ["1.2"]}]}))
    assert read_rules(path) == (
        Rule("a", "liver", ("sr",), ("CT",), ("LIVER",), ("*x*",), min_images=3), Rule("b", "liver", sop_class=("1.2",)),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"rules": [{**GOOD, "modalities": ["CT"]}]}, "unknown modalities"),
        ({"rules": [{"name": "a"}]}, "missing ask"),
        ({"rules": [GOOD], "more": 1}, "unknown more"),
        ({"rules": []}, "0 entries"),
        ([], "wrong type"),
        ({"rules": [{**GOOD, "write": ["nifti"]}]}, "nifti"),
        ({"rules": [{**GOOD, "write": "seg"}]}, "wrong type"),
        ({"rules": [{**GOOD, "name": "../a"}]}, "name is"),
        ({"rules": [{**GOOD, "ask": " "}]}, "ask is"),
        ({"rules": [{**GOOD, "min_images": 0}]}, "min_images is"),
        ({"rules": [GOOD, GOOD]}, "two rules are called a"),
    ],
)
def test_rules_that_do_not_fit_are_refused(content: object, words: str):
    with pytest.raises(RequestError, match=words) as refused:
        parse_rules(content)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["{", '{"rules": [], "rules": []}', "[" * 5000, "\udc80"])
def test_files_that_are_no_json_are_refused(tmp_path: Path, text: str):
    path = tmp_path / "rules.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RequestError):
        read_rules(path)
    with pytest.raises(RequestError, match="cannot be read"):
        read_rules(tmp_path / "missing.json")


def test_rules_that_the_model_cannot_answer_are_refused():
    config = MimoConfig.from_preset("micro", entities=fakes.ENTITIES, modalities=("ct", "mri"))
    check_rules([Rule("a", "liver", modality=("CT", "MR"))], config)
    with pytest.raises(RequestError, match="rule a: the model was not trained on US"):
        check_rules([Rule("a", "liver", modality=("CT", "US"))], config)
