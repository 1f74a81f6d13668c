"""The third-party notices of ``make sbom``."""

from __future__ import annotations

import importlib.util
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def generate(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_notices", repository / "docs/generate_notices.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_distribution_of_a_device_has_a_licence(generate: ModuleType):
    for name in ("numpy", "pillow", "tokenizers", "click", "packaging", "onnxruntime"):
        assert generate.licence_of(metadata.distribution(name)) != "see the text below"


def test_notices_hold_version_licence_and_texts(generate: ModuleType):
    text = generate.notices([metadata.distribution(name) for name in ("pip", "numpy", "click")])
    click, numpy = metadata.version("click"), metadata.version("numpy")
    assert text.index(f"click {click}\nLicence: BSD-3-Clause") < text.index(f"numpy {numpy}\nLicence: BSD-3-Clause")
    assert "Redistribution and use in source and binary forms" in text and "\npip " not in text
