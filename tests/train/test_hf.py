"""Hugging Face weights: the same numbers come out of our modules as out of transformers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, SwinConfig, SwinModel

from mimo_runtime.errors import RequestError
from mimo_runtime.model.config import MimoConfig
from mimo_train.hf import adopt_bert, adopt_swin, load_into
from mimo_train.model import TextEncoder
from mimo_train.model.vision_encoder import SwinTransformer

WORDS = ["the", "liver", "polyp", "where", "is", "?", "un", "##known"]


@pytest.fixture(scope="module")
def swin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("swin")
    torch.manual_seed(0)
    config = SwinConfig(
        image_size=224, embed_dim=12, depths=[2, 2, 2, 2], num_heads=[1, 2, 3, 4], window_size=7, hidden_dropout_prob=0.0
    )
    SwinModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    words = ["[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    BertModel(
        BertConfig(
            vocab_size=len(words),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=40,
        )
    ).save_pretrained(folder)
    return folder


@torch.no_grad()
def test_swin_computes_what_transformers_computes(swin):
    config, weights = adopt_swin(MimoConfig.from_preset("base"), str(swin))
    ours = SwinTransformer(config.vision).eval()
    load_into(ours, weights, str(swin))
    theirs = SwinModel.from_pretrained(swin).eval()
    pixels = torch.rand(2, 3, 224, 224)
    wanted = theirs(pixels, output_hidden_states=True).hidden_states
    # transformers gives each stage after its merging, and the last one as it is.
    maps = ours(pixels)
    for i, merge in enumerate(ours.merges):
        torch.testing.assert_close(merge(maps[i]).flatten(1, 2), wanted[i + 1], atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(maps[3].flatten(1, 2), wanted[4], atol=2e-4, rtol=1e-3)


@torch.no_grad()
def test_bert_computes_what_transformers_computes(bert):
    config, weights, tokenizer = adopt_bert(MimoConfig.from_preset("micro"), str(bert))
    ours = TextEncoder(config.text, config.vocab_size, config.dim).eval()
    load_into(ours, weights, str(bert), own=("project.",))
    theirs = BertModel.from_pretrained(bert).eval()
    ids = torch.from_numpy(tokenizer.encode_query("Where is the liver?", config.text.max_length))[None].long()
    valid = (ids != 0).float()
    as_bert = ids.clone()
    as_bert[ids == 1], as_bert[ids == 2] = 101, 102  # [CLS], [SEP]
    assert as_bert[0, :7].tolist() == [101, 107, 108, 104, 105, 109, 102]
    wanted = theirs(as_bert, attention_mask=valid).last_hidden_state
    got = ours.hidden_states(ids, valid)
    torch.testing.assert_close(got[0, :7], wanted[0, :7], atol=1e-5, rtol=1e-4)


def test_bert_vocabulary_takes_grounded_answers(bert):
    _, _, tokenizer = adopt_bert(MimoConfig.from_preset("micro"), str(bert))
    ids = tokenizer.encode_answer("the <p>liver</p><seg5>")
    assert ids.count(tokenizer.id_of("<seg5>")) == 1
    assert "<seg5>" in tokenizer.decode(ids) and "liver" in tokenizer.decode(ids)


@pytest.mark.parametrize("adopt", [adopt_swin, adopt_bert])
def test_a_wrong_source_is_refused_by_name(adopt, swin, bert, tmp_path):
    wrong = bert if adopt is adopt_swin else swin
    with pytest.raises(RequestError, match="model, not"):
        adopt(MimoConfig.from_preset("base"), str(wrong))
    with pytest.raises(RequestError, match="no Hugging Face model"):
        adopt(MimoConfig.from_preset("base"), str(tmp_path))


def test_a_hub_that_cannot_be_reached_is_named(monkeypatch):
    def refuse(source):
        raise OSError(f"We couldn't connect to 'https://huggingface.co' to load the files of {source}")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", refuse)
    with pytest.raises(RequestError, match="owner/name is no folder here, and the Hugging Face hub cannot be reached"):
        adopt_swin(MimoConfig.from_preset("base"), "owner/name")


def test_a_source_without_a_vocabulary_is_refused(bert, tmp_path):
    source = Path(shutil.copytree(bert, tmp_path / "bert"))
    for name in ("vocab.txt", "tokenizer.json"):
        (source / name).unlink(missing_ok=True)
    with pytest.raises(RequestError, match="has no vocabulary. Add its tokenizer.json or vocab.txt"):
        adopt_bert(MimoConfig.from_preset("micro"), str(source))


def test_a_missing_weight_is_named(swin):
    config, weights = adopt_swin(MimoConfig.from_preset("base"), str(swin))
    del weights["stages.1.0.mlp.2.bias"]
    with pytest.raises(RequestError, match=r"stages\.1\.0\.mlp\.2\.bias"):
        load_into(SwinTransformer(config.vision), weights, "swin")


def changed(
    source: Path, folder: Path, rename: Callable[[str], str | None], more: dict[str, torch.Tensor] | None = None
) -> str:
    """A copy of a checkpoint with other names of weights; None leaves a weight out."""
    shutil.copytree(source, folder)
    weights = load_file(folder / "model.safetensors")
    kept = {new: value for name, value in weights.items() if (new := rename(name)) is not None} | (more or {})
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    return str(folder)


PREFIXES = (
    "swin.",
    "bert.",
    "roberta.",
    "backbone.",
    "encoder.",
    "model.",
    "module.",
    "base_model.",
    "module.swin.",
    "my.net.",
)


def test_a_network_inside_of_another_model_is_read(swin, bert, tmp_path):
    micro = MimoConfig.from_preset("micro")
    plain = [adopt(micro, str(source))[1] for adopt, source in ((adopt_swin, swin), (adopt_bert, bert))]
    for number, prefix in enumerate(PREFIXES):
        head = {"head.weight": torch.ones(2, 2)}
        for adopt, source, wanted in ((adopt_swin, swin, plain[0]), (adopt_bert, bert, plain[1])):
            folder = tmp_path / f"{source.name}{number}"
            weights = adopt(micro, changed(source, folder, lambda name: prefix + name, head))[1]  # noqa: B023
            assert weights.keys() == wanted.keys() and all(torch.equal(weights[k], wanted[k]) for k in wanted), prefix


def test_weights_without_a_place_are_named(swin, bert, tmp_path):
    def message(adopt, source, rename, more=None) -> str:
        with pytest.raises(RequestError) as caught:
            adopt(MimoConfig.from_preset("micro"), changed(source, tmp_path / f"{len(list(tmp_path.iterdir()))}", rename, more))
        assert len(str(caught.value)) <= 300
        return str(caught.value)

    lacks = message(adopt_swin, swin, lambda name: None if "layers.2." in name else name)
    assert "lacks weights of the network: encoder.layers.2." in lacks and "more" in lacks
    assert "lacks weights of the network: encoder.layer.1." in message(
        adopt_bert, bert, lambda name: None if "layer.1." in name else f"module.{name}"
    )
    extra = {"encoder.layer.2.output.dense.weight": torch.ones(32, 64)}
    assert "without a place in the network: encoder.layer.2." in message(adopt_bert, bert, lambda name: name, extra)
    table = "embeddings.word_embeddings.weight"
    wrong = message(adopt_bert, bert, lambda name: None if name == table else name, {table: torch.ones(9, 32)})
    assert f"another shape than its config.json: {table}" in wrong
    twice = {f"teacher.{table}": torch.ones(9, 32)}
    assert "more than one bert network: student., teacher." in message(adopt_bert, bert, lambda name: f"student.{name}", twice)
    nan = message(adopt_bert, bert, lambda name: None if name == table else name, {table: torch.full((112, 32), torch.nan)})
    assert f"not finite: {table}" in nan
    assert "lacks weights" in message(adopt_swin, swin, lambda name: name.replace("embeddings", "patch_embed"))


@pytest.mark.slow
@pytest.mark.skipif(metadata.version("transformers").startswith("4."), reason="this is the test that transformers 4 runs")
def test_weights_of_transformers_4_57_are_read_too(repository, tmp_path):
    """The tests of this file with transformers 4.57, the last release that optimum-onnx 0.1 accepts.

    `make test-all` fetches its wheels beforehand; without them, pip's cache and index serve.
    """
    wheels = repository / "build" / "wheelhouse-optimum-0.1"
    source = ["--no-index", "--find-links", str(wheels)] if (wheels / ".filled").exists() else []
    requirements = Path(__file__).with_name("transformers-4.57.txt")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", *source]
    run([*pip, "--target", str(tmp_path), "-r", str(requirements)])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    version = run([sys.executable, "-c", "import transformers; print(transformers.__version__)"], environment)
    assert version.startswith("4.57.")
    assert "10 passed" in run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__], environment)


def run(command: list[str], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout
