from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from medtail.training.config import OptimConfig
from medtail.training.schedule import depth_factors, parameter_groups, rate_factor


def test_rate_rises_linearly_then_falls_as_half_a_cosine() -> None:
    def factor(step: int) -> float:
        return rate_factor(step, total_steps=100, warmup=0.1, final_rate=0.05)

    assert [factor(step) for step in range(10)] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert factor(10) == 1.0
    assert factor(99) == pytest.approx(0.05)
    middle = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * 30 / 89))
    assert factor(40) == pytest.approx(middle)
    assert all(factor(step) > factor(step + 1) for step in range(10, 99))


def test_training_of_one_step_uses_the_peak() -> None:
    assert rate_factor(0, total_steps=1, warmup=0.1, final_rate=0.0) == 1.0


def test_no_warmup_starts_at_the_peak() -> None:
    assert rate_factor(0, total_steps=10, warmup=0.0, final_rate=0.0) == 1.0


def test_layers_nearer_to_the_images_learn_more_slowly() -> None:
    assert depth_factors(5, layer_decay=0.5, backbone_factor=0.4) == pytest.approx([0.05, 0.1, 0.2, 0.4, 1.0])
    assert depth_factors(3, layer_decay=1.0, backbone_factor=1.0) == [1.0, 1.0, 1.0]


def test_norms_and_biases_are_not_decayed_and_nothing_is_lost() -> None:
    layers = [nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 3)]
    groups = [{f"{index}.{name}": p for name, p in layer.named_parameters()} for index, layer in enumerate(layers)]
    config = OptimConfig(learning_rate=0.1, layer_decay=0.5, backbone_factor=1.0, weight_decay=0.3)
    result = parameter_groups(groups, config)
    rate_of = {id(p): (g["peak_rate"], g["weight_decay"]) for g in result for p in g["params"]}
    assert rate_of[id(layers[0].weight)] == (pytest.approx(0.05), 0.3)
    assert rate_of[id(layers[0].bias)] == (pytest.approx(0.05), 0.0)
    assert rate_of[id(layers[1].weight)] == (pytest.approx(0.1), 0.0)
    assert rate_of[id(layers[2].weight)] == (pytest.approx(0.1), 0.3)
    assert sum(len(g["params"]) for g in result) == 6
    torch.optim.AdamW(result)
