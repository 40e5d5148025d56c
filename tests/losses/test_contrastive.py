import itertools
import math

import pytest
import torch
from torch import Tensor

from medtail.losses.build import BceConfig, build_loss
from medtail.losses.contract import LossContext, masked_mean
from medtail.losses.contrastive import Contrast, ContrastConfig
from medtail.losses.objective import Step

BCE = build_loss(BceConfig(), LossContext((5,) * 6, (10,) * 6, (), 10))
NAN = float("nan")
TARGETS = torch.tensor(
    [[1.0, 0, 0, 1, 0, 0], [0, 0, 1, NAN, 0, 0], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, NAN], [0.4, 0, NAN, 0, 0.6, 1]]
)


def logits_like(targets: Tensor) -> Tensor:
    return torch.randn(targets.shape, generator=torch.Generator().manual_seed(3)).requires_grad_()


def slow_contrast(logits: Tensor, targets: Tensor, *, temperature: float, negatives: int) -> float:
    """With loops: the sum over drawn absent labels, averaged over every possible draw; then the logarithm."""
    values, weights = [], []
    for z, y in zip(logits.tolist(), targets.tolist(), strict=True):
        absent = [math.exp(a / temperature) for a, b in zip(z, y, strict=True) if b == 0]
        draws = [sum(drawn) for drawn in itertools.combinations(absent, min(negatives, len(absent)))]
        for a, b in zip(z, y, strict=True):
            if absent and b > 0:
                mine = math.exp(a / temperature)
                values.append(-b * math.log(mine / (mine + sum(draws) / len(draws))))
                weights.append(b)
    return sum(values) / sum(weights)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("negatives", [1, 2, 7])
def test_it_equals_a_slow_loop_over_every_draw_of_absent_labels(temperature: float, negatives: int) -> None:
    logits = logits_like(TARGETS)
    objective = Contrast(ContrastConfig(negatives=negatives, weight=2.0, temperature=temperature), loss=BCE)
    value = objective(Step.of(logits, TARGETS))
    expected = slow_contrast(logits.detach(), TARGETS, temperature=temperature, negatives=negatives)
    assert value.parts["contrast"].item() == pytest.approx(expected, rel=1e-5)
    plain = masked_mean(BCE, logits, TARGETS).item()
    assert value.total.item() == pytest.approx(plain + 2.0 * expected, rel=1e-5)


def test_an_image_with_nothing_absent_or_nothing_present_takes_no_part() -> None:
    targets = TARGETS[2:4]
    logits = logits_like(targets)
    value = Contrast(ContrastConfig(), loss=BCE)(Step.of(logits, targets))
    assert math.isnan(value.parts["contrast"].item()), "nothing was compared: no number, not 0"
    assert value.total.item() == pytest.approx(masked_mean(BCE, logits, targets).item())
    value.total.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_a_constant_on_all_of_an_images_logits_leaves_the_contrast_as_it_is() -> None:
    logits = logits_like(TARGETS)
    objective = Contrast(ContrastConfig(), loss=BCE)
    before, after = objective(Step.of(logits, TARGETS)), objective(Step.of(logits + 3.0, TARGETS))
    assert after.parts["contrast"].item() == pytest.approx(before.parts["contrast"].item(), rel=1e-5)
    assert after.total.item() != pytest.approx(before.total.item(), rel=1e-2)
