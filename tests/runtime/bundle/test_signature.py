"""Signed bundles: who wrote one, and what a trusted key refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from mimo_runtime.bundle import signature
from mimo_runtime.bundle.archive import Bundle, pack, sign
from mimo_runtime.bundle.signature import SIGNATURE
from mimo_runtime.cli.commands import main
from mimo_runtime.deploy.doctor import examine
from mimo_runtime.errors import BundleError, RequestError
from mimo_runtime.pipeline import Mimo

onnx_bundle = pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> SimpleNamespace:
    """The key files of two authors: ``key`` and ``public``, ``other_key`` and ``other``."""
    pytest.importorskip("cryptography")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    folder, files = tmp_path_factory.mktemp("keys"), {}
    for number, (private, public) in enumerate((("key", "public"), ("other_key", "other"))):
        key = Ed25519PrivateKey.from_private_bytes(bytes([number + 1]) * 32)
        encoded = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        files[private], files[public] = folder / f"{private}.pem", folder / f"{public}.pem"
        files[private].write_bytes(encoded)
        files[public].write_bytes(
            key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
    return SimpleNamespace(**files)


@pytest.fixture
def signed(bundle_folder, tmp_path, keys) -> Path:
    folder = shutil.copytree(bundle_folder, tmp_path / "signed")
    sign(folder, keys.key)
    return folder


def test_a_signed_bundle_loads_with_its_key_as_a_folder_and_as_a_file(signed, keys, tmp_path):
    pack(signed, tmp_path / "signed.mimo")
    for path in (signed, tmp_path / "signed.mimo"):
        Mimo.load(path, trust=keys.public).close()
        Mimo.load(path).close()
        Mimo.load(Bundle.open(path), trust=keys.public).close()
        with pytest.raises(BundleError, match="is signed by another key: SHA256:.*trusted is SHA256:"):
            Mimo.load(path, trust=keys.other)
        with pytest.raises(BundleError, match="is signed by another key"):
            Mimo.load(Bundle.open(path), trust=keys.other)


def test_a_single_file_is_signed_in_place(bundle_folder, keys, tmp_path):
    path = tmp_path / "b.mimo"
    pack(bundle_folder, path)
    with pytest.raises(BundleError, match="is not signed"):
        Bundle.open(path, trust=keys.public)
    sign(path, keys.key)
    assert Bundle.open(path, trust=keys.public).signature.fingerprint.startswith("SHA256:")
    sign(path, keys.other_key)
    Bundle.open(path, trust=keys.other)


def test_a_bundle_that_was_changed_and_hashed_again_is_refused(signed, keys):
    data = json.loads((signed / "manifest.json").read_text("utf-8"))
    data["model"]["config"]["presence_threshold"] = 0.01
    (signed / SIGNATURE).rename(signed.parent / SIGNATURE)
    onnx_bundle.reseal(signed, data)
    (signed.parent / SIGNATURE).rename(signed / SIGNATURE)
    Bundle.open(signed)  # its hashes agree
    with pytest.raises(BundleError, match="signature of another manifest"):
        Bundle.open(signed, trust=keys.public)
    last = examine(signed)[-1]
    assert last.state == "broken" and "changed after it was signed" in last.detail


def test_a_damaged_signature_is_refused_even_without_a_trusted_key(signed, keys):
    good = json.loads((signed / SIGNATURE).read_text())
    bad = [{**good, "algorithm": "none"}, {**good, "signature": "AAAA"}, {**good, "public_key": good["public_key"][:-5]}, [], 1]
    for content in (*map(json.dumps, bad), "{", "[" * 3000, ""):
        (signed / SIGNATURE).write_text(content)
        with pytest.raises(BundleError, match="signature.json is damaged"):
            Bundle.open(signed)
    forged = {**good, "signature": good["signature"][::-1].replace("=", "A")[:-1] + "="}
    (signed / SIGNATURE).write_text(json.dumps(forged))
    with pytest.raises(BundleError):
        Bundle.open(signed, trust=keys.public)


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_what_is_no_key_is_refused(signed, keys, tmp_path, content):
    (tmp_path / "bad.pem").write_bytes(content)
    for key in (tmp_path / "bad.pem", tmp_path / "none.pem", tmp_path, keys.key):
        with pytest.raises(RequestError) as caught:
            Bundle.open(signed, trust=key)
        assert "openssl genpkey" in str(caught.value)
    for key in (tmp_path / "bad.pem", keys.public):
        with pytest.raises(RequestError, match="openssl genpkey"):
            sign(signed, key)


def test_without_the_package_a_trusted_key_is_an_error_and_the_rest_works(signed, keys, monkeypatch):
    monkeypatch.setattr(signature, "is_installed", lambda: False)
    Mimo.load(signed).close()
    with pytest.raises(RequestError, match=r"cryptography is not installed.*pip install 'mimo-edge\[sign\]'"):
        Mimo.load(signed, trust=keys.public)


def test_the_commands_refuse_what_is_not_signed(bundle_folder, signed, keys, image_file, tmp_path):
    for command in (["predict", "B", image_file, "--text", "polyp"], ["verify", "B"], ["prepare", "B", "-o", tmp_path / "p"]):
        for bundle, expected in ((bundle_folder, "is not signed"), (signed, None)):
            words = [str(bundle if word == "B" else word) for word in command]
            done = CliRunner().invoke(main, [*words, "--trust", str(keys.public)])
            if expected or command[0] == "prepare":
                assert (
                    done.exit_code == 2 and done.stderr.count("\n") == 1 and (expected or "nothing to prepare") in done.stderr
                )
            else:
                assert done.exit_code == 0, done.output


def test_doctor_names_the_key_or_says_unsigned(bundle_folder, signed, keys):
    def line(path: Path, **options: Path) -> str:
        return next(check.detail for check in examine(path, **options) if check.name == "signature")

    assert line(bundle_folder).startswith("unsigned")
    key = Bundle.open(signed).signature.fingerprint
    assert line(signed) == f"signed by key {key}; whose key that is, only --trust PUB can say"
    assert line(signed, trust=keys.public) == f"signed by the trusted key {key}"


def test_verify_notices_rewritten_samples_of_a_signed_bundle(signed, keys):
    """Also without a trusted key: the signature is of another manifest."""
    done = CliRunner().invoke(main, ["verify", str(signed)])
    assert done.exit_code == 0 and "signature: signed by key SHA256:" in done.stdout and "only --trust" in done.stdout
    done = CliRunner().invoke(main, ["verify", str(signed), "--trust", str(keys.public), "--json"])
    assert json.loads(done.stdout)["signature"].startswith("signed by the trusted key SHA256:")
    kept = (signed / SIGNATURE).read_bytes()
    (signed / SIGNATURE).unlink()
    path = signed / "golden/00/expected.json"
    expected = json.loads(path.read_text("utf-8"))
    expected["findings"][0]["score"] += 0.001  # less than the tolerance: the sample itself passes
    path.write_text(json.dumps(expected), "utf-8")
    onnx_bundle.reseal(signed)
    done = CliRunner().invoke(main, ["verify", str(signed)])
    assert done.exit_code == 0 and "signature: unsigned: its hashes show damage, not who wrote it" in done.stdout
    (signed / SIGNATURE).write_bytes(kept)
    done = CliRunner().invoke(main, ["verify", str(signed)])
    assert done.exit_code == 2 and "it was changed after it was signed" in done.stderr and done.stderr.count("\n") == 1
