from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from medtail.errors import MedtailError
from medtail.training.state import Progress, optimizer_state, optimizer_tensors, read_state, write_state


def test_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    tensors = {"model/a": torch.rand(3, 2), "optimizer/0.step": torch.tensor(7.0), "n": torch.tensor(3)}
    progress = Progress().after_epoch({"epoch": 1, "tune_map": 0.1}, tune_map=0.1, seconds=1.5, sampler={"seed": 0})
    write_state(tmp_path / "s.safetensors", tensors=tensors, progress=progress)
    back, again = read_state(tmp_path / "s.safetensors")
    assert again == progress
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


def test_epochs_may_be_compared_by_decoded_f1_instead_of_map() -> None:
    found = Progress()
    for tune_map, tune_f1 in ((0.5, 0.2), (0.4, 0.4), (0.6, 0.4), (0.9, None), (0.7, 0.3)):
        found = found.after_epoch({}, tune_map=tune_map, tune_f1=tune_f1, seconds=1.0, sampler={}, keep="best_f1")
    assert (found.best_epoch, found.best_f1, found.best_map) == (1, 0.4, 0.4), "the earlier of equals"


def test_pickle_in_place_of_the_state_is_refused_without_being_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return (Path.touch, (tmp_path / "executed",))

    (tmp_path / "s.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(MedtailError, match="is not a readable state"):
        read_state(tmp_path / "s.safetensors")
    assert not (tmp_path / "executed").exists()


def test_another_file_of_tensors_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1)}, tmp_path / "s.safetensors")
    with pytest.raises(MedtailError, match="format None is unknown; expected 'medtail-state/1'"):
        read_state(tmp_path / "s.safetensors")


def test_earliest_of_equally_good_epochs_is_the_best() -> None:
    progress = Progress()
    for value in (None, 0.3, 0.5, 0.5, 0.4, None):
        progress = progress.after_epoch({}, tune_map=value, seconds=0.0, sampler={})
    assert (progress.best_epoch, progress.best_map, progress.epochs_done) == (2, 0.5, 6)


def test_optimizer_moments_survive_the_round_trip() -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = optimizer_state(optimizer_tensors(optimizer))
    expected = optimizer.state_dict()["state"]
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[n][k], expected[n][k]) for n in expected for k in expected[n])
