from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from medtail.synthesis.denoiser import Denoiser, count_parameters
from medtail.synthesis.sizes import SIZES

TINY = SIZES["tiny"]


def network(*, condition: bool = True, perception: bool = True, seed: int = 0, open_input: bool = False) -> Denoiser:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        built = Denoiser(TINY, num_classes=3, size_px=32, condition_branch=condition, perception_branch=perception)
        if open_input:
            torch.nn.init.normal_(built.unet.conv_in.weight, std=0.1)
    return built.eval().requires_grad_(False)


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    latents = torch.randn(4, 4, 8, 8, generator=random)
    sketches = torch.rand(4, 1, 32, 32, generator=random)
    return latents, torch.tensor([3, 30, 60, 99]), torch.eye(4)[:, :3], sketches


def test_a_dropped_sketch_changes_no_bit_whatever_it_holds() -> None:
    denoiser, (latents, levels, present, sketches) = network(open_input=True), inputs()
    classes, dropped = denoiser.class_vectors(present), torch.zeros(4, dtype=torch.bool)
    none = denoiser(latents, levels, classes=classes, sketches=None, given=None)
    for held in (sketches, torch.full_like(sketches, float("nan")), torch.full_like(sketches, 1e30)):
        found = denoiser(latents, levels, classes=classes, sketches=held, given=dropped)
        assert torch.equal(found.prediction, none.prediction)
        assert torch.equal(found.features, none.features)
    shown = denoiser(latents, levels, classes=classes, sketches=sketches, given=~dropped)
    assert not torch.allclose(shown.prediction, none.prediction)


def test_a_given_empty_sketch_differs_from_none_given() -> None:
    denoiser, (latents, levels, present, sketches) = network(open_input=True), inputs()
    classes, given = denoiser.class_vectors(present), torch.ones(4, dtype=torch.bool)
    blank = torch.zeros_like(sketches)
    told = denoiser(latents, levels, classes=classes, sketches=blank, given=given).prediction
    assert not torch.equal(told, denoiser(latents, levels, classes=classes, sketches=blank, given=~given).prediction)


@pytest.mark.parametrize("perception", [False, True])
def test_at_step_0_the_network_equals_the_class_only_one(perception: bool) -> None:
    latents, levels, present, sketches = inputs()
    plain, branched = network(condition=False, perception=False), network(perception=perception)
    classes = plain.class_vectors(present)
    wanted = plain(latents, levels, classes=classes, sketches=None, given=None)
    found = branched(latents, levels, classes=classes, sketches=sketches, given=torch.ones(4, dtype=torch.bool))
    assert wanted.features is None
    assert torch.allclose(found.prediction, wanted.prediction, atol=1e-6)
    assert torch.count_nonzero(branched.unet.conv_in.weight[:, 4:]) == 0


def test_off_switches_remove_channels_and_weights() -> None:
    counts = {}
    for condition, perception in itertools.product((False, True), repeat=2):
        built = network(condition=condition, perception=perception)
        counts[condition, perception] = count_parameters(built)
        assert built.unet.conv_in.in_channels == 4 + 8 * condition
        assert built.unet.conv_out.out_channels == 4 + 8 * perception
        assert any(name.startswith("sketch_encoder") for name in built.state_dict()) == condition
        assert any(name.startswith("perception_head") for name in built.state_dict()) == perception
    assert counts[False, False] < counts[False, True] < counts[True, True]
    assert counts[True, True] - counts[True, False] == counts[False, True] - counts[False, False]


def test_classes_add_up_and_a_dropped_one_is_the_last_row() -> None:
    denoiser = network()
    present = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [float("nan"), 1.0, 0.0]])
    vectors = denoiser.class_vectors(present)
    assert vectors.tolist() == [[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0]]
    dropped = denoiser.class_vectors(present, dropped=torch.tensor([True, False, True]))
    assert dropped.tolist() == [[0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 1]]
    table = denoiser.class_table
    assert torch.allclose((vectors @ table)[0], table[0] + table[2])


def test_the_class_embedding_is_what_diffusers_adds_to_time() -> None:
    from diffusers import UNet2DModel

    denoiser, (latents, levels, present, _) = network(condition=False, perception=False), inputs()
    theirs = UNet2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        num_class_embeds=4,
    ).eval()
    theirs.load_state_dict(denoiser.unet.state_dict() | {"class_embedding.weight": denoiser.class_table})
    labels = torch.tensor([0, 1, 2, 3])
    dropped = torch.tensor([False, False, False, True])
    found = denoiser(
        latents, levels, classes=denoiser.class_vectors(present, dropped=dropped), sketches=None, given=None
    )
    with torch.no_grad():
        assert torch.allclose(found.prediction, theirs(latents, levels, class_labels=labels).sample, atol=1e-6)


def test_what_is_perceived_is_as_large_as_the_image() -> None:
    denoiser, (latents, levels, present, _) = network(), inputs()
    answer = denoiser(latents, levels, classes=denoiser.class_vectors(present), sketches=None, given=None)
    assert answer.features is not None
    assert denoiser.perceive(answer.features).shape == (4, 1, 32, 32)


def test_a_row_does_not_depend_on_its_batch() -> None:
    denoiser, (latents, levels, present, sketches) = network(open_input=True), inputs()
    classes, given = denoiser.class_vectors(present), torch.tensor([True, False, True, True])
    whole = denoiser(latents, levels, classes=classes, sketches=sketches, given=given).prediction
    for i in range(4):
        one = slice(i, i + 1)
        alone = denoiser(latents[one], levels[one], classes=classes[one], sketches=sketches[one], given=given[one])
        assert torch.allclose(alone.prediction, whole[one], atol=1e-5)
