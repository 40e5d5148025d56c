from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medtail.errors import MedtailError
from medtail.synthesis.denoiser import Denoised, Denoiser
from medtail.synthesis.folder import Generator
from medtail.synthesis.guidance import Guidance, guided_prediction


@pytest.fixture
def asked(generator: Generator) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    return {
        "noisy": torch.randn(3, 4, 8, 8, generator=random),
        "present": torch.eye(6)[:3],
        "sketches": torch.rand(3, 1, 32, 32, generator=random),
        "given": torch.tensor([True, True, False]),
    }


def guided(denoiser: Denoiser, asked: dict[str, Tensor], class_scale: float, sketch_scale: float) -> Tensor:
    with torch.no_grad():
        return guided_prediction(
            denoiser,
            asked["noisy"],
            torch.tensor(40),
            present=asked["present"],
            sketches=asked["sketches"],
            given=asked["given"],
            guidance=Guidance(class_scale, sketch_scale),
        )


def single(denoiser: Denoiser, asked: dict[str, Tensor], *, with_class: bool, with_sketch: bool) -> Tensor:
    given = asked["given"] & with_sketch
    dropped = torch.full((3,), not with_class)
    with torch.no_grad():
        return denoiser(
            asked["noisy"],
            torch.tensor([40] * 3),
            classes=denoiser.class_vectors(asked["present"], dropped=dropped),
            sketches=asked["sketches"],
            given=given,
        ).prediction


def test_guidance_of_one_and_one_is_the_prediction_with_class_and_sketch(
    generator: Generator, asked: dict[str, Tensor]
) -> None:
    wanted = single(generator.denoiser, asked, with_class=True, with_sketch=True)
    assert torch.equal(guided(generator.denoiser, asked, 1, 1), wanted)


def test_guidance_of_one_and_zero_is_the_prediction_with_class_alone(
    generator: Generator, asked: dict[str, Tensor]
) -> None:
    wanted = single(generator.denoiser, asked, with_class=True, with_sketch=False)
    assert torch.equal(guided(generator.denoiser, asked, 1, 0), wanted)
    assert not torch.allclose(guided(generator.denoiser, asked, 1, 1), wanted)


def test_guidance_is_the_printed_sum(generator: Generator, asked: dict[str, Tensor]) -> None:
    none, only_class, both = (
        single(generator.denoiser, asked, with_class=c, with_sketch=s)
        for c, s in ((False, False), (True, False), (True, True))
    )
    wanted = none + 3.0 * (only_class - none) + 1.5 * (both - only_class)
    assert torch.allclose(guided(generator.denoiser, asked, 3.0, 1.5), wanted, atol=1e-5)


@pytest.mark.parametrize(("scales", "evaluations"), [((1, 1), 1), ((1, 0), 1), ((2, 2), 2), ((2, 0), 2), ((2, 1), 3)])
def test_an_evaluation_that_weighs_nothing_is_not_made(
    generator: Generator, asked: dict[str, Tensor], scales: tuple[float, float], evaluations: int
) -> None:
    seen = []

    def count(module: object, inputs: tuple[Tensor, ...], output: Denoised) -> None:
        seen.append(len(inputs[0]))

    handle = generator.denoiser.register_forward_hook(count)
    guided(generator.denoiser, asked, *scales)
    handle.remove()
    assert seen == [3 * evaluations]


def test_negative_scales_are_refused() -> None:
    with pytest.raises(MedtailError, match=r"sketch_scale: found -0.5; expected 0 or more"):
        Guidance(1.0, -0.5)
