from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from medtail.errors import MedtailError
from medtail.losses.build import BceConfig
from medtail.losses.contract import LossContext
from medtail.losses.objective import Step
from medtail.losses.objectives import SyntusObjectiveConfig, build_objective
from medtail.models.batch_mixer import BatchMixerConfig
from medtail.models.class_attention import ClassAttentionConfig
from medtail.models.heads import LinearHead, build_head
from medtail.models.syntus import SyntusHead, SyntusHeadConfig
from medtail.tables.labels import LabelSpace

ATTENTION = ClassAttentionConfig(width=16, heads=2, rank=3, dropout=0.0)
FULL: dict[str, Any] = {"attention": ATTENTION, "batch_mixer": BatchMixerConfig(dropout=0.0)}


def head(**changes: Any) -> SyntusHead:
    torch.manual_seed(0)
    found = SyntusHead(12, 5, config=SyntusHeadConfig(**{**FULL, **changes}))
    for layer in found.layers:
        nn.init.normal_(layer.weight)
    return found


def maps(count: int = 6) -> torch.Tensor:
    return torch.randn(count, 12, 3, 3, generator=torch.Generator().manual_seed(1))


def taught() -> SyntusHead:
    model = head().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        answer = model.answer(maps())
        sum((logits - 1).square().mean() for logits in answer.further.values()).backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("count", [1, 7, 32])
def test_in_eval_mode_an_image_does_not_see_its_batch_with_the_mixer_trained(count: int) -> None:
    model, given = taught().eval(), maps(32)
    whole = model(given)
    parts = torch.cat([model(part) for part in given.split(count)])
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(given[order]), whole[order], rtol=0, atol=1e-5)


def test_the_mixer_changes_what_training_sees() -> None:
    answer = taught().answer(maps())
    assert (answer.further["mixed_u"] - answer.further["u"]).abs().max() > 1e-3
    assert (answer.further["mixed_r"] - answer.further["r"]).abs().max() > 1e-3


def test_prediction_is_the_mean_of_both_layers_and_never_of_the_mixer() -> None:
    model = taught()
    answer = model.answer(maps())
    torch.testing.assert_close(answer.logits, (answer.further["u"] + answer.further["r"]) / 2)
    model.eval()
    assert model.mixer is not None
    model.mixer.register_forward_hook(lambda *_: pytest.fail("the mixer was called in eval mode"))
    torch.testing.assert_close(model(maps()), answer.logits)
    assert not model.answer(maps()).further


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, ["mixed_r", "mixed_u", "r", "u"]),
        ({"two_layers": False}, ["mixed"]),
        ({"batch_mixer": None}, ["r", "u"]),
        ({"attention": None}, ["mixed_r", "mixed_u", "r", "u"]),
        ({"attention": None, "batch_mixer": None}, ["r", "u"]),
        ({"attention": None, "batch_mixer": None, "two_layers": False}, []),
    ],
)
def test_every_part_can_be_switched_off(changes: dict[str, Any], names: list[str]) -> None:
    answer = head(**changes).train().answer(maps())
    assert sorted(answer.further) == names
    assert answer.logits.shape == (6, 5)
    total = answer.logits.sum() + sum(logits.sum() for logits in answer.further.values())
    total.backward()


def test_with_everything_off_it_is_the_linear_head() -> None:
    model = head(attention=None, batch_mixer=None, two_layers=False).eval()
    plain = LinearHead(12, 5).eval()
    with torch.no_grad():
        plain.linear.weight.copy_(model.layers[0].weight)
        plain.linear.bias.copy_(model.layers[0].bias)
    torch.testing.assert_close(model(maps()), plain(maps()))
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in plain.parameters())


def test_the_prior_is_the_first_answer_of_both_layers() -> None:
    prior = [-1.0, 0.0, 1.0, 2.0, -3.0]
    model = build_head(SyntusHeadConfig(**FULL), feature_dim=12, num_classes=5, prior=prior).eval()
    assert (model(maps()) - torch.tensor(prior)).abs().max() < 0.5
    away = build_head(SyntusHeadConfig(**FULL, prior_bias=False), feature_dim=12, num_classes=5, prior=prior).eval()
    assert away(maps()).abs().max() < 0.5


def test_head_and_objective_learn_a_batch_by_heart() -> None:
    labels = LabelSpace.from_columns(["s=a", "s=b", "foci_none", "foci_macro", "halo"])
    context = LossContext((12, 4, 10, 6, 2), (16,) * 5, labels.group_indices, 16, labels)
    objective = build_objective(SyntusObjectiveConfig(), loss=BceConfig(), context=context)
    torch.manual_seed(5)
    given, targets = torch.randn(16, 12, 3, 3), torch.zeros(16, 5)
    targets[:12, 0] = targets[12:, 1] = targets[:10, 2] = targets[10:, 3] = targets[[3, 14], 4] = 1
    model = head().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for number in range(150):
        answer = model.answer(given)
        plain = Step.of(answer.logits, targets)
        streams = torch.tensor([0, 1]).repeat(8) if number % 2 else torch.tensor([1, 0]).repeat(8)
        step = replace(plain, further=answer.further, streams=streams, epoch=12)
        optimizer.zero_grad()
        objective(step).total.backward()
        optimizer.step()
    scores = torch.sigmoid(model.eval()(given))
    assert ((scores > 0.5) == (targets == 1)).all()
    torch.testing.assert_close(scores[:, :2].sum(dim=1), torch.ones(16), rtol=0, atol=0.25)


def test_where_labels_look_is_asked_of_class_attention() -> None:
    assert head().attention(maps()).shape == (6, 2, 5, 9)
    with pytest.raises(MedtailError, match=r"head.attention: is switched off"):
        head(attention=None).attention(maps())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_mixer": BatchMixerConfig(heads=3)}, "attention.width 16: expected a multiple of batch_mixer.heads 3"),
        ({"attention": ClassAttentionConfig(width=16, prior_bias=False)}, "attention.prior_bias: belongs to a head of"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MedtailError, match=message):
        SyntusHeadConfig(**{**FULL, **changes})


def test_a_mixer_that_does_not_divide_the_map_is_refused() -> None:
    config = SyntusHeadConfig(attention=None, batch_mixer=BatchMixerConfig(heads=5))
    with pytest.raises(MedtailError, match=r"head.batch_mixer.heads: found 5 for a map of 12 channels"):
        SyntusHead(12, 5, config=config)
