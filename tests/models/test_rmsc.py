from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medtail.config import build_config, config_to_dict
from medtail.errors import MedtailError, UsageError
from medtail.models.rmsc import (
    AttentionBlock,
    Batch,
    Branches,
    Chunks,
    GridReading,
    NoAttention,
    Positions,
    Pyramid,
    RmscConfig,
    average_to_grid,
    build_reading,
    nearest_divisors,
)

PARTS = (64, 320)


def reading(config: RmscConfig, *, parts: tuple[int, ...] = PARTS) -> Any:
    torch.manual_seed(0)
    return build_reading(config, parts=parts).eval()


def by_hand(block: AttentionBlock, tokens: Tensor, *, scale: float) -> Tensor:
    """The formula with loops: one head at a time, softmax written out."""
    width = tokens.shape[-1] // block.heads
    query, key, value = (tokens @ layer.weight.T for layer in (block.query, block.key, block.value))
    heads = []
    for head in range(block.heads):
        part = slice(head * width, (head + 1) * width)
        scores = query[..., part] @ key[..., part].transpose(1, 2) * scale
        weights = scores.exp() / scores.exp().sum(dim=-1, keepdim=True)
        heads.append(weights @ value[..., part])
    return F.layer_norm(tokens + torch.cat(heads, dim=-1) @ block.output.weight.T, (tokens.shape[-1],))


@pytest.mark.parametrize(("scale", "width"), [("head", 8), ("model", 32)])
def test_attention_equals_the_formula_written_out(scale: Any, width: int) -> None:
    torch.manual_seed(0)
    block, tokens = AttentionBlock(32, heads=4, scale=scale).double(), torch.randn(2, 5, 32, dtype=torch.float64)
    torch.testing.assert_close(block(tokens), by_hand(block, tokens, scale=1 / math.sqrt(width)))


def test_a_token_alone_gets_its_own_value() -> None:
    torch.manual_seed(0)
    block, tokens = AttentionBlock(32, heads=4, scale="head"), torch.randn(2, 5, 32)
    one_by_one = torch.cat([block(tokens[:, index : index + 1]) for index in range(5)], dim=1)
    torch.testing.assert_close(block(tokens, alone=True), one_by_one)
    assert not torch.allclose(block(tokens), one_by_one, atol=1e-3)


@pytest.mark.parametrize(
    ("attend", "length"),
    [(Positions(), 64), (Pyramid(grids=(4, 2, 1)), 64), (Branches(), 128), (Chunks(count=24), 384), (Batch(), 64),
     (NoAttention(), 64)],
    ids=lambda value: getattr(value, "kind", ""),
)  # fmt: skip
def test_every_reading_gives_a_vector_of_the_promised_length(attend: Any, length: int) -> None:
    module = reading(RmscConfig(attend=attend, width=64, heads=4))
    assert module.vector_dim == length
    assert module(torch.randn(3, 384, 4, 4)).shape == (3, length)


def test_pyramid_of_the_published_map_has_246_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    plain = AttentionBlock.forward

    def note(self: AttentionBlock, tokens: Tensor, *, alone: bool = False) -> Tensor:
        seen.append(tokens.shape[1])
        return plain(self, tokens, alone=alone)

    monkeypatch.setattr(AttentionBlock, "forward", note)
    reading(RmscConfig(attend=Pyramid(), width=8, heads=2), parts=(16,))(torch.randn(1, 16, 14, 14))
    reading(RmscConfig(width=8, heads=2), parts=(16,))(torch.randn(1, 16, 14, 14))
    assert seen == [14 * 14 + 7 * 7 + 1, 196]


@pytest.mark.parametrize(("side", "grid"), [(14, 14), (14, 7), (14, 5), (4, 3), (5, 1)])
def test_averaging_to_a_grid_equals_torchs_adaptive_pooling(side: int, grid: int) -> None:
    cells = torch.randn(2, side, side, 3, dtype=torch.float64)
    expected = F.adaptive_avg_pool2d(cells.permute(0, 3, 1, 2), grid).permute(0, 2, 3, 1)
    torch.testing.assert_close(average_to_grid(cells, grid), expected)


def test_a_pyramid_of_the_maps_own_grid_is_positions() -> None:
    features = torch.randn(2, 384, 4, 4)
    plain = reading(RmscConfig(width=64, heads=4))
    torch.testing.assert_close(
        reading(RmscConfig(attend=Pyramid(grids=(4,)), width=64, heads=4))(features), plain(features)
    )


def test_a_map_may_have_its_positions_turned_over_without_effect() -> None:
    """Attention and mean know no order of the tokens; the trunk's features carry the place."""
    module, features = reading(RmscConfig(width=64, heads=4)), torch.randn(2, 384, 4, 4)
    torch.testing.assert_close(module(features.flip(2, 3)), module(features), rtol=1e-4, atol=1e-5)


def test_a_learned_token_reads_the_others() -> None:
    module = reading(RmscConfig(width=64, heads=4, readout="cls"))
    assert isinstance(module, GridReading)
    assert module.cls is not None
    features = torch.randn(2, 384, 4, 4, requires_grad=True)
    module(features)[0, 0].backward()  # the sum of a layer norm is constant
    assert features.grad is not None
    assert (features.grad[0].abs().sum(dim=0) > 0).all(), "every position is seen"
    assert features.grad[1].abs().max() == 0, "and no other image"


def test_the_learned_tokens_own_row_is_read() -> None:
    module = reading(RmscConfig(width=64, heads=4, readout="cls"))
    module.block.output.weight.data.zero_()  # without mixing, every row is the layer norm of its own token
    expected = F.layer_norm(module.cls[:, 0], (64,)).expand(2, -1)
    torch.testing.assert_close(module(torch.randn(2, 384, 4, 4)), expected)


def test_branches_are_projected_apart() -> None:
    module, features = reading(RmscConfig(attend=Branches(), width=32, heads=1)), torch.randn(1, 384, 4, 4)
    module.block.output.weight.data.zero_()  # without mixing, each half knows its branch only
    changed = features.clone()
    changed[:, :64] += torch.randn(1, 64, 1, 1)
    before, after = module(features), module(changed)
    assert not torch.allclose(before[:, :32], after[:, :32])
    assert torch.equal(before[:, 32:], after[:, 32:])


def test_without_attention_the_value_is_the_mean_of_normalised_positions() -> None:
    module, features = reading(RmscConfig(attend=NoAttention(), width=None)), torch.randn(2, 384, 4, 4)
    expected = F.layer_norm(features.permute(0, 2, 3, 1), (384,)).mean(dim=(1, 2))
    torch.testing.assert_close(module(features), expected)


def test_in_a_batch_images_see_their_mates_in_training_and_themselves_at_test() -> None:
    features = torch.randn(6, 384, 2, 2)
    alone = reading(RmscConfig(attend=Batch(), width=64, heads=4))
    mates = reading(RmscConfig(attend=Batch(at_test="mates"), width=64, heads=4))
    assert (alone.batch_dependent, mates.batch_dependent) == (False, True)
    assert torch.allclose(alone(features)[:1], alone(features[:1]), atol=1e-6)
    assert not torch.allclose(mates(features)[:1], mates(features[:1]), atol=1e-2)
    torch.testing.assert_close(alone.train()(features), mates.train()(features))


def test_heads_that_do_not_divide_the_width_name_the_nearest_that_do() -> None:
    with pytest.raises(MedtailError, match=r"heads: found 7; expected .* width 512, the nearest are 4 and 8"):
        RmscConfig(heads=7)
    with pytest.raises(MedtailError, match=r"head\.rmsc\.heads: found 12; .* width 2176, the nearest are 8 and 16"):
        build_reading(RmscConfig(width=None, heads=12), parts=(768, 1408))
    with pytest.raises(MedtailError, match=r"heads: found 600; .* width 512, the nearest is 512"):
        RmscConfig(heads=600)
    for heads in (1, 2, 4, 8, 16, 17, 32, 34):
        assert 2176 % heads == 0
    assert nearest_divisors(2176, 18) == [17, 32]


def test_chunks_that_do_not_divide_the_channels_name_the_nearest_that_do() -> None:
    with pytest.raises(MedtailError, match=r"attend\.count: found 17; .* channels 384, the nearest are 16 and 24"):
        build_reading(RmscConfig(attend=Chunks()), parts=PARTS)
    module = build_reading(RmscConfig(attend=Chunks(), heads=8), parts=(768, 1408))
    assert (module.block.query.weight.shape, module.vector_dim) == ((128, 128), 2176)


def test_branches_need_two_and_one_width() -> None:
    with pytest.raises(MedtailError, match=r"'branches', but the backbone has one.*kind: dual"):
        build_reading(RmscConfig(attend=Branches()), parts=(64,))
    with pytest.raises(MedtailError, match=r"width: found null with attend 'branches', of 64 and 320 channels"):
        build_reading(RmscConfig(attend=Branches(), width=None), parts=PARTS)


def test_a_grid_finer_than_the_map_is_refused_with_grids_that_fit() -> None:
    with pytest.raises(MedtailError, match=r"grids: found 14, but the map is 4 x 4; expected at most 4.*\[4, 2, 1\]"):
        build_reading(RmscConfig(attend=Pyramid()), parts=PARTS, grid=(4, 4))
    unknown = build_reading(RmscConfig(attend=Pyramid(), width=64), parts=PARTS)
    with pytest.raises(MedtailError, match="found 14, but the map is 4 x 4"):
        unknown(torch.zeros(1, 384, 4, 4))


def test_a_learned_token_is_refused_where_there_is_no_sequence() -> None:
    with pytest.raises(MedtailError, match="readout: found 'cls' with attend 'chunks'"):
        RmscConfig(attend=Chunks(), readout="cls")


@pytest.mark.parametrize(
    "attend",
    [Positions(), Pyramid(grids=(7, 1)), Branches(), Chunks(count=4), Batch(at_test="mates"), NoAttention()],
    ids=lambda value: value.kind,
)
def test_every_reading_comes_back_from_yaml(attend: Any) -> None:
    config = RmscConfig(attend=attend)
    assert build_config(RmscConfig, config_to_dict(config), where="test.yaml") == config


def test_mistakes_in_yaml_are_named_with_their_place() -> None:
    with pytest.raises(UsageError, match=r"attend\.kind: found 'position'; .*did you mean 'positions'"):
        build_config(RmscConfig, {"attend": {"kind": "position"}}, where="test.yaml")
    with pytest.raises(UsageError, match=r"attend\.grids: unknown key"):
        build_config(RmscConfig, {"attend": {"kind": "positions", "grids": [1]}}, where="test.yaml")
    with pytest.raises(UsageError, match="heads: found 7; expected a divisor"):
        build_config(RmscConfig, {"heads": 7}, where="test.yaml")
