from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from medtail.errors import MedtailError
from medtail.synthesis.config import SynthesisConfig
from medtail.synthesis.drawing import (
    DrawingSettings,
    as_bytes,
    check_mode,
    denoising_strip,
    draw_latents,
    noise_for,
    perceive_sketches,
)
from medtail.synthesis.folder import Generator, load_generator
from medtail.synthesis.guidance import Guidance


def asked(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    sketches = torch.rand(count, 1, 32, 32, generator=torch.Generator().manual_seed(7)).round()
    return torch.eye(6)[torch.arange(count) % 6], sketches


def test_an_image_does_not_depend_on_its_batch(generator: Generator) -> None:
    settings, (present, sketches) = DrawingSettings.of(generator), asked(5)
    noise, given = noise_for(generator, range(5)), torch.tensor([True, True, False, True, True])
    whole = draw_latents(generator, noise, present=present, sketches=sketches, given=given, settings=settings)
    backwards = torch.arange(4, -1, -1)
    turned = draw_latents(
        generator,
        noise[backwards],
        present=present[backwards],
        sketches=sketches[backwards],
        given=given[backwards],
        settings=settings,
    )
    assert torch.allclose(turned[backwards], whole, atol=1e-4)
    for i in range(5):
        one = slice(i, i + 1)
        alone = draw_latents(
            generator,
            noise_for(generator, [i]),
            present=present[one],
            sketches=sketches[one],
            given=given[one],
            settings=settings,
        )
        assert torch.allclose(alone, whole[one], atol=1e-4)
        levels = as_bytes(generator.decode(alone)).astype(int) - as_bytes(generator.decode(whole[one])).astype(int)
        assert np.abs(levels).max() <= 1


@pytest.mark.parametrize("solver", ["dpm++", "ddim"])
def test_the_same_noise_gives_the_same_image_every_time(generator: Generator, solver: str) -> None:
    settings = DrawingSettings.of(generator, solver=solver, steps=3)  # type: ignore[arg-type]
    present, sketches = asked(2)
    noise = noise_for(generator, [1, 2])
    first = draw_latents(generator, noise, present=present, sketches=sketches, settings=settings)
    again = draw_latents(generator, noise, present=present, sketches=sketches, settings=settings)
    assert torch.equal(first, again)
    other = draw_latents(generator, noise_for(generator, [3, 4]), present=present, sketches=sketches, settings=settings)
    assert not torch.allclose(other, first, atol=1e-2)


def test_a_sketch_with_scale_0_and_a_sketch_not_given_change_nothing(generator: Generator) -> None:
    present, sketches = asked(3)
    noise = noise_for(generator, range(3))
    own = DrawingSettings.of(generator)
    plain = draw_latents(generator, noise, present=present, settings=own)
    unseen = DrawingSettings.of(generator, sketch_scale=0.0)
    found = draw_latents(generator, noise, present=present, sketches=sketches, settings=unseen)
    assert torch.equal(found, plain)
    shown = draw_latents(generator, noise, present=present, sketches=sketches, settings=own)
    assert not torch.allclose(shown, plain, atol=1e-3)
    none = torch.zeros(3, dtype=torch.bool)
    hidden = draw_latents(generator, noise, present=present, sketches=sketches, given=none, settings=own)
    assert torch.allclose(hidden, plain, atol=1e-4)


def test_settings_come_from_the_generator_unless_given(generator: Generator) -> None:
    assert DrawingSettings.of(generator) == DrawingSettings(solver="ddim", steps=5, guidance=Guidance(2.0, 1.5))
    own = DrawingSettings.of(generator, solver="dpm++", steps=7, class_scale=1.0, sketch_scale=0.5)
    assert own == DrawingSettings(solver="dpm++", steps=7, guidance=Guidance(1.0, 0.5))


def test_perceived_sketches_look_like_extracted_ones(generator: Generator) -> None:
    present, _ = asked(3)
    settings = DrawingSettings.of(generator)
    maps, given = perceive_sketches(generator, noise_for(generator, range(3)), present=present, settings=settings)
    assert maps.shape == (3, 32, 32)
    assert maps.dtype == np.float32
    for sketch, has in zip(maps, given, strict=True):
        assert sketch.min() >= 0
        assert sketch.max() == pytest.approx(1.0) if sketch.any() else not has


def test_modes_need_their_branches(
    quick_config: Callable[..., SynthesisConfig], tmp_path: Path, generator: Generator
) -> None:
    from medtail.synthesis.fit import train_generator

    def quick(**switches: bool) -> Generator:
        steps = {"steps": 1, "batch_size": 2}
        config = quick_config(autoencoder=steps, denoiser=steps | switches, save_every=1)
        return load_generator(train_generator(config, tmp_path / "_".join(switches)).folder)

    without_condition = quick(condition_branch=False)
    without_perception = quick(perception_branch=False)
    check_mode(without_condition, "M0")
    check_mode(without_perception, "M2")
    for mode in ("M0", "M1", "M2"):
        check_mode(generator, mode)
    for mode in ("M1", "M2"):
        with pytest.raises(MedtailError, match=f"mode: '{mode}' .*without the condition branch; expected 'M0'"):
            check_mode(without_condition, mode)
    with pytest.raises(MedtailError, match=r"mode: 'M1' .*without the perception branch; expected 'M0' or 'M2'"):
        check_mode(without_perception, "M1")


def test_a_strip_ends_at_the_image(generator: Generator) -> None:
    present, sketches = asked(1)
    settings, noise = DrawingSettings.of(generator), noise_for(generator, [0])
    strip = denoising_strip(generator, noise, present=present, sketches=sketches, settings=settings)
    assert strip.shape == (32, 5 * 32)
    latents = draw_latents(generator, noise, present=present, sketches=sketches, settings=settings)
    image = as_bytes(generator.decode(latents))[0, 0]
    assert np.abs(strip[:, -32:].astype(int) - image).max() <= 1
    assert np.abs(strip[:, :32].astype(int) - image).max() > 5
