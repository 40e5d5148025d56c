from __future__ import annotations

import resource
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medtail.errors import MedtailError
from medtail.models.backbones import DualConfig
from medtail.models.checkpoint import ModelCard, ModelParts, load_model, save_model
from medtail.models.csasn import CsasnConfig, CsasnHead, Outputs
from medtail.models.diagnoser import Diagnoser, build_diagnoser
from medtail.models.heads import build_head
from medtail.models.rmsc import Batch, Branches, Chunks, NoAttention, Positions, Pyramid, RmscConfig
from medtail.pixels.settings import PixelConfig
from medtail.tables.labels import LabelSpace

SUBTYPES = LabelSpace(("FTC", "MTC", "ATC"))
TINY = CsasnConfig.of_size("tiny")
READINGS = [Positions(), Pyramid(grids=(4, 2, 1)), Branches(), Chunks(count=24), Batch(), NoAttention()]
VARIANTS = [replace(TINY, rmsc=replace(TINY.rmsc, attend=attend)) for attend in READINGS] + [
    replace(TINY, se=False, cbam="none"),
    replace(TINY, se=False),
    replace(TINY, cbam="none"),
    replace(TINY, cbam="full"),
    replace(TINY, cbam="literal"),
    replace(TINY, rmsc=replace(TINY.rmsc, readout="cls", scale="model")),
]
MATES = replace(TINY, rmsc=replace(TINY.rmsc, attend=Batch(at_test="mates")))


def name(config: CsasnConfig) -> str:
    return f"{config.rmsc.attend.kind}-se_{config.se}-{config.cbam}-{config.rmsc.readout}"


def build(
    head: CsasnConfig = TINY, backbone: DualConfig | None = None, *, size_px: int = 64, labels: LabelSpace = SUBTYPES
) -> Diagnoser:
    torch.manual_seed(0)
    return build_diagnoser(
        backbone=backbone or DualConfig(), head=head, labels=labels, link="softmax", channels=3, size_px=size_px
    )


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def balanced_step(model: nn.Module, images: Tensor) -> Tensor:
    """Loss of a batch in which every task has both classes; a target a column, shifted against each other."""
    targets = torch.stack([(torch.arange(len(images)) + column) % 2 for column in range(3)], dim=1)
    return F.binary_cross_entropy_with_logits(model(images), targets.to(images.dtype))


def settled(model: Diagnoser) -> Diagnoser:
    """Give the running statistics of every BatchNorm the network's own scale, then go to eval mode."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # the plain mean over the batches seen
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.rand(16, 3, 64, 64))
    return model.eval()


# --- batch invariance -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", VARIANTS, ids=name)
def test_image_gets_the_same_logits_alone_in_a_batch_and_in_any_order(head: CsasnConfig) -> None:
    model, images = settled(build(head)), torch.rand(32, 3, 64, 64)
    assert not model.batch_dependent
    order = torch.randperm(32)
    with torch.inference_mode():
        together = model(images)
        alone = torch.cat([model(image[None]) for image in images[:5]])
        sevens = torch.cat([model(part) for part in images.split(7)])
        shuffled = torch.empty_like(together)
        shuffled[order] = model(images[order])
    for other in (sevens, shuffled):
        torch.testing.assert_close(other, together, rtol=0, atol=1e-5)
    torch.testing.assert_close(alone, together[:5], rtol=0, atol=1e-5)
    assert together.std(dim=0).min() > 1e-3, "logits that do not depend on the image would pass trivially"


def test_attention_to_batch_mates_makes_scores_depend_on_the_batch_and_says_so() -> None:
    model, images = settled(build(MATES)), torch.rand(32, 3, 64, 64)
    assert model.batch_dependent
    with torch.inference_mode():
        together, alone = model(images), torch.cat([model(image[None]) for image in images])
    assert float((together - alone).abs().max()) > 1e-3


def test_the_law_of_batch_invariance_can_tell_the_two_apart() -> None:
    """The same weights, read alone and with mates: only the second depends on the company."""
    images = torch.rand(8, 3, 64, 64)
    mates = settled(build(MATES))
    alone = build(replace(MATES, rmsc=replace(MATES.rmsc, attend=Batch())))
    alone.load_state_dict(mates.state_dict())
    alone.eval()
    with torch.inference_mode():
        torch.testing.assert_close(alone(images)[:1], alone(images[:1]), rtol=0, atol=1e-5)
        assert not torch.allclose(mates(images)[:1], mates(images[:1]), rtol=0, atol=1e-4)


# --- sizes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("branches", "expected"), [("both", 308_036), ("vit", 145_384), ("cnn", 180_740)], ids=["both", "vit", "cnn"]
)
def test_tiny_has_the_parameters_of_the_formula(branches: Any, expected: int) -> None:
    model = build(backbone=DualConfig(branches=branches))
    assert count(model) == expected
    if branches == "both":
        assert (count(model.backbone), count(model.head)) == (241_820, 66_216)


@pytest.mark.parametrize(
    ("branches", "expected"),
    [("both", 27_385_316), ("vit", 22_556_008), ("cnn", 5_430_116)],
    ids=["both", "vit", "cnn"],
)
def test_small_has_the_parameters_of_the_formula(branches: Any, expected: int) -> None:
    model = build(CsasnConfig.of_size("small"), DualConfig(size="small", branches=branches), size_px=224)
    assert count(model) == expected
    if branches == "both":
        assert (count(model.backbone), count(model.head)) == (25_676_540, 1_708_776)


def test_heads_of_the_published_map_have_the_parameters_of_the_formula() -> None:
    parts = (768, 1408)
    head = CsasnHead(parts, 3, config=CsasnConfig.of_size("base"))
    assert head.se is not None
    assert head.cbam is not None
    assert (count(head), count(head.se), count(head.cbam)) == (2_921_576, 591_872, 98)
    assert count(head) - count(head.se) - count(head.cbam) == 2_329_606
    assert count(CsasnHead((768,), 3, config=CsasnConfig.of_size("base"))) == 87_482_728 - 85_798_656 - 2 * 768
    assert count(CsasnHead((1408,), 3, config=CsasnConfig.of_size("base"))) == 9_888_106 - 7_700_994 - 2 * 1408
    literal = CsasnHead(parts, 3, config=CsasnConfig.literal())
    assert count(literal) == 113_631_594 - 93_504_002
    block = literal.reading.block
    assert sum(layer.weight.numel() for layer in (block.query, block.key, block.value, block.output)) == 18_939_904


@pytest.mark.slow
def test_base_has_the_parameters_of_the_formula_and_takes_a_step_at_full_size() -> None:
    """One build for all: the trunk of `base`, its own head, and the head as printed."""
    model = build(CsasnConfig.of_size("base"), DualConfig(size="base"), size_px=224)
    assert (count(model.backbone), count(model)) == (93_504_002, 96_425_578)
    trunk: Any = model.backbone
    assert (count(trunk.vit), count(trunk.cnn)) == (85_798_656, 7_700_994)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    images, targets = torch.rand(2, 3, 224, 224), torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    before = [parameter.detach().clone() for parameter in model.head.parameters()]
    began = time.perf_counter()
    answer = model.answer(images)
    assert answer.pooled.shape == (2, 2176)
    F.binary_cross_entropy_with_logits(answer.logits, targets).backward()
    optimizer.step()
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"one step of base at 224 px, batch 2: {seconds:.1f} s, peak memory of the process {peak:.2f} GiB")  # noqa: T201
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert all(not torch.equal(old, new) for old, new in zip(before, model.head.parameters(), strict=True))
    with torch.inference_mode():
        assert model.eval().backbone(images).shape == (2, 2176, 14, 14)
        trunk.fusion = DualConfig.literal().fusion
        joined = trunk(images)
        assert joined.shape == (2, 2176, 1, 1)
        printed = CsasnHead(trunk.feature_parts, 3, config=CsasnConfig.literal()).eval()
        assert count(trunk) + count(printed) == 113_631_594
        assert printed(joined).shape == (2, 3)


# --- signal ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [*VARIANTS, MATES], ids=name)
def test_every_parameter_learns_from_a_batch_with_both_classes_of_every_task(head: CsasnConfig) -> None:
    model = build(head).double().train()
    balanced_step(model, torch.rand(16, 3, 64, 64, dtype=torch.float64)).backward()
    # zero in theory: a key's bias adds the same to all scores of a query, which a softmax does not see; the other two
    # shift every image alike before a linear layer and a BatchNorm, which subtracts it again
    unseen = ("key.bias", "k_proj.bias", "project_bn.bias", "reading.block.norm.bias", "reading.norm.bias")
    learning = {key: value for key, value in model.named_parameters() if not key.endswith(unseen)}
    assert len(learning) < len(list(model.parameters()))
    largest = {key: 0.0 if value.grad is None else float(value.grad.abs().max()) for key, value in learning.items()}
    assert {key: size for key, size in largest.items() if not size > 1e-9} == {}


def test_batchnorm_averages_over_batches_everywhere() -> None:
    momenta = [module.momentum for module in build().modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert len(momenta) > 10
    assert all(momentum is not None and momentum <= 0.1 for momentum in momenta)


def test_a_training_batch_of_one_image_is_refused() -> None:
    with pytest.raises(MedtailError, match=r"training batch holds 1 image.*at least 2.*optimizer\.batch_size"):
        build().train()(torch.rand(1, 3, 64, 64))


# --- the head -------------------------------------------------------------------------------------------------------


def test_logits_are_the_read_of_the_refined_map_and_pooled_is_its_mean() -> None:
    model, images = settled(build()), torch.rand(3, 3, 64, 64)
    head = model.head
    assert isinstance(head, CsasnHead)
    features = model.backbone(images)
    assert head.se is not None
    assert head.cbam is not None
    refined = head.refine(features)
    torch.testing.assert_close(refined, head.cbam(head.se(features), before=features))
    answer = model.answer(images)
    torch.testing.assert_close(answer.logits, head.read(refined))
    torch.testing.assert_close(answer.pooled, refined.mean(dim=(2, 3)))
    assert answer.pooled.shape == (3, 384)


def test_switched_off_parts_leave_the_map_alone() -> None:
    head = CsasnHead((8,), 1, config=replace(TINY, se=False, cbam="none"))
    features = torch.rand(2, 8, 4, 4)
    assert torch.equal(head.refine(features), features)


def test_difference_of_two_outputs_is_the_logit_of_their_softmax() -> None:
    torch.manual_seed(0)
    outputs, vectors = Outputs(16, 2, groups=(), bias=None), torch.randn(5, 16)
    assert outputs.pairs is not None
    outputs.pairs.weight.data.normal_()
    for column in range(2):
        pair = outputs.pairs(vectors)[:, 2 * column : 2 * column + 2]
        torch.testing.assert_close(torch.softmax(pair, dim=1)[:, 1], torch.sigmoid(outputs(vectors)[:, column]))


def test_exclusive_groups_get_one_softmax_output_and_free_classes_two() -> None:
    four = LabelSpace.from_columns(["t=benign", "t=FTC", "t=MTC", "t=ATC"])
    model = build(labels=four)
    head = model.head
    assert isinstance(head, CsasnHead)
    assert head.outputs.pairs is None
    assert head.outputs.groups is not None
    assert head.outputs.groups.weight.shape == (4, 32)
    mixed = Outputs(8, 5, groups=((1, 3),), bias=[0.1, 0.2, 0.3, 0.4, 0.5])
    assert mixed.pairs is not None
    assert mixed.groups is not None
    assert (mixed.pairs.weight.shape, mixed.groups.weight.shape) == ((6, 8), (2, 8))
    torch.testing.assert_close(mixed(torch.zeros(1, 8)), torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.5]]))
    vectors = torch.randn(3, 8)
    torch.testing.assert_close(mixed(vectors)[:, [1, 3]], mixed.groups(vectors))


def test_sigmoid_link_gives_every_class_of_a_group_its_own_pair() -> None:
    four = LabelSpace.from_columns(["t=benign", "t=FTC", "t=MTC", "t=ATC"])
    model = build_diagnoser(backbone=DualConfig(), head=TINY, labels=four, link="sigmoid", channels=1, size_px=64)
    assert isinstance(model.head, CsasnHead)
    assert model.head.outputs.groups is None


def test_untrained_head_predicts_the_class_frequencies_unless_told_not_to() -> None:
    prior = [-3.0, 0.5]
    config = replace(TINY, rmsc=replace(TINY.rmsc, attend=Positions()))
    features = torch.randn(50, 384, 4, 4)
    for is_asked, expected in ((True, prior), (False, [0.0, 0.0])):
        asked = replace(config, prior_bias=is_asked)
        head = build_head(asked, feature_dim=384, num_classes=2, prior=prior).eval()
        with torch.no_grad():
            found = head(features).mean(dim=0)
        torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=0.2)


def test_dropout_is_only_for_training() -> None:
    model, images = settled(build()), torch.rand(4, 3, 64, 64)
    assert torch.equal(model(images), model(images))
    model.head.train()
    assert not torch.equal(model(images), model(images))


def test_dropout_stands_after_both_hidden_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[int] = []

    def note(self: nn.Dropout, values: Tensor) -> Tensor:
        widths.append(values.shape[1])
        return values

    monkeypatch.setattr(nn.Dropout, "forward", note)
    CsasnHead((64, 320), 3, config=TINY)(torch.rand(2, 384, 4, 4))
    assert widths == [64, 32]


def test_errors_of_the_head_come_before_the_first_image() -> None:
    with pytest.raises(MedtailError, match="grids: found 14, but the map is 4 x 4"):
        build(replace(TINY, rmsc=replace(TINY.rmsc, attend=Pyramid())))
    with pytest.raises(MedtailError, match=r"'branches', but the backbone has one"):
        build(replace(TINY, rmsc=replace(TINY.rmsc, attend=Branches())), DualConfig(branches="cnn"))
    with pytest.raises(MedtailError, match=r"head\.rmsc\.heads: found 5; .* width 384, the nearest are 4 and 6"):
        build(replace(TINY, rmsc=RmscConfig(width=None, heads=5)))


def test_small_heads_overfit_one_batch() -> None:
    model = build().train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    images = torch.rand(8, 3, 64, 64)
    first = last = float("nan")
    for step in range(40):
        optimizer.zero_grad()
        loss = balanced_step(model, images)
        loss.backward()
        optimizer.step()
        last = float(loss.detach())
        first = last if step == 0 else first
    assert last < 0.1 * first


@pytest.mark.parametrize("backbone", [DualConfig(), DualConfig(fusion="pooled"), DualConfig(branches="cnn")],
                         ids=["map", "pooled", "cnn"])  # fmt: skip
def test_saved_and_loaded_model_gives_the_same_logits(backbone: DualConfig, tmp_path: Path) -> None:
    head = replace(TINY, cbam="full", rmsc=replace(TINY.rmsc, readout="cls"))
    model, images = settled(build(head, backbone)), torch.rand(2, 3, 64, 64)
    parts = ModelParts(pixels=PixelConfig(size_px=64, channels=3), backbone=backbone, head=head, link="softmax")
    save_model(tmp_path / "model", model, ModelCard(labels=SUBTYPES, parts=parts))
    loaded, card = load_model(tmp_path / "model")
    assert card.parts == parts
    assert torch.equal(loaded(images), model(images))
