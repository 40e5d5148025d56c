from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medtail.errors import MedtailError
from medtail.synthesis.config import BalanceConfig, DenoiserTraining
from medtail.synthesis.denoiser import Denoiser
from medtail.synthesis.objective import StepDraws, balance_loss, denoising_loss, dice_loss, draw_step
from medtail.synthesis.schedules import add_noise, signal_shares, training_target
from medtail.synthesis.sizes import SIZES

TINY = SIZES["tiny"]
SHARES = signal_shares(TINY.schedule)


def network(*, condition: bool = True, perception: bool = True) -> Denoiser:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Denoiser(TINY, num_classes=3, size_px=32, condition_branch=condition, perception_branch=perception)


def draws(*, sketch_dropped: list[bool], class_dropped: list[bool] | None = None) -> StepDraws:
    random = torch.Generator().manual_seed(2)
    return StepDraws(
        torch.tensor([5, 20, 60, 90]),
        torch.randn(4, 4, 8, 8, generator=random),
        torch.tensor(class_dropped or [False] * 4),
        torch.tensor(sketch_dropped),
    )


def loss_of(denoiser: Denoiser, drawn: StepDraws, *, weight: float = 0.1, has: bool = True) -> tuple[Tensor, dict]:
    random = torch.Generator().manual_seed(1)
    return denoising_loss(
        denoiser,
        torch.randn(4, 4, 8, 8, generator=random),
        present=torch.eye(4)[:, :3],
        sketches=torch.rand(4, 1, 32, 32, generator=random).round(),
        has_sketch=torch.full((4,), has),
        draws=drawn,
        shares=SHARES,
        prediction="v",
        perception_weight=weight,
    )


def gradient_of_head(denoiser: Denoiser, drawn: StepDraws, *, has: bool = True) -> float:
    denoiser.zero_grad()
    loss_of(denoiser, drawn, has=has)[0].backward()
    return max(float(p.grad.abs().max()) for p in denoiser.perception_head.parameters() if p.grad is not None)


def test_no_gradient_reaches_the_perception_head_when_every_sketch_is_given() -> None:
    denoiser = network()
    assert gradient_of_head(denoiser, draws(sketch_dropped=[False] * 4)) == 0.0
    assert gradient_of_head(denoiser, draws(sketch_dropped=[False, True, False, False])) > 0.0


def test_an_empty_sketch_is_never_given_so_it_is_perceived() -> None:
    assert gradient_of_head(network(), draws(sketch_dropped=[False] * 4), has=False) > 0.0


def test_without_the_condition_branch_every_row_is_perceived() -> None:
    assert gradient_of_head(network(condition=False), draws(sketch_dropped=[False] * 4)) > 0.0


def test_without_perception_the_loss_is_the_mean_squared_error() -> None:
    denoiser, drawn = network(perception=False), draws(sketch_dropped=[True] * 4, class_dropped=[True, False] * 2)
    found, parts = loss_of(denoiser, drawn)
    latents = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    share = SHARES[drawn.timesteps]
    classes = denoiser.class_vectors(torch.eye(4)[:, :3], dropped=drawn.class_dropped)
    noisy = add_noise(latents, drawn.noise, share)
    answer = denoiser(noisy, drawn.timesteps, classes=classes, sketches=None, given=None)
    target = training_target(latents, drawn.noise, share, prediction="v")
    assert torch.allclose(found, torch.nn.functional.mse_loss(answer.prediction, target), atol=1e-6)
    assert list(parts) == ["noise"]


def test_the_perception_loss_is_weighed_by_the_signal_that_is_there() -> None:
    denoiser, drawn = network(), draws(sketch_dropped=[True] * 4)
    total, parts = loss_of(denoiser, drawn, weight=0.1)
    plain, _ = loss_of(denoiser, drawn, weight=0.0)
    share = SHARES[drawn.timesteps]
    expected = 0.1 * share.mean() * (parts["contour_bce"] + parts["contour_dice"])
    assert torch.allclose(total - plain, expected, atol=1e-5)


def test_the_shares_left_out_are_those_asked_for() -> None:
    drawn = draw_step((40_000, 4, 1, 1), DenoiserTraining(), timesteps=100, generator=torch.Generator().manual_seed(0))
    both = drawn.class_dropped & drawn.sketch_dropped
    for found, wanted in (
        (both, 0.1),
        (drawn.sketch_dropped & ~drawn.class_dropped, 0.45),
        (drawn.class_dropped & ~drawn.sketch_dropped, 0.05),
    ):
        assert abs(float(found.float().mean()) - wanted) < 3 * (wanted * (1 - wanted) / 40_000) ** 0.5
    assert set(drawn.timesteps.tolist()) == set(range(100))


def test_shares_beyond_one_are_refused() -> None:
    with pytest.raises(MedtailError, match=r"drop_both \+ drop_sketch \+ drop_class: found 1\.2"):
        DenoiserTraining(drop_both=0.7, drop_sketch=0.5, drop_class=0.0)


def test_dice_is_0_for_the_same_line_and_near_1_for_another() -> None:
    line, other = torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16)
    line[..., 3], other[..., 12] = 1, 1
    assert float(dice_loss(line, line)) == 0.0
    assert float(dice_loss(line, other)) == pytest.approx(1 - 1 / 33)
    assert float(dice_loss(torch.zeros_like(line), torch.zeros_like(line))) == 0.0


def test_the_balancing_term_is_0_for_the_same_class_and_grows_with_its_weights() -> None:
    denoiser, drawn = network(), draws(sketch_dropped=[True] * 4)
    latents = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    present = torch.eye(4)[:, :3]

    def term(other: Tensor, **settings: float) -> Tensor:
        config = BalanceConfig(**settings)
        return balance_loss(denoiser, latents, present=present, other=other, draws=drawn, shares=SHARES, config=config)

    assert term(present.clone()).item() == 0.0
    other = torch.roll(present, 1, dims=1)
    assert term(other, tau=2e-3).item() == pytest.approx(2 * term(other, tau=1e-3).item(), rel=1e-5)
    assert term(other, gamma=1.0).item() == pytest.approx(2 * term(other, gamma=0.0).item(), rel=1e-5)
    denoiser.zero_grad()
    term(other, gamma=0.0).backward()
    table = denoiser.class_table.grad
    assert table is not None
    assert float(table[:3].abs().max()) > 0
