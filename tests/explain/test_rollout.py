from __future__ import annotations

import pytest
import torch

from medtail.errors import MedtailError
from medtail.explain.examples import tiny_diagnoser
from medtail.explain.rollout import _carry_back, attention_of, rollout_maps, transformer_of


def images(count=2):
    return torch.rand(count, 1, 64, 64, generator=torch.Generator().manual_seed(3))


def test_evidence_goes_where_the_attention_looked():
    """Every token looks at patch 3 alone, after a class token: all evidence belongs there."""
    attention = torch.zeros(1, 2, 5, 5)
    attention[..., 4] = 1.0
    carried = _carry_back([attention], [torch.ones_like(attention)], torch.ones(1, 4), 4)
    assert carried[0].argmax() == 3
    assert carried[0, :3].sum() == 0


def test_attention_that_lowers_the_class_carries_nothing():
    attention = torch.full((1, 1, 5, 5), 0.2)
    assert _carry_back([attention], [-torch.ones_like(attention)], torch.ones(1, 4), 4).sum() == 0


def test_two_layers_follow_the_path_through_both():
    """Patch 0 looked at patch 1, which before had looked at patch 2."""
    first, second = torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 3, 3)
    first[0, 0, 1, 2] = second[0, 0, 0, 1] = 1.0
    ones = torch.ones_like(first)
    carried = _carry_back([first, second], [ones, ones], torch.tensor([[1.0, 0.0, 0.0]]), 3)
    assert carried[0].tolist() == [0.0, 1.0, 1.0]


def test_without_weights_the_class_token_stands_alone():
    attention = torch.zeros(1, 1, 3, 3)
    attention[0, 0, 0, 2] = attention[0, 0, 1, 1] = 1.0
    assert _carry_back([attention], [torch.ones_like(attention)], None, 2)[0].tolist() == [0.0, 1.0]


def test_every_layer_is_recorded_once_and_the_fast_attention_put_back():
    model = tiny_diagnoser("vit")
    transformer = transformer_of(model)
    inner = transformer.network.model
    before = inner.config._attn_implementation
    plain = model(images())
    with attention_of(transformer) as recorded:
        slow = model(images())
    assert len(recorded) == inner.config.num_hidden_layers
    torch.testing.assert_close(recorded[0].sum(dim=-1), torch.ones(2, 4, 17))
    torch.testing.assert_close(slow, plain)
    assert inner.config._attn_implementation == before
    assert not any(module._forward_hooks for module in inner.modules())


def test_attention_is_put_back_after_an_error():
    transformer = transformer_of(tiny_diagnoser("vit"))
    before = transformer.network.model.config._attn_implementation
    with pytest.raises(RuntimeError, match="stop"), attention_of(transformer):
        raise RuntimeError("stop")
    assert transformer.network.model.config._attn_implementation == before


def test_maps_differ_between_classes():
    maps = rollout_maps(tiny_diagnoser("vit"), images(), None, classes=[0, 1, 2])
    assert maps.min() >= 0
    assert not torch.allclose(maps[:, 0] / maps[:, 0].sum(), maps[:, 2] / maps[:, 2].sum(), rtol=1e-2)


def test_the_joint_map_of_a_dual_model_has_both_branches():
    model = tiny_diagnoser("dual")
    joint = rollout_maps(model, images(), None, classes=[2])
    vit = rollout_maps(model, images(), None, classes=[2], branch="vit")
    assert not torch.allclose(joint / joint.sum(), vit / vit.sum(), rtol=1e-2)


def test_a_network_without_attention_is_refused():
    with pytest.raises(MedtailError, match="method 'rollout': needs attention between patches"):
        rollout_maps(tiny_diagnoser("cnn"), images(), None, classes=[0])
    with pytest.raises(MedtailError, match="method 'rollout': needs attention between patches"):
        rollout_maps(tiny_diagnoser("dual"), images(), None, classes=[0], branch="cnn")
