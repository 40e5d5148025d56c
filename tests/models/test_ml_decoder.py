from __future__ import annotations

import pytest
import torch

from medtail.errors import MedtailError
from medtail.models.ml_decoder import MlDecoderConfig, MlDecoderHead

TINY = MlDecoderConfig(width=16, heads=4, inner=32)


def test_class_belongs_to_the_group_its_number_says() -> None:
    head = MlDecoderHead(6, 5, config=MlDecoderConfig(groups=2, width=16, inner=16)).eval()
    features = torch.randn(2, 6, 3, 3)
    before = head(features)
    with torch.no_grad():
        head.weight[1] *= 2.0  # classes 3 and 4 of groups {0, 1, 2} and {3, 4}
    moved = head(features) != before
    assert moved.tolist() == [[False, False, False, True, True]] * 2


def test_queries_are_part_of_the_model_but_do_not_learn() -> None:
    head = MlDecoderHead(6, 3, config=TINY)
    assert "queries" in head.state_dict()
    assert "queries" not in dict(head.named_parameters())
    head(torch.randn(2, 6, 3, 3)).sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        # what keys are moved by alike changes no softmax
        assert parameter.grad.abs().sum() > 0 or name == "to_keys.bias", name


def test_order_of_positions_is_no_matter_and_attention_adds_to_one() -> None:
    head = MlDecoderHead(6, 3, config=TINY).eval()
    features = torch.randn(2, 6, 3, 3)
    shuffled = features.flatten(2)[:, :, torch.randperm(9)].view(2, 6, 3, 3)
    torch.testing.assert_close(head(shuffled), head(features))
    looked = head.attention(features)
    assert looked.shape == (2, 4, 3, 9)
    torch.testing.assert_close(looked.sum(dim=-1), torch.ones(2, 4, 3))


def test_attention_is_the_one_the_answer_uses() -> None:
    head = MlDecoderHead(6, 3, config=TINY).eval()
    features = torch.randn(2, 6, 3, 3)
    values = head._heads(head.to_values(torch.relu(head.embed(features.flatten(2).transpose(1, 2)))))
    read = head.out((head.attention(features) @ values).transpose(1, 2).flatten(2))
    vectors = head.read_norm(head.query_norm(2 * head.queries) + read)
    vectors = head.last_norm(vectors + head.inner(vectors))
    logits = torch.einsum("bkd,kdn->bkn", vectors, head.weight).flatten(1) + head.bias
    torch.testing.assert_close(head(features), logits)


def test_more_groups_than_classes_and_an_odd_width_are_refused() -> None:
    with pytest.raises(MedtailError, match=r"head\.groups: found 4; expected at most 3"):
        MlDecoderHead(6, 3, config=MlDecoderConfig(groups=4, width=16))
    with pytest.raises(MedtailError, match="width 20, heads 8: expected a width that is a multiple of heads"):
        MlDecoderConfig(width=20)


def test_attention_is_dropped_out_while_training_only() -> None:
    head = MlDecoderHead(6, 3, config=MlDecoderConfig(width=16, heads=4, inner=32, dropout=0.5))
    for module in head.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    features = torch.randn(2, 6, 3, 3)
    torch.manual_seed(0)
    assert not torch.equal(head(features), head(features))
    head.eval()
    assert torch.equal(head(features), head(features))
