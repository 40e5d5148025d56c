from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from medtail.config import build_config
from medtail.errors import UsageError
from medtail.losses.build import BceConfig
from medtail.losses.contract import DrawnCounts, LossContext
from medtail.losses.domain import domain_mmd
from medtail.losses.objective import Step
from medtail.losses.objectives import build_objective
from medtail.losses.spectral import batch_spectral_shrinkage
from medtail.losses.tasks import Task, TasksObjective, TasksObjectiveConfig, side_weights, task_columns, task_name
from medtail.tables.labels import LabelSpace

NAN = math.nan
SUBTYPES = LabelSpace.from_columns(["FTC", "MTC", "ATC"])
FOUR_WAY = LabelSpace.from_columns(["type=ATC", "type=FTC", "type=MTC", "type=benign"])
SUBTYPE_CONTEXT = LossContext((20, 10, 5), (120, 110, 105), (), 135, labels=SUBTYPES, num_domains=3)
FOUR_WAY_CONTEXT = LossContext((5, 20, 10, 100), (135,) * 4, ((0, 1, 2, 3),), 135, labels=FOUR_WAY, num_domains=3)
MIXED = LabelSpace.from_columns(["halo", "shape=oval", "shape=round"])
MIXED_CONTEXT = LossContext((9, 30, 10), (40, 40, 40), ((1, 2),), 45, labels=MIXED, num_domains=3)


def objective(context: LossContext = SUBTYPE_CONTEXT, **settings: Any) -> TasksObjective:
    return TasksObjective(TasksObjectiveConfig(**settings), context=context)


def subtype_step(rows: int = 32, *, seed: int = 0, dim: int = 6, num_domains: int = 3, **changes: Any) -> Step:
    """A batch of benign rows and three subtypes, each not assessed for the other two."""
    random = torch.Generator().manual_seed(seed)
    kind = torch.arange(rows) % 4
    targets = torch.full((rows, 3), NAN)
    targets[kind == 3] = 0.0
    for column in range(3):
        targets[kind == column, column] = 1.0
    step = Step(
        logits=torch.randn(rows, 3, generator=random, dtype=torch.float64),
        targets=targets,
        pooled=torch.randn(rows, dim, generator=random, dtype=torch.float64),
        domains=torch.randint(num_domains, (rows,), generator=random),
        streams=torch.zeros(rows, dtype=torch.long),
        hardness=torch.full((rows,), NAN),
        progress=0.25,
        epoch=1,
    )
    return replace(step, **changes)


def with_leaves(step: Step) -> Step:
    return replace(
        step,
        logits=step.logits.clone().requires_grad_(True),
        pooled=step.pooled.clone().requires_grad_(True),
    )


def gradients(loss: TasksObjective, step: Step) -> tuple[Tensor, Tensor, Tensor]:
    leaves = with_leaves(step)
    value = loss(leaves).total
    value.backward()
    assert leaves.logits.grad is not None
    found = leaves.pooled.grad
    return value.detach(), leaves.logits.grad, torch.zeros_like(leaves.pooled) if found is None else found


# --- config --------------------------------------------------------------------------------------------------------


def test_shares_add_up_to_one_or_leave_mmd_beside_them() -> None:
    TasksObjectiveConfig(lambda1=0.0, lambda2=0.7, lambda3=0.3, lambda4=0.0)
    TasksObjectiveConfig(lambda1=0.5, lambda2=0.3, lambda3=1.0, lambda4=0.2)
    for shares in (
        {"lambda1": 0.5},
        {"lambda3": 1.0},
        {"lambda1": 0.0, "lambda2": 0.0, "lambda3": 0.0, "lambda4": 0.0},
    ):
        with pytest.raises(UsageError, match=r"which add up to .*; expected 1 \(or lambda3 = 1 and the other three"):
            build_config(TasksObjectiveConfig, shares, where="csasn.yaml")


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"cross": "over_n"}, r"csasn.yaml, cross: found 'over_n'; expected 'mean' or 'over_b'"),
        ({"bss_counts": 2}, r"bss_counts: unknown key; did you mean 'bss_count'"),
        ({"bss_eta": -1.0}, r"bss_eta: found -1.0; expected a value greater than or equal to 0"),
        ({"domain_column": ""}, r"domain_column: found ''"),
    ],
)
def test_mistakes_are_named_with_their_place(written: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_config(TasksObjectiveConfig, written, where="csasn.yaml")


def test_it_is_built_from_its_kind_and_checked_again() -> None:
    built = build_objective(TasksObjectiveConfig(), loss=BceConfig(), context=SUBTYPE_CONTEXT)
    assert isinstance(built, TasksObjective)
    with pytest.raises(UsageError, match=r"objective, gamma: found -1\.0"):
        build_objective(TasksObjectiveConfig(gamma=-1.0), loss=BceConfig(), context=SUBTYPE_CONTEXT)


# --- tasks ---------------------------------------------------------------------------------------------------------


def test_a_group_is_one_task_under_softmax_and_its_classes_are_tasks_under_the_sigmoid() -> None:
    assert task_columns(MIXED_CONTEXT, link="softmax") == ((0,), (1, 2))
    assert task_columns(MIXED_CONTEXT, link="sigmoid") == ((0,), (1,), (2,))
    names = [task_name(columns, context=MIXED_CONTEXT) for columns in task_columns(MIXED_CONTEXT, link="softmax")]
    assert names == ["halo", "shape"]
    nameless = replace(MIXED_CONTEXT, labels=None)
    assert [task_name(columns, context=nameless) for columns in ((0,), (1, 2))] == ["task_0", "task_1"]
    assert objective(MIXED_CONTEXT).link == "softmax"
    assert objective(MIXED_CONTEXT, link="sigmoid").part_names[-3:] == (
        "weight_halo",
        "weight_shape=oval",
        "weight_shape=round",
    )


def test_labels_are_those_of_rows_that_certainly_have_one() -> None:
    task = Task((0,), name="halo", context=MIXED_CONTEXT, gamma=0.0, beta=0.0)
    targets = torch.tensor([[1.0, 0, 0], [0.0, 1, 0], [NAN, 1, 0], [0.4, 0, 1]])
    assert task.labels(targets).tolist() == [1, 0, -1, -1]
    assert task.counts(targets).tolist() == [True, True, False, True]
    group = Task((1, 2), name="shape", context=MIXED_CONTEXT, gamma=0.0, beta=0.0)
    targets = torch.tensor([[0.0, 1, 0], [0.0, 0, 1], [0.0, 0, 0], [0.0, NAN, 1], [0.0, 0.4, 0.6]])
    assert group.labels(targets).tolist() == [0, 1, -1, -1, -1]
    assert group.counts(targets).tolist() == [True, True, False, False, True]


def test_class_weights_come_from_what_the_sampler_draws() -> None:
    """A sampler that draws both sides alike leaves nothing to weigh; sampler and weights do not compound."""
    by_fold = side_weights(SUBTYPE_CONTEXT, (2,), beta=0.999)
    assert by_fold[1] > 10 * by_fold[0]
    assert by_fold.mean() == pytest.approx(1.0)
    raw = [(1 - 0.999) / (1 - 0.999**count) for count in (100, 5)]
    assert by_fold == pytest.approx(np.array(raw) / np.mean(raw))
    balanced = replace(SUBTYPE_CONTEXT, drawn=DrawnCounts((30.0, 30.0, 32.5), (60.0, 60.0, 65.0)))
    assert side_weights(balanced, (2,), beta=0.999) == pytest.approx([1.0, 1.0])
    assert side_weights(FOUR_WAY_CONTEXT, (0, 1, 2, 3), beta=0.0) == pytest.approx([1.0] * 4)
    unseen = replace(SUBTYPE_CONTEXT, drawn=DrawnCounts((0.0, 0.0, 0.0), (60.0, 0.0, 65.0)))
    assert side_weights(unseen, (0,), beta=0.9).tolist() == [1.0, 0.0]
    assert side_weights(unseen, (1,), beta=0.9).tolist() == [1.0, 1.0]


# --- focal loss and cross-entropy ----------------------------------------------------------------------------------


def test_focal_without_focus_or_weights_is_cross_entropy_and_torchs_own() -> None:
    step = subtype_step()
    loss = objective(gamma=0.0, beta=0.0, lambda1=1.0, lambda2=0.0, lambda3=0.0, lambda4=0.0, uncertainty=None)
    parts = loss(step).parts
    expected = []
    for column in range(3):
        rows = ~step.targets[:, column].isnan()
        expected.append(
            binary_cross_entropy_with_logits(step.logits[rows, column], step.targets[rows, column].double()).item()
        )
    assert parts["focal"].item() == pytest.approx(np.mean(expected), rel=1e-12)
    assert parts["ce"].item() == pytest.approx(np.mean(expected), rel=1e-12)
    assert loss(step).total.item() == pytest.approx(sum(expected), rel=1e-12)


def test_two_way_softmax_is_the_sigmoid_of_the_difference() -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 2, generator=random, dtype=torch.float64)
    present = torch.randint(2, (20,), generator=random)
    two_way = LossContext((5, 15), (20, 20), ((0, 1),), 20)
    with pytest.warns(UserWarning, match="there is one task"):
        pair = objective(two_way, beta=0.0)(Step.of(logits, torch.eye(2)[present])).parts
    one = LossContext((15,), (20,), (), 20)
    with pytest.warns(UserWarning, match="there is one task"):
        single = objective(one, beta=0.0)(Step.of(logits[:, 1:] - logits[:, :1], present[:, None].float())).parts
    for name in ("ce", "focal"):
        assert pair[name].item() == pytest.approx(single[name].item(), rel=1e-12)
    assert pair["ce"].item() == pytest.approx(cross_entropy(logits, present).item(), rel=1e-12)


def oracle(step: Step, config: TasksObjectiveConfig, context: LossContext, *, thetas: list[float]) -> float:
    """The total of the subtype view from the formulas, row by row."""
    total = 0.0
    shrunk = batch_spectral_shrinkage(step.pooled, count=config.bss_count, eta=config.bss_eta).item()
    for column in range(step.targets.shape[1]):
        raw = [
            (1 - config.beta) / (1 - config.beta**count)
            for count in (context.assessed[column] - context.positives[column], context.positives[column])
        ]
        focal = entropy = 0.0
        values, rows = step.targets[:, column].tolist(), 0
        for logit, value in zip(step.logits[:, column].tolist(), values, strict=True):
            if math.isnan(value):
                continue
            rows += 1
            p = 1 / (1 + math.exp(-logit if value else logit))
            entropy -= math.log(p)
            focal -= raw[int(value)] / np.mean(raw) * (1 - p) ** config.gamma * math.log(p)
        labels = [-1 if math.isnan(value) else int(value) for value in values]
        mmd = domain_mmd(step.pooled, labels=labels, domains=step.domains.tolist()).item()
        loss = config.lambda1 * focal / rows + config.lambda2 * entropy / rows
        loss += config.lambda3 * mmd + config.lambda4 * shrunk
        s = 4 * math.tanh(thetas[column] / 4)
        total += 0.5 * math.exp(-s) * loss + 0.5 * s
    return total


def test_the_total_is_the_formula() -> None:
    step = subtype_step()
    config = TasksObjectiveConfig(
        lambda1=0.3, lambda2=0.4, lambda3=0.2, lambda4=0.1, bss_eta=0.5, bss_count=2, beta=0.99
    )
    loss = TasksObjective(config, context=SUBTYPE_CONTEXT)
    thetas = [0.7, -1.5, 3.0]
    assert loss.weights is not None
    with torch.no_grad():
        loss.weights.theta.copy_(torch.tensor(thetas))
    value = loss(step)
    assert value.total.item() == pytest.approx(oracle(step, config, SUBTYPE_CONTEXT, thetas=thetas), rel=1e-6)
    assert set(value.parts) == set(loss.part_names)
    assert value.parts["mmd"] > 0
    assert value.parts["bss"] > 0
    assert value.parts["weight_MTC"].item() == pytest.approx(math.exp(-4 * math.tanh(-1.5 / 4)), rel=1e-6)
    value.total.backward()
    assert (loss.weights.theta.grad != 0).all()


def test_the_four_way_view_is_one_softmax_task_with_sites_compared_within_each_class() -> None:
    random = torch.Generator().manual_seed(4)
    kinds = torch.arange(48) % 4
    step = Step(
        logits=torch.randn(48, 4, generator=random, dtype=torch.float64),
        targets=torch.eye(4)[kinds],
        pooled=torch.randn(48, 5, generator=random, dtype=torch.float64),
        domains=torch.randint(2, (48,), generator=random),
        streams=torch.zeros(48, dtype=torch.long),
        hardness=torch.full((48,), NAN),
    )
    loss = objective(FOUR_WAY_CONTEXT, uncertainty=None, gamma=1.5, beta=0.99)
    value = loss(step)
    raw = np.array([(1 - 0.99) / (1 - 0.99**count) for count in (5, 20, 10, 100)])
    p = torch.softmax(step.logits, dim=1)[torch.arange(48), kinds].numpy()
    focal = ((raw / raw.mean())[kinds] * (1 - p) ** 1.5 * -np.log(p)).mean()
    mmd = domain_mmd(step.pooled, labels=kinds.tolist(), domains=step.domains.tolist()).item()
    shrunk = batch_spectral_shrinkage(step.pooled).item()
    expected = 0.4 * focal + 0.4 * -np.log(p).mean() + 0.1 * mmd + 0.1 * shrunk
    assert value.total.item() == pytest.approx(expected, rel=1e-6)


# --- what was not assessed moves nothing ---------------------------------------------------------------------------


def test_rows_with_empty_targets_change_neither_value_nor_gradient() -> None:
    step = subtype_step()
    longer = {
        "logits": torch.cat([step.logits, 50 * torch.ones(5, 3, dtype=torch.float64)]),
        "targets": torch.cat([step.targets, torch.full((5, 3), NAN)]),
        "pooled": torch.cat([step.pooled, 9 * torch.ones(5, 6, dtype=torch.float64)]),
        "domains": torch.cat([step.domains, torch.zeros(5, dtype=torch.long)]),
    }
    loss = objective()
    value, of_logits, of_pooled = gradients(loss, step)
    found, with_empty, pooled_with_empty = gradients(loss, replace(step, **longer))
    torch.testing.assert_close(found, value)
    torch.testing.assert_close(with_empty[:32], of_logits)
    torch.testing.assert_close(pooled_with_empty[:32], of_pooled)
    assert (with_empty[32:] == 0).all()
    assert (pooled_with_empty[32:] == 0).all()


def test_a_cell_that_was_not_assessed_has_no_gradient_and_its_logit_no_effect() -> None:
    step = subtype_step()
    loss = objective()
    value, of_logits, _ = gradients(loss, step)
    empty = step.targets.isnan()
    assert (of_logits[empty] == 0).all()
    assert (of_logits[~empty] != 0).all()
    assert torch.equal(loss(replace(step, logits=torch.where(empty, 37.0, step.logits))).total, value)


def test_turning_a_row_of_one_subtype_into_another_moves_no_third_task() -> None:
    """Test 11 of the specification: ATC's focal loss, cross-entropy and gradient, with the same image."""
    step = subtype_step()
    turned = step.targets.clone()
    assert turned[0].nan_to_num(-1).tolist() == [1.0, -1.0, -1.0]
    turned[0] = torch.tensor([NAN, 1.0, NAN])
    only = {"lambda1": 0.5, "lambda2": 0.5, "lambda3": 0.0, "lambda4": 0.0, "uncertainty": None}
    before = gradients(objective(**only), step)[1]
    after = gradients(objective(**only), replace(step, targets=turned))[1]
    assert torch.equal(before[:, 2], after[:, 2])
    assert not torch.equal(before[:, 0], after[:, 0])
    assert not torch.equal(before[:, 1], after[:, 1])


def test_a_task_nobody_assessed_in_the_batch_is_left_out_and_its_weight_stays() -> None:
    step = subtype_step()
    targets = step.targets.clone()
    targets[:, 1] = NAN
    loss = objective()
    value = loss(replace(step, targets=targets))
    value.total.backward()
    assert loss.weights is not None
    assert loss.weights.theta.grad is not None
    assert loss.weights.theta.grad[1] == 0
    assert (loss.weights.theta.grad[[0, 2]] != 0).all()
    without = objective(LossContext((20, 5), (120, 105), (), 135))
    two = replace(step, targets=targets[:, [0, 2]], logits=step.logits[:, [0, 2]])
    torch.testing.assert_close(value.total, without(two).total)


def test_a_batch_without_any_assessed_cell_is_zero_with_zero_gradient() -> None:
    step = subtype_step()
    for loss in (objective(), objective(uncertainty=None)):
        value, of_logits, of_pooled = gradients(loss, replace(step, targets=torch.full((32, 3), NAN)))
        assert value.item() == 0.0
        assert (of_logits == 0).all()
        assert (of_pooled == 0).all()


# --- sites ---------------------------------------------------------------------------------------------------------


def test_all_terms_reach_the_features() -> None:
    step = subtype_step()
    mmd_only = {"lambda1": 0.0, "lambda2": 0.0, "lambda3": 1.0, "lambda4": 0.0}
    bss_only = {"lambda1": 0.0, "lambda2": 0.0, "lambda3": 0.0, "lambda4": 1.0}
    for shares in (mmd_only, bss_only):
        _, of_logits, of_pooled = gradients(objective(**shares), step)
        assert (of_logits == 0).all()
        assert of_pooled.abs().max() > 1e-6


def one_centre(step: Step) -> Step:
    return replace(step, domains=torch.zeros_like(step.domains))


def centre_of_one_row(step: Step) -> Step:
    return replace(step, domains=(torch.arange(len(step.domains)) == 0).long())


def one_class(step: Step) -> Step:
    return replace(step, targets=torch.zeros_like(step.targets))


def no_centre(step: Step) -> Step:
    return replace(step, domains=torch.full_like(step.domains, -1))


def one_row(step: Step) -> Step:
    return replace(
        step,
        **{name: getattr(step, name)[:1] for name in ("logits", "targets", "pooled", "domains", "streams", "hardness")},
    )


def equal_rows(step: Step) -> Step:
    return replace(step, pooled=torch.ones_like(step.pooled))


@pytest.mark.parametrize(
    ("bad", "skipped"),
    [
        (one_centre, 1.0),
        (centre_of_one_row, 1.0),
        (one_class, 0.0),
        (no_centre, 1.0),
        (one_row, 1.0),
        (equal_rows, 0.0),
    ],
)
@pytest.mark.parametrize("literal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_poor_batches_are_counted_and_never_no_number(
    bad: Any, skipped: float, literal: bool, dtype: torch.dtype
) -> None:
    settings: dict[str, Any] = {"cross": "over_b", "bss": "literal", "uncertainty": "paper_form"} if literal else {}
    loss = objective(**settings)
    step = subtype_step()
    step = bad(replace(step, logits=step.logits.to(dtype), pooled=step.pooled.to(dtype)))
    value, of_logits, of_pooled = gradients(loss, step)
    assert torch.isfinite(value)
    assert torch.isfinite(of_logits).all()
    assert torch.isfinite(of_pooled).all()
    parts = loss(step).parts
    assert parts["mmd_skipped"].item() == skipped
    assert bool(parts["mmd"].isnan()) is (skipped == 1.0)


def test_a_batch_of_one_class_compares_the_sites_of_that_class() -> None:
    parts = objective()(one_class(subtype_step())).parts
    assert parts["mmd"].item() > 0


def test_without_a_second_site_in_the_train_fold_the_share_of_mmd_goes_to_the_cross_entropy_aloud() -> None:
    context = replace(SUBTYPE_CONTEXT, num_domains=1)
    with pytest.warns(UserWarning, match=r"lambda3: found 1 values of 'site'.*its share 0.1 goes to the cross-entropy"):
        loss = objective(context)
    assert loss.shares == (0.4, 0.5, 0.0, 0.1)
    step = subtype_step()
    expected = objective(lambda2=0.5, lambda3=0.0)(step)
    assert torch.equal(loss(step).total, expected.total)
    assert loss(step).parts["mmd_skipped"].item() == 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "mmd" not in objective(context, lambda2=0.5, lambda3=0.0).part_names
        assert objective(context, lambda2=0.5, lambda3=0.0).domain_column is None


def test_without_a_second_site_the_printed_shares_lose_mmd_and_nothing_else() -> None:
    context = replace(SUBTYPE_CONTEXT, num_domains=0)
    with pytest.warns(UserWarning, match="found 0 values of 'meta_scanner'.*its share 0 goes"):
        loss = objective(context, lambda1=0.5, lambda2=0.3, lambda3=1.0, lambda4=0.2, domain_column="meta_scanner")
    assert loss.shares == (0.5, 0.3, 0.0, 0.2)
    assert loss.domain_column == "meta_scanner"


def test_the_printed_cross_term_is_kept_outside_the_learnt_weights() -> None:
    step = subtype_step(64)
    outside = objective(cross="over_b", kernel_sum=True)
    value = outside(step)
    assert value.parts["mmd"] < 0
    rest = objective()
    # at s = 0 the weighted part is half of the sum of the other three terms
    three = rest(replace(step, domains=torch.zeros_like(step.domains))).total
    torch.testing.assert_close(value.total, three + 0.1 * 3 * value.parts["mmd"])
    value.total.backward()
    rest(replace(step, domains=torch.zeros_like(step.domains))).total.backward()
    assert outside.weights is not None
    assert rest.weights is not None
    torch.testing.assert_close(outside.weights.theta.grad, rest.weights.theta.grad)


def test_the_sham_learns_from_shuffled_sites_and_the_log_tells_both() -> None:
    step = subtype_step(64)
    far = replace(step, pooled=step.pooled + 3.0 * step.domains[:, None])
    real, sham = objective(uncertainty=None), objective(uncertainty=None, shuffle_domains=True)
    first, second = real(far), sham(far)
    for name in ("mmd", "mmd_shuffled", "mmd_skipped"):
        torch.testing.assert_close(first.parts[name], second.parts[name])
    assert first.parts["mmd"] > 3 * first.parts["mmd_shuffled"]
    difference = first.total - second.total
    torch.testing.assert_close(difference, 0.3 * (first.parts["mmd"] - first.parts["mmd_shuffled"]))
    assert torch.equal(sham(far).total, second.total), "the same step deals the same"
    assert not torch.equal(sham(replace(far, progress=0.5)).total, second.total)


# --- learnt weights ------------------------------------------------------------------------------------------------


def test_one_task_has_no_learnt_weight_and_says_so() -> None:
    with pytest.warns(UserWarning, match=r"objective.uncertainty: there is one task.*set uncertainty: null"):
        loss = objective(FOUR_WAY_CONTEXT)
    assert list(loss.parameters()) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objective(FOUR_WAY_CONTEXT, uncertainty=None)


def test_without_learnt_weights_tasks_add_up() -> None:
    # shrinkage reads the rows of any task, so it is left out here
    settings = {"lambda1": 0.4, "lambda2": 0.5, "lambda3": 0.1, "lambda4": 0.0, "uncertainty": None}
    step = subtype_step()
    alone = []
    for c in range(3):
        context = LossContext(SUBTYPE_CONTEXT.positives[c : c + 1], SUBTYPE_CONTEXT.assessed[c : c + 1], (), 135)
        one = replace(step, logits=step.logits[:, c : c + 1], targets=step.targets[:, c : c + 1])
        alone.append(objective(context, **settings)(one).total)
    torch.testing.assert_close(objective(**settings)(step).total, torch.stack(alone).sum())
