from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from medtail.errors import MedtailError
from medtail.synthesis.stages import Stage, ema_decay_at, rate_factor, run_stage
from medtail.synthesis.state import Progress, read_state


def stage(*, steps: int = 6, ema: float | None = 0.9, save_every: int = 2, stop_at: int | None = None) -> Stage:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Linear(4, 1)

    def loss(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        if step == stop_at:
            raise KeyboardInterrupt
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        value = (model(x) - x.sum(dim=1, keepdim=True)).square().mean()
        return value, {"twice": 2 * value.detach()}

    return Stage(
        name="denoiser",
        model=model,
        loss=loss,
        steps=steps,
        learning_rate=0.1,
        warmup=1,
        weight_decay=0.01,
        gradient_clip=0.5,
        ema_decay=ema,
        precision="32-true",
        device="cpu",
        save_every=save_every,
    )


def run(
    given: Stage, path: Path, *, resume: bool = False, tick: Callable[[int], None] = lambda done: None
) -> tuple[dict[str, Tensor], Progress]:
    tensors, progress = read_state(path) if resume else ({}, Progress())
    return run_stage(given, path=path, tensors=tensors, progress=progress, tick=tick, say=lambda text: None)


@pytest.mark.parametrize("ema", [None, 0.9])
@pytest.mark.parametrize("stop_at", [3, 5])
def test_a_stage_cut_off_goes_on_exactly(tmp_path: Path, ema: float | None, stop_at: int) -> None:
    whole, progress = run(stage(ema=ema), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(stage(ema=ema, stop_at=stop_at), tmp_path / "cut")
    again, resumed = run(stage(ema=ema), tmp_path / "cut", resume=True)
    assert all(torch.equal(again[name], whole[name]) for name in whole)
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in progress.log]
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in resumed.log] == rows
    assert [row["step"] for row in rows] == [2, 4, 6]


def test_a_finished_stage_is_not_run_again(tmp_path: Path) -> None:
    whole, _ = run(stage(), tmp_path / "s")
    again, _ = run(stage(stop_at=0), tmp_path / "s", resume=True)
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_it_does_what_a_plain_loop_does(tmp_path: Path) -> None:
    found, _ = run(stage(), tmp_path / "s")
    ours = stage()
    optimizer = torch.optim.AdamW(ours.model.parameters(), lr=0.1, weight_decay=0.01)
    average = [p.detach().clone() for p in ours.model.parameters()]
    for step in range(6):
        optimizer.param_groups[0]["lr"] = 0.1 * rate_factor(step, steps=6, warmup=1)
        optimizer.zero_grad()
        ours.loss(step)[0].backward()
        nn.utils.clip_grad_norm_(ours.model.parameters(), 0.5)
        optimizer.step()
        decay = ema_decay_at(step, 0.9)
        average = [decay * a + (1 - decay) * p.detach() for a, p in zip(average, ours.model.parameters(), strict=True)]
    assert torch.allclose(found["weight"], average[0], atol=1e-6)
    assert torch.allclose(found["bias"], average[1], atol=1e-6)


def test_the_log_has_means_since_the_row_before(tmp_path: Path) -> None:
    ticks: list[int] = []
    _, progress = run(stage(save_every=4), tmp_path / "s", tick=ticks.append)
    assert ticks == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in progress.log] == [4, 6]
    for row in progress.log:
        assert row["train_twice"] == pytest.approx(2 * float(row["train_loss"]), rel=1e-6)  # type: ignore[arg-type]


def test_a_loss_that_is_no_number_is_named_and_the_state_before_kept(tmp_path: Path) -> None:
    broken = stage()

    def loss(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        value, parts = stage_loss(step)
        return value * (float("nan") if step == 3 else 1.0), parts

    stage_loss = broken.loss
    object.__setattr__(broken, "loss", loss)
    said = r"denoiser, step 4: the loss is nan; expected.*images 'image 3' of t\.csv\. The state of step 2 is kept"
    with pytest.raises(MedtailError, match=said):
        run(replace(broken, images=lambda step: [f"image {step}"], table="t.csv"), tmp_path / "s")
    assert read_state(tmp_path / "s")[1].steps_done == 2


def test_a_gradient_that_is_no_number_is_refused_before_the_weights_move(tmp_path: Path) -> None:
    broken = stage()
    genuine = broken.loss

    def loss(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        value, parts = genuine(step)
        # adds 0 with a slope of 0 / 0
        return value + (((value - value) ** 2).sqrt() if step == 3 else 0.0), parts

    with pytest.raises(MedtailError, match=r"denoiser, step 4: the loss is finite, but not the gradient of 'weight'"):
        run(replace(broken, loss=loss), tmp_path / "s")
    assert read_state(tmp_path / "s")[1].steps_done == 2


def test_the_rate_rises_and_falls_to_nothing() -> None:
    factors = [rate_factor(step, steps=100, warmup=10) for step in range(100)]
    assert factors[:10] == sorted(factors[:10])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert max(factors) == factors[10] == 1.0
    assert factors[-1] == pytest.approx(0.0, abs=1e-12)
