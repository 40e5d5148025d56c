from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medtail.errors import MedtailError
from medtail.models.class_attention import (
    ClassAttentionConfig,
    ClassAttentionHead,
    LabelScores,
    SelfAttention,
    sine_positions,
)

SMALL = {"width": 16, "heads": 2, "rank": 3}


def head(classes: int = 5, **changes: object) -> ClassAttentionHead:
    torch.manual_seed(0)
    config = ClassAttentionConfig(**{**SMALL, **changes})  # type: ignore[arg-type]
    found = ClassAttentionHead(12, classes, config=config)
    nn.init.normal_(found.scores.weight)
    return found.eval()


def maps(count: int = 3, *, height: int = 4, width: int = 5) -> Tensor:
    return torch.randn(count, 12, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("feature_dim", "width", "rank", "count"), [(2048, 256, 16, 1_081_877), (64, 64, 8, 46_741)])
def test_it_has_as_many_parameters_as_specified(feature_dim: int, width: int, rank: int, count: int) -> None:
    config = ClassAttentionConfig(width=width, rank=rank)
    assert sum(p.numel() for p in ClassAttentionHead(feature_dim, 20, config=config).parameters()) == count


def test_logits_are_the_formula_written_out() -> None:
    model = head()
    nn.init.normal_(model.encoder.spread)
    encoder, given = model.encoder, maps()
    tokens = torch.einsum("bdhw,ed->bhwe", given, encoder.embed.weight[:, :, 0, 0]).flatten(1, 2) + encoder.embed.bias
    summary = tokens.mean(dim=1)
    keys = encoder.to_keys(tokens + sine_positions(4, 5, 16))
    values = encoder.to_values(tokens)
    vectors = torch.empty(3, 5, 16)
    for image in range(3):
        for label in range(5):
            moved = encoder.spread[label] @ (encoder.squeeze @ summary[image])
            query = encoder.queries[label] + torch.tanh(moved)
            parts = []
            for part in (slice(0, 8), slice(8, 16)):
                weights = torch.softmax(keys[image, :, part] @ query[part] / 8**0.5, dim=0)
                parts.append(weights @ values[image, :, part])
            vectors[image, label] = encoder.out(torch.cat(parts))
    assert encoder.mixing is not None
    vectors = encoder.mixing(vectors)
    expected = torch.stack(
        [
            vectors[:, c] @ model.scores.weight[c]
            + model.scores.share * summary @ model.scores.weight[c]
            + model.scores.bias[c]
            for c in range(5)
        ],
        dim=1,
    )
    torch.testing.assert_close(model(given), expected, rtol=1e-4, atol=1e-5)


def test_it_begins_as_plain_class_attention() -> None:
    conditioned, plain = head(), head(conditioning=False)
    plain.load_state_dict(
        {name: value for name, value in conditioned.state_dict().items() if "spread" not in name and "sq" not in name}
    )
    torch.testing.assert_close(conditioned(maps()), plain(maps()))
    nn.init.normal_(conditioned.encoder.spread)
    assert (conditioned(maps()) - plain(maps())).abs().max() > 1e-4


@pytest.mark.parametrize(("height", "width"), [(4, 5), (1, 1)])
def test_where_a_label_looks_adds_up_to_one(height: int, width: int) -> None:
    model = head()
    nn.init.normal_(model.encoder.spread)
    found = model.attention(maps(height=height, width=width))
    assert found.shape == (3, 2, 5, height * width)
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(3, 2, 5))
    if height * width == 1:
        assert (found == 1).all()
    else:
        assert found.std() > 0


def test_permuting_labels_permutes_logits() -> None:
    model, other = head(), head()
    nn.init.normal_(model.encoder.spread)
    other.load_state_dict(model.state_dict())
    order = torch.tensor([3, 0, 4, 1, 2])
    with torch.no_grad():
        for parameter in (other.encoder.queries, other.encoder.spread, other.scores.weight, other.scores.bias):
            parameter.copy_(parameter[order].clone())
    torch.testing.assert_close(other(maps()), model(maps())[:, order])


def test_labels_know_of_each_other_only_through_mixing() -> None:
    def reach(model: ClassAttentionHead) -> Tensor:
        model.encoder.queries.grad = None
        model(maps())[:, 0].sum().backward()
        assert model.encoder.queries.grad is not None
        return model.encoder.queries.grad[1:].abs().sum()

    assert reach(head()) > 0
    assert reach(head(mixing=False)) == 0


def test_positions_are_told_apart() -> None:
    code = sine_positions(4, 5, 16)
    assert code.shape == (20, 16)
    distances = torch.cdist(code, code) + torch.eye(20)
    assert distances.min() > 0.1
    shuffled = (
        maps().flatten(2)[:, :, torch.randperm(20, generator=torch.Generator().manual_seed(0))].unflatten(2, (4, 5))
    )
    assert (head()(maps()) - head()(shuffled)).abs().max() > 1e-5


def test_the_first_step_moves_everything_but_the_squeeze_and_the_second_moves_it_too() -> None:
    model = head(dropout=0.0).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for is_later in (False, True):
        optimizer.zero_grad()
        model(maps()).square().sum().backward()
        gradients = {name: value.grad for name, value in model.named_parameters()}
        for name in ("encoder.embed.weight", "encoder.spread", "scores.share", "encoder.queries"):
            assert gradients[name] is not None, name
            assert gradients[name].abs().sum() > 0, name
        squeeze = gradients["encoder.squeeze"]
        assert squeeze is not None
        assert bool(squeeze.abs().sum() > 0) is is_later
        optimizer.step()


@pytest.mark.parametrize("classes", [1, 5])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 3)])
def test_one_class_and_one_position_work(classes: int, height: int, width: int) -> None:
    model = head(classes).train()
    answer = model.answer(maps(height=height, width=width))
    answer.logits.sum().backward()
    assert answer.logits.shape == (3, classes)
    assert answer.pooled.shape == (3, 16)


def test_the_control_conditions_on_another_image() -> None:
    sham, real = head(sham="stranger", dropout=0.0).train(), head(dropout=0.0).train()
    for model in (sham, real):
        nn.init.constant_(model.encoder.spread, 0.3)
        model.zero_grad()
    given = maps().requires_grad_(True)
    real(given)[0].sum().backward()
    assert given.grad is not None
    assert (given.grad[1:] == 0).all()
    given.grad = None
    sham(given)[0].sum().backward()
    assert given.grad is not None
    assert given.grad[2].abs().sum() > 0
    assert (given.grad[1] == 0).all()
    torch.testing.assert_close(sham.encoder.last_seen, sham.encoder(maps())[1][0].detach())
    sham.eval()
    torch.testing.assert_close(sham(maps())[:1], sham(maps()[:1]))  # no neighbour in the batch afterwards
    assert (sham(maps()) - real.eval()(maps())).abs().max() > 1e-5


def test_dropout_acts_while_training_only() -> None:
    model = head(dropout=0.5)
    torch.testing.assert_close(model(maps()), model(maps()))
    model.train()
    assert (model(maps()) - model(maps())).abs().max() > 0


def test_self_attention_is_torchs_own() -> None:
    torch.manual_seed(0)
    ours = SelfAttention(16, heads=4).eval()
    theirs = nn.MultiheadAttention(16, 4, batch_first=True).eval()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.project.weight)
        theirs.in_proj_bias.copy_(ours.project.bias)
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(ours.out.bias)
    tokens, partners = torch.randn(2, 7, 16), torch.randn(2, 7, 16)
    normed, other = ours.norm(tokens), ours.norm(partners)
    torch.testing.assert_close(ours(tokens), tokens + theirs(normed, normed, normed)[0])
    torch.testing.assert_close(ours(tokens, partners=partners), tokens + theirs(normed, other, other)[0])


def test_scores_of_one_vector_for_all_labels_are_a_linear_layer() -> None:
    layer = LabelScores(6, 3, bias=[1.0, 2.0, 3.0], has_summary=False)
    vectors = torch.randn(4, 6)
    torch.testing.assert_close(layer(vectors[:, None]), vectors @ layer.weight.T + torch.tensor([1.0, 2.0, 3.0]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 18, "heads": 3}, "width 18, heads 3: expected a width that is a multiple of 4 and of heads"),
        ({"width": 16, "heads": 3}, "width 16, heads 3"),
        ({"conditioning": False, "sham": "stranger"}, "'stranger' changes a conditioning that `conditioning: false`"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(MedtailError, match=message):
        ClassAttentionConfig(**{**SMALL, **changes})  # type: ignore[arg-type]
