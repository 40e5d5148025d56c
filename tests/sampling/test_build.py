from __future__ import annotations

import pytest

from medtail.errors import MedtailError
from medtail.sampling.build import RepeatFactorSamplerConfig, UniformSamplerConfig, build_sampler
from medtail.tables.manifest import Manifest


def test_an_epoch_has_as_many_draws_as_the_train_fold_has_rows(toy_manifest: Manifest) -> None:
    sampler = build_sampler(UniformSamplerConfig(), toy_manifest, seed=0, epochs=1)
    assert len(sampler.draw(0)) == len(toy_manifest.in_fold("train"))


@pytest.mark.parametrize(
    ("epoch_rows", "epochs", "message"),
    [(0, 1, "sampler, epoch_rows: found 0; expected at least 1"), (None, 0, "sampler, epochs: found 0")],
)
def test_numbers_out_of_range_are_refused(
    toy_manifest: Manifest, epoch_rows: int | None, epochs: int, message: str
) -> None:
    with pytest.raises(MedtailError, match=message):
        build_sampler(UniformSamplerConfig(), toy_manifest, seed=0, epochs=epochs, epoch_rows=epoch_rows)


def test_a_config_written_in_python_is_checked_too(toy_manifest: Manifest) -> None:
    with pytest.raises(MedtailError, match=r"sampler, cap: found 0.5; expected .*1$"):
        build_sampler(RepeatFactorSamplerConfig(cap=0.5), toy_manifest, seed=0, epochs=1)
