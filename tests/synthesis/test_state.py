from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medtail.errors import MedtailError
from medtail.synthesis.state import (
    Progress,
    joined,
    moment_tensors,
    part,
    read_state,
    restore_moments,
    write_state,
    write_tensors,
)


def test_a_state_comes_back_as_it_was_written(tmp_path: Path) -> None:
    tensors = joined(model={"w": torch.arange(3.0)}, average={"w": torch.ones(3)})
    progress = Progress(steps_done=5, data="d", log=({"stage": "denoiser", "train_loss": 0.1},), seconds=1.5)
    write_state(tmp_path / "s.safetensors", tensors=tensors, progress=progress)
    found, again = read_state(tmp_path / "s.safetensors")
    assert again == progress
    assert torch.equal(part(found, "model")["w"], torch.arange(3.0))
    assert list(part(found, "average")) == ["w"]


def test_an_optimizer_goes_on_as_if_never_stopped() -> None:
    def build() -> tuple[torch.nn.Linear, torch.optim.Optimizer]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = torch.nn.Linear(3, 2)
        return model, torch.optim.AdamW(model.parameters(), lr=0.1)

    def step(model: torch.nn.Linear, optimizer: torch.optim.Optimizer, number: int) -> None:
        optimizer.zero_grad()
        (model(torch.full((1, 3), float(number))) ** 2).sum().backward()
        optimizer.step()

    model, optimizer = build()
    for number in range(4):
        step(model, optimizer, number)
    first, other = build()
    for number in range(2):
        step(first, other, number)
    second, fresh = build()
    second.load_state_dict(first.state_dict())
    restore_moments(fresh, moment_tensors(other))
    for number in range(2, 4):
        step(second, fresh, number)
    assert torch.equal(second.weight, model.weight)


@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle", b"not safetensors at all"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s.safetensors").write_bytes(content)
    with pytest.raises(MedtailError, match="is not a readable safetensors file"):
        read_state(tmp_path / "s.safetensors")


def test_another_format_is_refused_by_name(tmp_path: Path) -> None:
    write_tensors(tmp_path / "s.safetensors", {"w": torch.ones(1)}, {"format": "other/9"})
    with pytest.raises(MedtailError, match="format 'other/9' is unknown"):
        read_state(tmp_path / "s.safetensors")
    write_tensors(
        tmp_path / "t.safetensors",
        {"w": torch.ones(1)},
        {"format": "medtail-synthesis-state/1", "progress": {"steps": 1}},
    )
    with pytest.raises(MedtailError, match="header is damaged"):
        read_state(tmp_path / "t.safetensors")
