"""A bundle carries the statistics as an optional file, hashed like every other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from domain_points import brightness, statistics_of

from mimo_runtime.bundle.archive import Bundle, pack
from mimo_runtime.deploy.doctor import Check, examine
from mimo_runtime.domain.statistics import DOMAIN
from mimo_runtime.errors import BundleError
from mimo_runtime.pipeline import Mimo

STATISTICS = statistics_of({"ct": [0.2, 0.22], "endoscopy": [0.7]})


@pytest.fixture
def with_domain(bundle_folder: Path, tmp_path: Path) -> Path:
    return with_file(bundle_folder, tmp_path / "bundle", STATISTICS.to_bytes())


def with_file(bundle: Path, folder: Path, content: bytes) -> Path:
    import onnx_bundle

    shutil.copytree(bundle, folder)
    (folder / DOMAIN).write_bytes(content)
    onnx_bundle.reseal(folder)
    return folder


def domain_check_of(bundle: Path) -> Check:
    return next(check for check in examine(bundle) if check.name == "domain")


def test_a_loaded_bundle_checks_images(with_domain: Path, tmp_path: Path) -> None:
    pack(with_domain, tmp_path / "one.mimo")
    for bundle in (with_domain, tmp_path / "one.mimo"):
        with Mimo.load(bundle) as mimo:
            assert mimo.domain is not None and mimo.domain.to_bytes() == STATISTICS.to_bytes()
            assert mimo.with_config(mimo.config).domain is mimo.domain
            assert mimo.open(brightness(200)).ask("liver").domain is not None
    check = domain_check_of(with_domain)
    assert (check.state, check.detail) == ("ok", "3 training images of ct, endoscopy")


def test_a_bundle_without_statistics_answers_as_before(bundle_folder: Path) -> None:
    with Mimo.load(bundle_folder) as mimo:
        assert mimo.domain is None and mimo.open(brightness(200)).ask("liver").domain is None
    check = domain_check_of(bundle_folder)
    assert check.state == "missing" and "no domain statistics" in check.detail and "fit-domain" in check.remedy


def test_damaged_and_foreign_statistics_are_refused(with_domain: Path, bundle_folder: Path, tmp_path: Path) -> None:
    data = bytearray(STATISTICS.to_bytes())
    data[len(data) // 2] ^= 1
    (with_domain / DOMAIN).write_bytes(data)
    with pytest.raises(BundleError, match=f"{DOMAIN} does not have the sha256"):
        Bundle.open(with_domain)
    sealed = with_file(bundle_folder, tmp_path / "sealed", b"PK no archive")
    with pytest.raises(BundleError, match=f"{DOMAIN} is damaged"):
        Mimo.load(sealed)
    broken = domain_check_of(sealed)
    assert broken.state == "broken" and "damaged" in broken.detail
