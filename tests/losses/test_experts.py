from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from medtail.errors import MedtailError
from medtail.losses.build import CrossEntropyConfig, LogitAdjustedConfig, build_loss
from medtail.losses.contract import LossContext, masked_mean
from medtail.losses.experts import (
    Branches,
    BranchesConfig,
    SkillDiverse,
    SkillDiverseConfig,
    inverse_shifts,
    route,
)
from medtail.losses.objective import Step

CONTEXT = LossContext((40, 30, 10, 8), (80, 80, 80, 40), ((0, 1, 2),), 80)
LOSS = build_loss(CrossEntropyConfig(), CONTEXT)
TARGETS = torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, torch.nan], [0, 1, 0, 1]])


def step_of(count: int) -> Step:
    random = np.random.default_rng(0)
    routes = {route(number): torch.from_numpy(random.normal(size=(4, 4))).float() for number in range(count)}
    return replace(
        Step.of(torch.stack(list(routes.values())).mean(dim=0), TARGETS),
        further=routes,
        streams=torch.tensor([0, 0, 1, 1]),
    )


def test_first_layer_learns_the_first_stream_and_the_second_the_second() -> None:
    step = replace(step_of(2), progress=0.6)
    value = Branches(BranchesConfig(), loss=LOSS)(step)
    first = masked_mean(LOSS, step.further["expert_0"][:2], TARGETS[:2])
    second = masked_mean(LOSS, step.further["expert_1"][2:], TARGETS[2:])
    assert value.parts["natural"].item() == pytest.approx(first.item())
    assert value.parts["balanced"].item() == pytest.approx(second.item())
    assert value.total.item() == pytest.approx((0.64 * first + 0.36 * second).item())


def test_weight_moves_from_the_first_stream_to_the_second() -> None:
    objective, step = Branches(BranchesConfig(), loss=LOSS), step_of(2)
    parts = objective(step).parts
    assert objective(replace(step, progress=0.0)).total.item() == pytest.approx(parts["natural"].item())
    assert objective(replace(step, progress=1.0)).total.item() == pytest.approx(parts["balanced"].item())
    equal = Branches(BranchesConfig(schedule="equal"), loss=LOSS)
    for progress in (0.0, 0.9):
        mean = (parts["natural"] + parts["balanced"]) / 2
        assert equal(replace(step, progress=progress)).total.item() == pytest.approx(mean.item())


def test_consistency_is_the_squared_distance_of_scores_and_none_for_equal_layers() -> None:
    step = step_of(2)
    objective = Branches(BranchesConfig(schedule="equal", consistency=2.0), loss=LOSS)
    shares = []
    for logits in step.further.values():
        group = torch.softmax(logits[:, :3], dim=1)
        shares.append(torch.cat([group, torch.sigmoid(logits[:, 3:])], dim=1))
    expected = (shares[0] - shares[1]).square()[~TARGETS.isnan()].mean()
    value = objective(step)
    assert value.parts["consistency"].item() == pytest.approx(expected.item(), rel=1e-5)
    without = Branches(BranchesConfig(schedule="equal"), loss=LOSS)(step).total
    assert (value.total - without).item() == pytest.approx(2 * expected.item(), rel=1e-5)
    alike = replace(step, further={"expert_0": step.logits, "expert_1": step.logits})
    assert objective(alike).parts["consistency"].item() == 0.0


def test_second_skill_is_balanced_softmax_and_first_plain_cross_entropy() -> None:
    step = step_of(3)
    parts = SkillDiverse(SkillDiverseConfig(), context=CONTEXT)(step).parts
    assert parts["natural"].item() == pytest.approx(masked_mean(LOSS, step.further["expert_0"], TARGETS).item())
    adjusted = build_loss(LogitAdjustedConfig(tau=1.0), CONTEXT)
    expected = masked_mean(adjusted, step.further["expert_1"], TARGETS).item()
    assert parts["balanced"].item() == pytest.approx(expected, rel=1e-6)
    twice = SkillDiverse(SkillDiverseConfig(inverse=0.0), context=CONTEXT)
    same = replace(step, further={**step.further, "expert_2": step.further["expert_1"]})
    assert twice(same).parts["inverse"].item() == pytest.approx(expected, rel=1e-6)


def test_third_skill_wants_rare_classes_higher_than_the_second() -> None:
    # the best logits of an image that could be any class in its natural shares: log π - shift
    prior = np.array([0.5, 0.375, 0.125])
    turned = np.exp(inverse_shifts(CONTEXT, link="softmax"))
    np.testing.assert_allclose(turned, [0.125, 0.375, 0.5, 4.0])
    objective = SkillDiverse(SkillDiverseConfig(inverse=1.0), context=CONTEXT)
    assert objective._shifts[2].numpy() == pytest.approx(
        [*(np.log(prior) - np.log(turned[:3])), 2 * np.log(0.25)], rel=1e-6
    )


def test_a_head_with_another_number_of_experts_is_refused() -> None:
    with pytest.raises(MedtailError, match=r"head\.count: found 3 experts; the objective expected 2"):
        Branches(BranchesConfig(), loss=LOSS)(step_of(3))
