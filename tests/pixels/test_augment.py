from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from medtail.config import build_config
from medtail.errors import MedtailError, UsageError
from medtail.pixels.augment import (
    LIMITS,
    AugmentConfig,
    AugmentParameters,
    affine_matrices,
    apply_augmentation,
    draw_augmentation,
    warp_masks,
)

SIZE = 32
OFF = dict.fromkeys(LIMITS, 0.0)
STRONG = {name: largest * 0.9 for name, largest in LIMITS.items()}


def draw(config: AugmentConfig, *, count: int = 8, seed: int = 0, size_px: int = SIZE) -> AugmentParameters:
    return draw_augmentation(count, config, generator=torch.Generator().manual_seed(seed), size_px=size_px)


def made_up(count: int = 8, *, channels: int = 1, size_px: int = SIZE) -> torch.Tensor:
    return torch.rand(count, channels, size_px, size_px, generator=torch.Generator().manual_seed(1))


CONFIGS = {
    "ultrasound": AugmentConfig(),
    "chest X-ray": AugmentConfig(profile="chest_xray"),
    "black border": AugmentConfig(border="zeros"),
    "everything, strongly": AugmentConfig(**STRONG),
    "only values": AugmentConfig(**{**OFF, "gain": 0.5, "gamma": 0.5}),
    "only texture": AugmentConfig(**{**OFF, "texture": 1.0, "blur_px": 2.0, "speckle": 0.4}),
    "only erasing": AugmentConfig(**{**OFF, "erase": 0.7}),
    "literal": AugmentConfig(profile="literal"),
    "none": AugmentConfig(profile="none"),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_batch_augmented_equals_its_images_augmented_one_by_one(name: str, channels: int) -> None:
    images = made_up(channels=channels)
    parameters = draw(CONFIGS[name])
    together = apply_augmentation(images, parameters)
    alone = [apply_augmentation(images[i : i + 1], parameters.select([i])) for i in range(len(images))]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-6, rtol=0)
    order = torch.tensor([5, 2, 7, 2])
    torch.testing.assert_close(
        apply_augmentation(images[order], parameters.select(order)), together[order], atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_results_stay_in_range_and_the_input_is_untouched(name: str) -> None:
    images = made_up(64)
    images[::4], images[1::4] = 0.0, 1.0
    before = images.clone()
    result = apply_augmentation(images, draw(CONFIGS[name], count=64))
    assert result.shape == images.shape
    assert result.dtype == images.dtype
    assert torch.isfinite(result).all()
    assert result.min() >= 0
    assert result.max() <= 1
    assert torch.equal(images, before)
    assert (name == "none") == torch.equal(result, images)


def test_profile_none_is_the_identity() -> None:
    images = made_up()
    assert apply_augmentation(images, draw(AugmentConfig(profile="none"))) is images
    masks = made_up()
    assert warp_masks(masks, draw(AugmentConfig(profile="none"))) is masks


def test_the_same_stream_draws_the_same_numbers_and_another_does_not() -> None:
    first, again, other = draw(AugmentConfig()), draw(AugmentConfig()), draw(AugmentConfig(), seed=1)
    for field in dataclasses.fields(AugmentParameters):
        value = getattr(first, field.name)
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, getattr(again, field.name))
    assert not torch.equal(first.rotation_deg, other.rotation_deg)


def test_switching_one_part_off_leaves_the_other_numbers() -> None:
    full, unturned = draw(AugmentConfig()), draw(AugmentConfig(rotation_deg=0))
    assert not unturned.rotation_deg.any()
    for name in ("flip", "scale", "shift", "gain", "gamma", "blur_px", "speckle", "speckle_field"):
        assert torch.equal(getattr(full, name), getattr(unturned, name))


def test_drawn_numbers_fill_the_promised_ranges() -> None:
    drawn = draw(AugmentConfig(), count=4000, size_px=8)
    assert drawn.flip.float().mean() == pytest.approx(0.5, abs=0.03)
    for values, low, high in (
        (drawn.rotation_deg, -10, 10),
        (drawn.scale, 0.9, 1.1),
        (drawn.shift, -0.05, 0.05),
        (drawn.gain, 0.85, 1.15),
        (drawn.gamma, 0.85, 1.15),
        (drawn.blur_px, 0, 0.7),
    ):
        span = high - low
        assert low <= values.min() < low + 0.01 * span
        assert high - 0.01 * span < values.max() <= high
    assert drawn.blur_px[drawn.blur_px > 0].min() < 0.01
    assert (drawn.blur_px > 0).float().mean() == pytest.approx(0.2, abs=0.03)
    assert (drawn.speckle == 0.1).float().mean() == pytest.approx(0.2, abs=0.03)
    assert not drawn.erase.any()


def test_movements_neither_turn_over_nor_stretch_nor_shear() -> None:
    for config in (AugmentConfig(), AugmentConfig(profile="chest_xray")):
        drawn = draw(config, count=500)
        linear = affine_matrices(drawn, size_px=SIZE)[:, :, :2]
        linear[drawn.flip, :, 0] *= -1  # undo the mirroring: what is left must be scale times a small rotation
        gram = linear.transpose(1, 2) @ linear
        expected = (drawn.scale**2)[:, None, None] * torch.eye(2)
        torch.testing.assert_close(gram, expected, atol=1e-5, rtol=0)
        angle = torch.rad2deg(torch.atan2(linear[:, 1, 0], linear[:, 0, 0]))
        torch.testing.assert_close(angle, drawn.rotation_deg, atol=1e-3, rtol=0)
        assert angle.abs().max() <= 10
        assert bool(drawn.flip.any()) == (config.profile == "ultrasound")


def test_a_flip_alone_mirrors_left_and_right() -> None:
    images = made_up(channels=3)
    result = apply_augmentation(images, draw(AugmentConfig(**{**OFF, "flip": 1.0})))
    torch.testing.assert_close(result, images.flip(-1), atol=1e-5, rtol=0)


def test_a_vertical_flip_alone_turns_over() -> None:
    images = made_up(channels=3)
    result = apply_augmentation(images, draw(AugmentConfig(**{**OFF, "flip_vertical": 1.0})))
    torch.testing.assert_close(result, images.flip(-2), atol=1e-5, rtol=0)


def test_contrast_keeps_each_images_mean_and_stretches_about_it() -> None:
    images = made_up() * 0.4 + 0.3  # nothing is clipped
    drawn = draw(AugmentConfig(**{**OFF, "contrast": 0.4}))
    result = apply_augmentation(images, drawn)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(result - mean, (images - mean) * drawn.contrast[:, None, None, None], atol=1e-6, rtol=0)
    assert drawn.contrast.min() < 0.9
    assert drawn.contrast.max() > 1.1


def test_literal_is_random_brightness_contrast_and_both_flips_and_nothing_else() -> None:
    config = build_config(AugmentConfig, {"profile": "literal"}, where="augment")
    drawn = draw(config, count=4000, size_px=8)
    assert drawn.flip.float().mean() == pytest.approx(0.5, abs=0.03)
    assert drawn.flip_vertical.float().mean() == pytest.approx(0.5, abs=0.03)
    for values in (drawn.gain, drawn.contrast):
        assert 0.8 <= values.min() < 0.802
        assert 1.198 < values.max() <= 1.2
        assert values.mean() == pytest.approx(1.0, abs=0.01)
    # the two share a column of chance; neither may tell of the other
    both = torch.stack([drawn.flip_vertical.float(), drawn.contrast, drawn.gain, drawn.flip.float()])
    assert (torch.corrcoef(both) - torch.eye(4)).abs().max() < 0.05
    assert (drawn.gamma == 1).all()
    assert (drawn.scale == 1).all()
    still = (drawn.rotation_deg, drawn.shift, drawn.blur_px, drawn.speckle, drawn.erase)
    assert not any(values.any() for values in still)


def test_only_literal_turns_images_over() -> None:
    for profile in ("none", "ultrasound", "chest_xray"):
        assert not draw(
            build_config(AugmentConfig, {"profile": profile}, where="augment"), count=500
        ).flip_vertical.any()


@pytest.mark.parametrize("name", CONFIGS)
def test_an_augmented_image_keeps_its_content_mask_aligned(name: str) -> None:
    """A bright block, flat in itself, is where its mask says: nowhere beside it, and nowhere missing."""
    masks = torch.zeros(8, 1, 64, 64)
    masks[:, :, 10:30, 14:44] = 1
    drawn = draw(CONFIGS[name], size_px=64)
    still = dict.fromkeys(("gain", "contrast", "gamma"), torch.ones(8)) | dict.fromkeys(
        ("blur_px", "speckle"), torch.zeros(8)
    )
    drawn = dataclasses.replace(drawn, **still, erase=torch.zeros(8, 4), border="zeros")
    shown, moved = apply_augmentation(masks, drawn), warp_masks(masks, drawn)
    assert (moved.sum(dim=(1, 2, 3)) > 20).all()
    # a pixel of the edge is mixed by the image's interpolation and decided by the mask's; a corner at worst by ¾
    assert (shown - moved).abs().max() <= 0.75 + 1e-4
    assert (shown - moved).abs().mean() < 0.02
    if drawn.moves:
        assert (shown - masks).abs().mean() > 5 * (shown - moved).abs().mean()


def test_a_shift_moves_rightwards_and_downwards_by_whole_pixels() -> None:
    images = made_up(1)
    still = draw(AugmentConfig(profile="none", border="zeros"), count=1)
    moved = dataclasses.replace(still, shift=torch.tensor([[3 / SIZE, 5 / SIZE]]))
    result = apply_augmentation(images, moved)
    torch.testing.assert_close(result[..., 5:, 3:], images[..., :-5, :-3], atol=1e-5, rtol=0)
    assert result[..., :5, :].max() < 1e-5
    assert result[..., :, :3].max() < 1e-5


def test_rotation_is_clockwise_about_the_centre() -> None:
    images = torch.zeros(1, 1, 33, 33)
    images[0, 0, 4, 16] = 1.0  # above the centre
    still = draw(AugmentConfig(profile="none"), count=1, size_px=33)
    turned = apply_augmentation(images, dataclasses.replace(still, rotation_deg=torch.tensor([30.0])))
    y, x = np.unravel_index(int(turned.argmax()), (33, 33))
    assert (x, y) == (round(16 + 12 * np.sin(np.pi / 6)), round(16 - 12 * np.cos(np.pi / 6)))


def test_outside_is_mirrored_or_black() -> None:
    images = torch.ones(1, 1, SIZE, SIZE)
    for border, expected in (("reflection", 1.0), ("zeros", 0.0)):
        still = draw(AugmentConfig(profile="none", border=border), count=1)  # type: ignore[arg-type]
        result = apply_augmentation(images, dataclasses.replace(still, scale=torch.tensor([0.5])))
        assert result[0, 0, 0, 0] == pytest.approx(expected, abs=1e-6)
        assert result[0, 0, 16, 16] == pytest.approx(1.0, abs=1e-6)


def test_gain_and_gamma_follow_their_formula() -> None:
    images = made_up(2)
    still = draw(AugmentConfig(profile="none"), count=2)
    changed = dataclasses.replace(still, gain=torch.tensor([1.15, 0.9]), gamma=torch.tensor([0.85, 1.1]))
    result = apply_augmentation(images, changed)
    torch.testing.assert_close(result[0], (1.15 * images[0] ** 0.85).clamp(0, 1))
    torch.testing.assert_close(result[1], 0.9 * images[1] ** 1.1)


def test_blur_smooths_and_speckle_multiplies_only_where_drawn() -> None:
    images = made_up(2)
    still = dataclasses.replace(draw(AugmentConfig(profile="none"), count=2), blur_reach_px=3)
    blurred = apply_augmentation(images, dataclasses.replace(still, blur_px=torch.tensor([0.0, 1.0])))
    assert torch.equal(blurred[0], images[0])
    assert blurred[1].std() < 0.5 * images[1].std()
    assert blurred[1].mean() == pytest.approx(float(images[1].mean()), abs=0.01)
    field = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0))
    half = torch.full((2, 1, SIZE, SIZE), 0.5)
    half[:, :, :8] = 0.0
    speckled = apply_augmentation(
        half, dataclasses.replace(still, speckle=torch.tensor([0.1, 0.0]), speckle_field=field)
    )
    assert torch.equal(speckled[1], half[1])
    assert not speckled[0, :, :8].any()
    assert 0.01 < speckled[0, :, 8:].std() < 0.06


def test_erasing_blackens_the_drawn_rectangle() -> None:
    drawn = draw(AugmentConfig(**{**OFF, "erase": 1.0}), count=200)
    share = (apply_augmentation(torch.ones(200, 1, SIZE, SIZE), drawn) == 0).float().mean(dim=(1, 2, 3))
    assert share.min() > 0.005
    assert share.max() < 0.14
    assert share.mean() == pytest.approx(0.06, abs=0.01)


def test_masks_move_with_their_images() -> None:
    masks = torch.zeros(8, 1, 64, 64)
    masks[:, :, 20:44, 12:40] = 1.0
    config = AugmentConfig(gain=0, gamma=0, texture=0)
    drawn = draw(config, size_px=64)
    moved_masks, moved_images = warp_masks(masks, drawn), apply_augmentation(masks, drawn)
    assert set(moved_masks.unique().tolist()) == {0.0, 1.0}
    assert ((moved_images > 0.5).float() == moved_masks).float().mean() > 0.995
    assert not torch.equal(moved_masks, masks)
    # what a wider world would have brought in is no content
    assert warp_masks(torch.ones_like(masks), drawn).mean() < 1


def test_settings_outside_their_ranges_are_refused_all_at_once() -> None:
    with pytest.raises(MedtailError, match=r"rotation_deg: found 90; expected 0 to 30\. gain: found -0\.1"):
        AugmentConfig(rotation_deg=90, gain=-0.1)
    with pytest.raises(MedtailError, match=r"profile: found 'mri'; expected 'none', 'ultrasound', 'chest_xray'"):
        AugmentConfig(profile="mri")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="rotation: unknown key; did you mean 'rotation_deg'"):
        build_config(AugmentConfig, {"rotation": 5}, where="a.yaml")
    assert (
        build_config(AugmentConfig, {"profile": "chest_xray", "flip": 0.5}, where="a.yaml").strengths()["flip"] == 0.5
    )


def test_an_empty_batch_and_the_smallest_images_work() -> None:
    assert apply_augmentation(made_up(0), draw(AugmentConfig(), count=0)).shape == (0, 1, SIZE, SIZE)
    config = AugmentConfig(**{**STRONG, "texture": 1.0})
    result = apply_augmentation(made_up(4, size_px=8), draw(config, count=4, size_px=8))
    assert torch.isfinite(result).all()


def test_everything_drawn_follows_the_images_to_their_device() -> None:
    # the meta device holds no values, but most operations refuse to mix it with tensors left on the CPU
    images, drawn = made_up().to("meta"), draw(AugmentConfig(**STRONG))
    assert apply_augmentation(images, drawn).device.type == "meta"
    assert warp_masks(images, drawn).device.type == "meta"


@pytest.mark.gpu
def test_the_device_gives_what_the_cpu_gives() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    images, drawn = made_up(), draw(AugmentConfig(**STRONG))
    there = apply_augmentation(images.cuda(), drawn)
    assert there.is_cuda
    torch.testing.assert_close(there.cpu(), apply_augmentation(images, drawn), atol=1e-4, rtol=0)
