"""Laws that every objective must obey, on multi-class, multi-label and mixed tasks.

A new member of `ObjectiveConfig` must be listed here: `test_every_member_of_the_union_is_under_the_laws` sees to it.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from medtail.losses.build import BceConfig, LossConfig
from medtail.losses.contract import LossContext
from medtail.losses.objective import Objective, Step
from medtail.losses.objectives import (
    BranchesConfig,
    ContrastConfig,
    InfluenceBalancedConfig,
    ObjectiveConfig,
    PartialLabelsConfig,
    PlainObjectiveConfig,
    SkillDiverseConfig,
    SopConfig,
    SyntusObjectiveConfig,
    TasksObjectiveConfig,
    TwoWayConfig,
    ZlprConfig,
    build_objective,
)

CONTEXTS = {
    "multiclass": LossContext((60, 30, 9, 0), (99, 99, 99, 99), ((0, 1, 2, 3),), 100),
    "multilabel": LossContext((50, 7, 1, 0, 80), (100, 90, 100, 60, 80), (), 100),
    "mixed": LossContext((40, 30, 20, 5, 0, 60, 3), (90, 90, 100, 90, 80, 70, 70), ((3, 0, 1), (5, 6)), 100),
}
CONFIGS: dict[str, ObjectiveConfig] = {
    "plain": PlainObjectiveConfig(),
    "tasks": TasksObjectiveConfig(),
    "tasks sigmoid": TasksObjectiveConfig(link="sigmoid", beta=0.0, gamma=0.5, uncertainty=None, shuffle_domains=True),
    "tasks literal": TasksObjectiveConfig(
        lambda1=0.4, lambda2=0.5, lambda3=1.0, lambda4=0.1, cross="over_b", bss="literal", uncertainty="paper_form"
    ),
    # its other parts need a head with two layers, or the labels of a lexicon
    "syntus": SyntusObjectiveConfig(consistency=None, lexical=None),
    "two_way": TwoWayConfig(),
    "two_way rows": TwoWayConfig(labelwise=False, positive_temperature=1.0, negative_temperature=0.5),
    "zlpr": ZlprConfig(),
    "partial_labels negative": PartialLabelsConfig(),
    "partial_labels expected": PartialLabelsConfig(unknown="expected", weight=2.0),
    "influence_balanced": InfluenceBalancedConfig(balance_from=0.2),
    "branches": BranchesConfig(),
    "branches equal": BranchesConfig(schedule="equal", consistency=0.3),
    "skill_diverse": SkillDiverseConfig(),
    "skill_diverse sigmoid": SkillDiverseConfig(link="sigmoid", inverse=1.0),
    "contrast": ContrastConfig(),
    "contrast one": ContrastConfig(negatives=1, weight=0.5, temperature=2.0),
    "sop": SopConfig(),
    "sop begun": SopConfig(start=0.4),
}
LOSS: LossConfig = BceConfig()
every_objective = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
every_context = pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS.keys())


def test_every_member_of_the_union_is_under_the_laws() -> None:
    assert {type(config) for config in CONFIGS.values()} == set(get_args(get_args(ObjectiveConfig)[0]))


def build(config: ObjectiveConfig, context: LossContext) -> Objective:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="objective.uncertainty: there is one task", category=UserWarning)
        return build_objective(config, loss=LOSS, context=replace(context, num_rows=50))


def random_step(context: LossContext, *, rows: int = 24, seed: int = 0) -> Step:
    """A step of which everything is known; about a quarter of the labels, and some sites, are not."""
    random = np.random.default_rng(seed)
    targets = (random.random((rows, context.num_classes)) < 0.4).astype(np.float32)
    targets[random.random(targets.shape) < 0.25] = np.nan
    for group in context.groups:
        picked = np.eye(len(group), dtype=np.float32)[random.integers(len(group), size=rows)]
        picked[random.random(rows) < 0.2] = np.nan
        targets[:, list(group)] = picked
    return Step(
        logits=torch.from_numpy(random.normal(0, 2, targets.shape)).float(),
        targets=torch.from_numpy(targets),
        pooled=torch.from_numpy(random.normal(0, 1, (rows, 10))).float(),
        domains=torch.from_numpy(random.integers(-1, 3, rows)),
        streams=torch.from_numpy(random.integers(0, 2, rows)),
        hardness=torch.from_numpy(random.random(rows)).float(),
        progress=0.4,
        epoch=2,
        rows=torch.from_numpy(random.permutation(50)[:rows]),
    )


def run(objective: Objective, step: Step) -> tuple[Tensor, Tensor, Tensor]:
    """Return the total and its gradients by logits and features."""
    logits, pooled = step.logits.clone().requires_grad_(True), step.pooled.clone().requires_grad_(True)
    total = objective(replace(step, logits=logits, pooled=pooled)).total
    total.backward()
    assert logits.grad is not None
    return total.detach(), logits.grad, torch.zeros_like(pooled) if pooled.grad is None else pooled.grad


@every_objective
@every_context
def test_the_parts_are_those_it_promises_and_carry_no_gradient(config: ObjectiveConfig, context: LossContext) -> None:
    objective = build(config, context)
    steps = [random_step(context), Step.of(torch.zeros(3, context.num_classes), torch.ones(3, context.num_classes))]
    steps.append(replace(steps[0], targets=torch.full_like(steps[0].targets, torch.nan)))
    assert len(set(objective.part_names)) == len(objective.part_names)
    for step in steps:
        value = objective(replace(step, logits=step.logits.clone().requires_grad_(True)))
        assert value.total.ndim == 0
        assert set(value.parts) == set(objective.part_names)
        for part in value.parts.values():
            assert part.ndim == 0
            assert not part.requires_grad


@every_objective
@every_context
def test_a_cell_that_was_not_assessed_moves_nothing(config: ObjectiveConfig, context: LossContext) -> None:
    if isinstance(config, PartialLabelsConfig):
        pytest.skip("to make something of such cells is what it is for")
    objective = build(config, context)
    step = random_step(context)
    total, by_logit, _ = run(objective, step)
    is_empty = step.targets.isnan()
    assert (by_logit[is_empty] == 0).all()
    assert by_logit.abs().max() > 0
    moved = replace(step, logits=torch.where(is_empty, step.logits + 7.0, step.logits))
    assert torch.equal(run(objective, moved)[0], total)


@every_objective
@every_context
def test_a_row_nobody_assessed_moves_nothing(config: ObjectiveConfig, context: LossContext) -> None:
    objective = build(config, context)
    step = random_step(context)
    targets = step.targets.clone()
    targets[:4] = torch.nan
    step = replace(step, targets=targets)
    total, by_logit, by_pooled = run(objective, step)
    assert (by_logit[:4] == 0).all()
    assert (by_pooled[:4] == 0).all()
    pooled = step.pooled.clone()
    pooled[:4] += 3.0
    torch.testing.assert_close(run(objective, replace(step, pooled=pooled))[0], total)


@every_objective
@every_context
def test_nothing_assessed_is_zero_with_zero_gradient(config: ObjectiveConfig, context: LossContext) -> None:
    objective = build(config, context)
    step = random_step(context)
    total, by_logit, by_pooled = run(objective, replace(step, targets=torch.full_like(step.targets, torch.nan)))
    assert total.item() == 0.0
    assert (by_logit == 0).all()
    assert (by_pooled == 0).all()
    for parameter in objective.parameters():  # in several processes every parameter needs a gradient in every step
        assert parameter.grad is not None
        assert (parameter.grad == 0).all()


@every_objective
@every_context
@pytest.mark.parametrize("size", [50.0, -50.0])
def test_value_and_gradients_are_finite_at_fifty(config: ObjectiveConfig, context: LossContext, size: float) -> None:
    objective = build(config, context)
    step = random_step(context)
    for pooled in (step.pooled, torch.zeros_like(step.pooled), 1e4 * step.pooled):
        for found in run(objective, replace(step, logits=torch.full_like(step.logits, size), pooled=pooled)):
            assert torch.isfinite(found).all()


@pytest.mark.parametrize(
    "kind", sorted(CONFIGS.keys() - {"tasks literal", "tasks sigmoid", "syntus"})
)  # a sham deals by place, the printed MMD cuts by place
@every_context
def test_the_order_of_rows_is_no_matter(kind: str, context: LossContext) -> None:
    config = CONFIGS[kind]
    objective = build(config, context)
    step = random_step(context)
    order = torch.randperm(len(step.logits), generator=torch.Generator().manual_seed(1))
    names = ("logits", "targets", "pooled", "domains", "streams", "hardness")
    turned = replace(step, **{name: getattr(step, name)[order] for name in names})
    torch.testing.assert_close(run(objective, turned)[0], run(objective, step)[0])


@every_objective
@every_context
def test_the_same_step_has_the_same_value_and_state_survives_saving(
    config: ObjectiveConfig, context: LossContext
) -> None:
    objective, again = build(config, context), build(config, context)
    step = random_step(context)
    optimizer = torch.optim.SGD([*objective.parameters(), torch.zeros(1, requires_grad=True)], lr=0.5)
    if list(objective.parameters()):
        objective(step).total.backward()
    optimizer.step()
    again.load_state_dict(objective.state_dict())
    torch.manual_seed(3)  # nothing is drawn from the global generator
    before = torch.get_rng_state()
    assert torch.equal(objective(step).total, again(step).total)
    assert torch.equal(torch.get_rng_state(), before)
