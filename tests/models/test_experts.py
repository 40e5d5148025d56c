from __future__ import annotations

import torch

from medtail.models.experts import ExpertsConfig, ExpertsHead


def test_answer_is_the_mean_of_its_experts_and_they_differ() -> None:
    torch.manual_seed(0)
    for width in (None, 7):
        head = ExpertsHead(5, 2, config=ExpertsConfig(width=width, dropout=0.0), bias=[-1.0, -3.0]).train()
        answer = head.answer(torch.randn(4, 5, 3, 3))
        routes = torch.stack(list(answer.further.values()))
        assert list(answer.further) == ["expert_0", "expert_1", "expert_2"]
        torch.testing.assert_close(answer.logits, routes.mean(dim=0))
        assert not torch.equal(routes[0], routes[1])


def test_an_experts_objective_reaches_only_its_layer() -> None:
    head = ExpertsHead(5, 2, config=ExpertsConfig(count=2, width=7)).train()
    head.answer(torch.randn(4, 5, 3, 3)).further["expert_1"].sum().backward()
    has_moved = {name: parameter.grad is not None for name, parameter in head.named_parameters()}
    assert any(has_moved.values())
    assert all(has_moved[name] == (".1." in name) for name in has_moved)
