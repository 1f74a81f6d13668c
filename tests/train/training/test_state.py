"""Training states: gathering of tensors, and states of earlier releases."""

from __future__ import annotations

import json
import weakref
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from mimo_runtime.errors import RequestError
from mimo_train.checkpoint import save_tensors
from mimo_train.training import state
from mimo_train.training.config import TrainConfig
from mimo_train.training.state import Ema, Position, TrainingState, gather_state


def trained() -> tuple[nn.Module, Ema, torch.optim.Optimizer]:
    """A model after one step, so that the optimizer has moments and the average differs from the weights."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    ema, optimizer = Ema(model, 0.5), torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    ema.update(model, 0)
    return model, ema, optimizer


@pytest.mark.parametrize("keep", [True, False])
def test_one_whole_tensor_exists_at_a_time_and_only_the_writing_process_keeps_them(monkeypatch, keep):
    model, ema, optimizer = trained()
    gathered: list[weakref.ref[Tensor]] = []

    def full(share: Tensor) -> Tensor:
        """As of a share on another device: a tensor of its own."""
        assert keep or not any(whole() is not None for whole in gathered)
        whole = share.clone()
        gathered.append(weakref.ref(whole))
        return whole

    monkeypatch.setattr(state, "full", full)
    tensors = gather_state(model, ema, optimizer, keep)
    assert len(gathered) == 4 + 4 + 4 * 3  # weights, their average; two moments and the step of each
    if not keep:
        assert tensors == {}
        return
    expected = {f"model.{k}": v for k, v in model.state_dict().items()} | {f"ema.{k}": v for k, v in ema.weights.items()}
    for index, moments in optimizer.state_dict()["state"].items():
        expected |= {f"optimizer.{index}.{k}": v for k, v in moments.items()}
    assert list(tensors) == list(expected) and all(torch.equal(tensors[k], expected[k]) for k in expected)
    assert not any(v.requires_grad or v.device.type != "cpu" for v in tensors.values())
    assert not torch.equal(tensors["ema.0.weight"], tensors["model.0.weight"])


def test_a_state_with_the_option_names_of_earlier_releases_is_read(tmp_path):
    options = {"emphasis": ["a=2"], "paste": ["a=0.5"], "closer": 0.4, "corrections": 0.5, "steps": 8}
    metadata = {"step": "3", "elapsed": "1.5", "options": json.dumps(options)}
    save_tensors(tmp_path / "state.safetensors", {"model.x": torch.ones(2)}, metadata)
    same = TrainConfig(sampling_weights=("a=2",), copy_paste=("a=0.5",), crop_views=0.4, click_simulation=0.5)
    with pytest.warns(DeprecationWarning) as warned:
        state = TrainingState.read(tmp_path / "state.safetensors", same)
    names = "emphasis is now sampling_weights, paste is now copy_paste, closer is now crop_views"
    (message,) = [str(w.message) for w in warned]
    assert message == f"{tmp_path / 'state.safetensors'} has deprecated names: {names}, corrections is now click_simulation"
    assert state.position == Position(3, 1.5) and torch.equal(state.part("model.")["x"], torch.ones(2))
    with pytest.raises(RequestError, match="--resume with other options than the run had: --crop-views$|--crop-views\\."):
        TrainingState.read(tmp_path / "state.safetensors", replace(same, crop_views=0.3))
