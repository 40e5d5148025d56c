from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medtail.errors import UsageError
from medtail.models.backbones import ResNetConfig
from medtail.models.diagnoser import Diagnoser, build_diagnoser
from medtail.models.heads import LinearHeadConfig
from medtail.tables.labels import LabelSpace
from medtail.training.tta import VersionPlan, cautions, read_plan

LABELS = LabelSpace.from_columns(["halo", "shape=oval", "shape=round"])
PLANS = ["flip", "flip_rotate_scale", "random:5"]


def model() -> Diagnoser:
    torch.manual_seed(0)
    made = build_diagnoser(
        backbone=ResNetConfig(), head=LinearHeadConfig(), labels=LABELS, link="softmax", channels=1, size_px=32
    ).eval()
    torch.nn.init.normal_(made.head.linear.weight)  # type: ignore[union-attr]
    return made


def scored(plan: VersionPlan, images: Tensor, *, by: Diagnoser) -> Tensor:
    content = torch.ones(len(images), 1, *images.shape[-2:], dtype=torch.bool)
    with torch.inference_mode():
        return plan.scores(by, images, content, labels=LABELS, link="softmax")


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("average", ["logits", "scores"])
def test_an_image_gets_the_same_scores_alone_and_in_any_batch(name: str, average: str) -> None:
    plan, diagnoser, images = read_plan(name, average=average), model(), torch.rand(4, 1, 32, 32)  # type: ignore[arg-type]
    together = scored(plan, images, by=diagnoser)
    alone = torch.cat([scored(plan, image[None], by=diagnoser) for image in images])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)
    torch.testing.assert_close(together[:, 1:].sum(dim=1), torch.ones(4))


def test_none_is_the_plain_score() -> None:
    diagnoser, images = model(), torch.rand(3, 1, 32, 32)
    with torch.inference_mode():
        assert torch.equal(scored(VersionPlan(), images, by=diagnoser), diagnoser.scores(images))


def test_flip_averages_two_logits_or_two_scores_by_hand() -> None:
    diagnoser, images = model(), torch.rand(3, 1, 32, 32)
    with torch.inference_mode():
        two = [diagnoser(images), diagnoser(images.flip(-1))]
        by_scores = (diagnoser.scores(images) + diagnoser.scores(images.flip(-1))) / 2
    halo = torch.sigmoid((two[0] + two[1]) / 2)[:, 0]
    torch.testing.assert_close(scored(read_plan("flip"), images, by=diagnoser)[:, 0], halo)
    torch.testing.assert_close(scored(read_plan("flip", average="scores"), images, by=diagnoser), by_scores)
    assert (by_scores[:, 0] - halo).abs().max() > 1e-6, "the two averages are not the same thing"


def test_mirror_images_score_alike_under_flip() -> None:
    diagnoser, images = model(), torch.rand(3, 1, 32, 32)
    plain, mirrored = (scored(read_plan("flip"), given, by=diagnoser) for given in (images, images.flip(-1)))
    torch.testing.assert_close(plain, mirrored)
    single = [scored(VersionPlan(), given, by=diagnoser) for given in (images, images.flip(-1))]
    assert (single[0] - single[1]).abs().max() > 1e-4


@pytest.mark.parametrize("name", PLANS)
def test_the_plain_image_comes_first_and_nothing_is_turned_over(name: str) -> None:
    parameters = read_plan(name).parameters(size_px=32)
    assert not parameters.flip_vertical.any()
    first = parameters.select([0])
    assert not first.moves
    assert not first.changes_values
    rest = parameters.select(list(range(1, len(parameters))))
    assert rest.moves
    assert parameters.rotation_deg.abs().max() <= 5.0
    assert not parameters.erase.any()


def test_content_moves_with_its_image() -> None:
    seen: list[Tensor] = []

    def logits_of(images: Tensor, content: Tensor) -> Tensor:
        seen.append(((images > 0.5) == content).float().mean())
        return torch.zeros(len(images), 3)

    content = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    content[..., 4:20, 6:28] = True
    read_plan("flip_rotate_scale").scores(logits_of, content.float(), content, labels=LABELS, link="softmax")
    assert len(seen) == 6
    assert min(seen) > 0.95


@pytest.mark.parametrize("name", ["flips", "random", "random:1", "random:65", "random:x", ""])
def test_unknown_plans_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="expected none, flip, flip_rotate_scale or random:K"):
        read_plan(name)


def test_cautions_name_classes_with_sides_and_say_what_moves() -> None:
    sided = LabelSpace(("Hernia", "right_upper_lobe collapse"))
    assert "'right_upper_lobe collapse' names a side" in cautions(read_plan("flip"), labels=sided)[0]
    assert cautions(read_plan("flip"), labels=LABELS) == ()
    assert not any("names a side" in text for text in cautions(read_plan("random:4"), labels=sided))
    assert "shadow stays below" in cautions(read_plan("flip_rotate_scale"), labels=LABELS)[0]
