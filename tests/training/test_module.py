from __future__ import annotations

import pytest
import torch
from torch import nn

from medtail.training.module import set_norm_momentum, update_average, warm_decay


def test_average_follows_its_closed_form() -> None:
    """After steps with values v_t: d^T v_0 + (1 - d) Σ d^(T - t) v_t, for parameters and running statistics alike."""
    decay, values = 0.9, [3.0, -1.0, 4.0, 1.5]
    model, average = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    nn.init.constant_(average.weight, 7.0)
    average.running_mean.fill_(7.0)
    for value in values:
        nn.init.constant_(model.weight, value)
        model.running_mean.fill_(value)
        model.num_batches_tracked += 1
        update_average(average, model, decay=decay)
    steps = len(values)
    expected = decay**steps * 7.0 + sum(
        (1 - decay) * decay ** (steps - 1 - step) * value for step, value in enumerate(values)
    )
    torch.testing.assert_close(average.weight.detach(), torch.full((2,), expected))
    torch.testing.assert_close(average.running_mean, torch.full((2,), expected))
    assert average.num_batches_tracked == steps


def test_average_forgets_the_start_while_young() -> None:
    assert [warm_decay(0.9, step=step) for step in (1, 8, 80, 1000)] == pytest.approx([2 / 11, 0.5, 0.9, 0.9])


def test_running_statistics_follow_the_first_steps() -> None:
    norm = nn.BatchNorm2d(3)
    momenta = []
    for step in (0, 10, 90, 890, 5000):
        set_norm_momentum(norm, step=step)
        momenta.append(norm.momentum)
    assert momenta == pytest.approx([0.9, 0.45, 0.09, 0.01, 0.01])
