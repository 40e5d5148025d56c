"""Laws that every loss must obey, on multi-class, multi-label and mixed tasks.

A new member of `LossConfig` must have an oracle here: `test_every_member_of_the_union_is_under_the_laws` sees to it.
"""

from __future__ import annotations

import dataclasses
import math
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from medtail.losses.build import (
    AslConfig,
    BceConfig,
    ClassBalancedConfig,
    CrossEntropyConfig,
    DbLightConfig,
    DistributionBalancedConfig,
    EqualizationConfig,
    FocalConfig,
    LdamConfig,
    LogitAdjustedConfig,
    LossConfig,
    RalConfig,
    build_loss,
    takes_soft_targets,
)
from medtail.losses.contract import Loss, LossContext, masked_mean, masked_row_means, masked_sum

CONTEXTS = {
    "multiclass": LossContext((60, 30, 9, 0), (99, 99, 99, 99), ((0, 1, 2, 3),), 100),
    "multilabel": LossContext((50, 7, 1, 0, 80), (100, 90, 100, 60, 80), (), 100),
    "mixed": LossContext((40, 30, 20, 5, 0, 60, 3), (90, 90, 100, 90, 80, 70, 70), ((3, 0, 1), (5, 6)), 100),
}
CONFIGS: dict[str, LossConfig] = {
    "bce": BceConfig(),
    "cross_entropy": CrossEntropyConfig(),
    "cross_entropy smoothed": CrossEntropyConfig(smoothing=0.1),
    "cross_entropy smoothed to the prior": CrossEntropyConfig(smoothing=0.2, toward="prior"),
    "focal": FocalConfig(),
    "focal fractional": FocalConfig(gamma=0.5, alpha=0.25),
    "focal sigmoid": FocalConfig(link="sigmoid", alpha=0.25),
    "class_balanced": ClassBalancedConfig(beta=0.99),
    "class_balanced focal sigmoid": ClassBalancedConfig(link="sigmoid", gamma=1.5),
    "class_balanced deferred": ClassBalancedConfig(beta=0.99, reweight_from=0.5),
    "logit_adjusted": LogitAdjustedConfig(),
    "logit_adjusted sigmoid": LogitAdjustedConfig(link="sigmoid", tau=0.7),
    "ldam": LdamConfig(),
    "ldam scaled": LdamConfig(scale=30.0, reweight_from=0.0, beta=0.99),
    "ldam sigmoid": LdamConfig(link="sigmoid", max_margin=0.3, reweight_from=None),
    "asl": AslConfig(),
    "asl weighted": AslConfig(prior_weights=True, clip=0.0, gamma_negative=2.0, gamma_positive=0.5),
    "asl fractional": AslConfig(gamma_negative=0.5, gamma_positive=0.0, clip=0.1),
    "distribution_balanced": DistributionBalancedConfig(),
    "distribution_balanced other": DistributionBalancedConfig(
        alpha=0.3, beta=4.0, mu=0.5, kappa=0.4, scale=2.0, gamma=0.5, bias_over_scale=False
    ),
    "ral": RalConfig(),
    "ral other": RalConfig(gamma_negative=0.5, gamma_positive=1.5, clip=0.0, linear=0.4, quadratic=0.0, hill=None),
    "equalization": EqualizationConfig(),
    "equalization all": EqualizationConfig(rare_below=1.0, keep=0.0),
    "db_light": DbLightConfig(),
    "db_light other": DbLightConfig(max_margin=1.5, beta=0.9),
}
NEUTRAL: dict[str, LossConfig] = {
    "bce": BceConfig(),
    "cross_entropy": CrossEntropyConfig(),
    "focal": FocalConfig(gamma=0.0),
    "focal sigmoid": FocalConfig(gamma=0.0, link="sigmoid"),
    "class_balanced": ClassBalancedConfig(beta=0.0),
    "class_balanced sigmoid": ClassBalancedConfig(beta=0.0, link="sigmoid"),
    "logit_adjusted": LogitAdjustedConfig(tau=0.0),
    "logit_adjusted sigmoid": LogitAdjustedConfig(tau=0.0, link="sigmoid"),
    "ldam": LdamConfig(max_margin=0.0, reweight_from=None),
    "ldam sigmoid": LdamConfig(max_margin=0.0, reweight_from=None, link="sigmoid"),
    "asl": AslConfig(gamma_negative=0.0, gamma_positive=0.0, clip=0.0),
    "distribution_balanced": DistributionBalancedConfig(alpha=0.0, beta=0.0, kappa=0.0, scale=1.0, gamma=0.0),
    "ral": RalConfig(gamma_negative=0.0, clip=0.0, linear=0.0, quadratic=0.0, hill=None),
    "equalization": EqualizationConfig(keep=1.0),
    "db_light": DbLightConfig(max_margin=0.0, beta=0.0),
}
every_loss = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
every_context = pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS.keys())


def random_batch(
    context: LossContext, *, rows: int = 12, seed: int = 0, missing: float = 0.25, none_of_them: float = 0.2
) -> tuple[Tensor, Tensor]:
    """Logits and valid targets in float64: one class a group or none of them (mixed tasks), some cells empty."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (rows, context.num_classes))
    targets = (random.random((rows, context.num_classes)) < 0.4).astype(float)
    is_multiclass = any(len(group) == context.num_classes for group in context.groups)
    for group in context.groups:
        picked = random.integers(len(group), size=rows)
        kept = is_multiclass | (random.random(rows) >= none_of_them)
        targets[:, list(group)] = np.eye(len(group))[picked] * np.reshape(kept, (-1, 1))
        targets[np.ix_(random.random(rows) < missing, list(group))] = np.nan
        targets[random.integers(rows), group[0]] = np.nan  # a group with one cell empty
    free = sorted(set(range(context.num_classes)) - {column for group in context.groups for column in group})
    holes = random.random(targets.shape) < missing
    holes[:, [column for column in range(context.num_classes) if column not in free]] = False
    targets[holes] = np.nan
    return torch.from_numpy(logits), torch.from_numpy(targets)


def test_every_member_of_the_union_is_under_the_laws() -> None:
    members = set(get_args(get_args(LossConfig)[0]))
    assert {type(config) for config in CONFIGS.values()} == members
    assert {type(config) for config in NEUTRAL.values()} == members


# --- the oracle: the formulas, cell by cell, in plain Python and float64 ---------------------------------------------


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def focal_pair(z: float, y: float, *, gamma: float = 0.0, alpha: float | None = None) -> float:
    p, q = sigmoid(z), sigmoid(-z)  # 1 - p would lose its digits for the scaled logits
    a, b = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    return -a * y * q**gamma * math.log(p) - b * (1 - y) * p**gamma * math.log(q)


def effective_weights(counts: list[int], beta: float) -> list[float]:
    raw = [(1 - beta) / (1 - beta**n) if n else 0.0 for n in counts]
    seen = [weight for weight in raw if weight]
    return [weight / (sum(seen) / len(seen)) if seen else 0.0 for weight in raw]


def oracle_cell(config: LossConfig, context: LossContext, z: list[float], y: list[float], c: int, done: float) -> float:
    """The value of one assessed cell from its row's logits and targets."""
    link = getattr(config, "link", "softmax" if isinstance(config, CrossEntropyConfig) else "sigmoid")
    group = next((g for g in context.groups if c in g and link == "softmax"), None)
    grouped = {column for g in context.groups for column in g} if link == "softmax" else set()
    block = list(group) if group else [k for k in range(context.num_classes) if k not in grouped]
    n, assessed = context.positives, context.assessed

    def shifted(k: int) -> float:
        match config:
            case LogitAdjustedConfig() if group:
                return z[k] + config.tau * math.log(max(n[k], 0.5) / sum(max(n[j], 0.5) for j in group))
            case LogitAdjustedConfig():
                held = min(max(n[k], 0.5), assessed[k] - 0.5)
                return z[k] + config.tau * math.log(held / (assessed[k] - held))
            case LdamConfig():
                rarest = min((n[j] for j in block if n[j]), default=1)
                margin = config.max_margin * (rarest / n[k]) ** 0.25 if n[k] else config.max_margin
                return config.scale * (z[k] - y[k] * margin)
        return z[k]

    if isinstance(config, DistributionBalancedConfig):
        held = [min(max(n[k], 0.5), assessed[k] - 0.5) for k in range(context.num_classes)]
        chance = sum(y[k] / held[k] for k in range(context.num_classes))
        ratio = 1 / held[c] / chance if chance > 0 else 1.0
        divisor = config.scale if config.bias_over_scale else 1.0
        z_c = z[c] - config.kappa * math.log(assessed[c] / held[c] - 1) / divisor
        positive = y[c] * sigmoid(-z_c) ** config.gamma * -math.log(sigmoid(z_c))
        stretched = config.scale * z_c
        negative = (1 - y[c]) * sigmoid(stretched) ** config.gamma * -math.log(sigmoid(-stretched)) / config.scale
        return 2 * (config.alpha + sigmoid(config.beta * (ratio - config.mu))) * (positive + negative)
    if isinstance(config, RalConfig):
        p, q = sigmoid(z[c]), max(sigmoid(z[c]) - config.clip, 0.0)
        series = math.log(p) + config.linear * (1 - p) - config.quadratic * (1 - p) ** 2
        positive = -y[c] * (1 - p) ** config.gamma_positive * series
        hill = 1.0 if config.hill is None else (config.hill - p) * (config.hill - (1 - q)) * p**2
        return positive - (1 - y[c]) * hill * q**config.gamma_negative * math.log(1 - q)
    if isinstance(config, EqualizationConfig):
        shown = max(y) if n[c] / assessed[c] < config.rare_below else 0.0
        kept = 1 - (1 - config.keep) * shown
        return -y[c] * math.log(sigmoid(z[c])) - kept * (1 - y[c]) * math.log(sigmoid(-z[c]))
    if isinstance(config, DbLightConfig):
        margin = config.max_margin * (n[c] / max(n)) ** 0.25
        return math.sqrt(effective_weights(list(n), config.beta)[c]) * focal_pair(z[c] - y[c] * margin, y[c])
    weight, gamma = 1.0, getattr(config, "gamma", 0.0)
    is_reweighted = isinstance(config, LdamConfig) and config.reweight_from is not None and done >= config.reweight_from
    is_reweighted |= isinstance(config, ClassBalancedConfig) and done >= config.reweight_from
    if is_reweighted:
        assert isinstance(config, ClassBalancedConfig | LdamConfig)
        weight = effective_weights([n[j] for j in block], config.beta)[block.index(c)]
    target = y[c]
    if isinstance(config, CrossEntropyConfig):
        even = sum(y[k] for k in group) / len(group) if group else 0.5
        if config.toward == "prior":
            held = {k: max(n[k], 0.5) for k in block}
            even = min(held[c], assessed[c] - 0.5) / assessed[c]
            if group:
                even = sum(y[k] for k in group) * held[c] / sum(held.values())
        target = (1 - config.smoothing) * y[c] + config.smoothing * even
    if isinstance(config, AslConfig):
        p, prior = sigmoid(z[c]), n[c] / assessed[c]
        q = max(p - config.clip, 0.0)
        positive, negative = (math.exp(1 - prior), math.exp(prior)) if config.prior_weights else (1.0, 1.0)
        present = positive * target * (1 - p) ** config.gamma_positive * math.log(p)
        return -present - negative * (1 - target) * q**config.gamma_negative * math.log(1 - q)
    if group:
        p = math.exp(shifted(c)) / sum(math.exp(shifted(k)) for k in group)
        return -weight * target * (1 - p) ** gamma * math.log(p)
    return weight * focal_pair(shifted(c), target, gamma=gamma, alpha=getattr(config, "alpha", None))


def oracle_terms(config: LossConfig, context: LossContext, logits: Tensor, targets: Tensor, done: float) -> list[float]:
    """Every counted term of a batch: assessed sigmoid cells, and rows of wholly assessed groups with a class."""
    link = getattr(config, "link", "softmax" if isinstance(config, CrossEntropyConfig) else "sigmoid")
    groups = context.groups if link == "softmax" else ()
    terms = []
    for z, y in zip(logits.tolist(), targets.tolist(), strict=True):
        known = [0.0 if math.isnan(value) else value for value in y]
        for group in groups:
            if not any(math.isnan(y[c]) for c in group) and sum(y[c] for c in group) > 0:
                terms.append(sum(oracle_cell(config, context, z, known, c, done) for c in group))
        for c in range(context.num_classes):
            if not any(c in group for group in groups) and not math.isnan(y[c]):
                terms.append(oracle_cell(config, context, z, known, c, done))
    return terms


@every_loss
@every_context
@pytest.mark.parametrize("progress", [0.0, 0.8])
def test_masked_mean_equals_a_slow_loop_over_the_formula(
    config: LossConfig, context: LossContext, progress: float
) -> None:
    logits, targets = random_batch(context)
    terms = oracle_terms(config, context, logits, targets, progress)
    total, count = masked_sum(build_loss(config, context), logits, targets, progress=progress)
    assert count.item() == len(terms) > 0
    assert total.item() == pytest.approx(sum(terms), rel=1e-5)
    found = masked_mean(build_loss(config, context), logits, targets, progress=progress)
    assert found.item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)


# --- the laws --------------------------------------------------------------------------------------------------------


@every_loss
@every_context
def test_a_loss_is_never_below_zero(config: LossConfig, context: LossContext) -> None:
    loss = build_loss(config, context)
    for seed in range(5):
        logits, targets = random_batch(context, seed=seed, missing=0.0)
        targets = targets.nan_to_num(0.0)
        assert (loss.values(4 * logits, targets, progress=1.0) >= 0).all()
        soft = 0.8 * targets + 0.05
        assert (loss.values(4 * logits, soft, progress=1.0) >= 0).all()


@every_loss
@every_context
@pytest.mark.parametrize("size", [50.0, -50.0])
def test_value_and_gradient_are_finite_at_fifty(config: LossConfig, context: LossContext, size: float) -> None:
    loss = build_loss(config, context)
    _, targets = random_batch(context, rows=24)
    signs = torch.where(torch.arange(context.num_classes) % 2 == 0, 1.0, -1.0)
    for logits in (torch.full(targets.shape, size), size * signs.expand(targets.shape).clone()):
        logits.requires_grad_(True)
        value = masked_mean(loss, logits, targets.float(), progress=1.0)
        value.backward()
        assert value.dtype == torch.float32
        assert torch.isfinite(value)
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all()


@every_loss
@every_context
def test_a_label_not_assessed_has_no_gradient_and_changes_no_other(config: LossConfig, context: LossContext) -> None:
    loss = build_loss(config, context)
    logits, targets = random_batch(context, missing=0.0)
    targets = targets.nan_to_num(0.0)
    softmax_groups = context.groups if loss.link == "softmax" else ()

    def gradient(given: Tensor) -> Tensor:
        leaf = logits.clone().requires_grad_(True)
        masked_sum(loss, leaf, given, progress=1.0)[0].backward()
        assert leaf.grad is not None
        return leaf.grad

    whole = gradient(targets)
    for row in range(3):
        for column in range(context.num_classes):
            emptied = targets.clone()
            emptied[row, column] = torch.nan
            # inside a softmax group the other cells of that row fall away with it
            touched = next((group for group in softmax_groups if column in group), (column,))
            expected = whole.clone()
            expected[row, list(touched)] = 0.0
            found = gradient(emptied)
            if isinstance(config, DistributionBalancedConfig | EqualizationConfig) and targets[row, column] > 0:
                # their weights compare a row's labels: which are known to be present is part of every cell's weight
                assert found[row, column] == 0
                found[row], expected[row] = 0.0, 0.0
            assert torch.equal(found, expected)


@every_loss
@every_context
def test_a_batch_without_assessed_labels_is_zero_with_zero_gradient(config: LossConfig, context: LossContext) -> None:
    loss = build_loss(config, context)
    logits = torch.randn(3, context.num_classes, requires_grad=True)
    value = masked_mean(loss, logits, torch.full((3, context.num_classes), torch.nan))
    value.backward()
    assert value.item() == 0.0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


@every_context
@pytest.mark.parametrize("config", NEUTRAL.values(), ids=NEUTRAL.keys())
def test_the_neutral_setting_is_cross_entropy_of_torch(config: LossConfig, context: LossContext) -> None:
    # a class never seen weighs 0, at beta = 0 too
    context = dataclasses.replace(context, positives=tuple(max(count, 1) for count in context.positives))
    loss = build_loss(config, context)
    logits, targets = random_batch(context, rows=40)
    total, count = 0.0, 0
    grouped = [column for group in loss.context.groups if loss.link == "softmax" for column in group]
    for group in context.groups if loss.link == "softmax" else ():
        columns = list(group)
        inside = targets[:, columns]
        index = torch.where(inside.isnan().any(1) | (inside.nan_to_num(0).sum(1) == 0), -100, inside.argmax(dim=1))
        total += torch.nn.functional.cross_entropy(logits[:, columns], index, reduction="sum", ignore_index=-100).item()
        count += int((index >= 0).sum())
    free = [column for column in range(context.num_classes) if column not in grouped]
    cells = ~targets[:, free].isnan()
    total += torch.nn.functional.binary_cross_entropy_with_logits(
        logits[:, free][cells], targets[:, free][cells], reduction="sum"
    ).item()
    count += int(cells.sum())
    assert masked_mean(loss, logits, targets, progress=1.0).item() == pytest.approx(total / count, abs=1e-6)


@every_loss
@every_context
def test_a_batch_is_the_mean_of_its_parts(config: LossConfig, context: LossContext) -> None:
    loss = build_loss(config, context)
    logits, targets = random_batch(context)
    parts = [masked_sum(loss, logits[rows], targets[rows]) for rows in (slice(0, 5), slice(5, 6), slice(6, 12))]
    total, count = sum(part[0].item() for part in parts), sum(part[1].item() for part in parts)
    assert masked_mean(loss, logits, targets).item() == pytest.approx(total / count, rel=1e-9)


@every_loss
@every_context
def test_row_weights_are_repeats_of_a_row(config: LossConfig, context: LossContext) -> None:
    loss = build_loss(config, context)
    logits, targets = random_batch(context)
    repeats = torch.tensor([0, 1, 2, 3] * 3)
    repeated = masked_mean(loss, logits.repeat_interleave(repeats, 0), targets.repeat_interleave(repeats, 0))
    weighted = masked_mean(loss, logits, targets, row_weights=2.5 * repeats)
    assert weighted.item() == pytest.approx(repeated.item(), rel=1e-9)


@every_loss
@every_context
def test_row_means_are_each_row_alone(config: LossConfig, context: LossContext) -> None:
    loss = build_loss(config, context)
    logits, targets = random_batch(context)
    targets[3] = torch.nan
    found = masked_row_means(loss, logits, targets, progress=1.0)
    for row in range(len(logits)):
        alone, count = masked_sum(loss, logits[row : row + 1], targets[row : row + 1], progress=1.0)
        expected = (alone / count).item() if count else math.nan
        assert found[row].item() == pytest.approx(expected, rel=1e-9, nan_ok=True)
    assert found[3].isnan()


@every_loss
@every_context
def test_the_gradient_is_the_slope(config: LossConfig, context: LossContext) -> None:
    if isinstance(config, AslConfig) and config.detach_focus:
        pytest.skip("a detached factor is no derivative")
    loss = build_loss(config, context).double()
    logits, targets = random_batch(context, rows=4)
    soft = 0.8 * targets + 0.05
    for given in (targets, soft):
        assert torch.autograd.gradcheck(
            lambda z, given=given: masked_mean(loss, z, given, progress=1.0), logits.clone().requires_grad_(True)
        )


@every_loss
@every_context
def test_a_soft_target_is_the_mixture_of_its_two_sides_where_a_loss_says_so(
    config: LossConfig, context: LossContext
) -> None:
    loss = build_loss(config, context)
    logits, _ = random_batch(context)
    one, zero = torch.ones_like(logits), torch.zeros_like(logits)
    mixed = 0.3 * loss.values(logits, one, progress=1.0) + 0.7 * loss.values(logits, zero, progress=1.0)
    found = loss.values(logits, 0.3 * one, progress=1.0)
    if takes_soft_targets(config):
        torch.testing.assert_close(found, mixed, rtol=1e-6, atol=1e-9)
    else:
        assert (found - mixed).abs().max() > 1e-4


@every_loss
@every_context
def test_half_precision_logits_are_scored_in_single(config: LossConfig, context: LossContext) -> None:
    loss = build_loss(config, context)
    logits, targets = random_batch(context)
    halved = logits.to(torch.bfloat16)
    found = masked_mean(loss, halved, targets.float())
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(masked_mean(loss, halved.float(), targets.float()).item(), rel=1e-6)


@every_loss
@every_context
def test_a_loss_learns_nothing_itself_and_follows_the_device(config: LossConfig, context: LossContext) -> None:
    loss: Loss = build_loss(config, context)
    assert not list(loss.parameters())
    assert not loss.state_dict()  # all of it follows from the config and the counts
    elsewhere = loss.to("meta")
    shape = (2, context.num_classes)
    assert elsewhere.values(torch.zeros(shape, device="meta"), torch.zeros(shape, device="meta")).device.type == "meta"


@every_loss
def test_a_config_survives_being_written_as_yaml(config: LossConfig, tmp_path) -> None:  # type: ignore[no-untyped-def]
    from medtail.config import CLOSED, build_config, config_to_dict, dump_yaml, read_yaml

    holder = dataclasses.make_dataclass(
        "Holder", [("loss", LossConfig)], frozen=True, kw_only=True, namespace={"__pydantic_config__": CLOSED}
    )
    (tmp_path / "loss.yaml").write_text(dump_yaml({"loss": config_to_dict(config)}))
    assert build_config(holder, read_yaml(tmp_path / "loss.yaml"), where="loss.yaml").loss == config
