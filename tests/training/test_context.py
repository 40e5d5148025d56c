from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from medtail.losses.tasks import side_weights
from medtail.sampling.build import (
    ClassBalancedSamplerConfig,
    ProgressiveSamplerConfig,
    SamplerConfig,
    UniformSamplerConfig,
    build_sampler,
)
from medtail.tables.manifest import Manifest, manifest_from_frame
from medtail.tables.tail import count_classes
from medtail.training.context import drawn_counts, joint_counts, train_context


def table(rows: int = 100, **metadata: list[str]) -> Manifest:
    ids = [f"r{row}" for row in range(rows)]
    frame = pd.DataFrame({"image_id": ids, "path": ids, "patient_id": ids, "fold": "train"})
    rare = [1.0 if row < 10 else np.nan if row < 20 else 0.0 for row in range(rows)]
    return manifest_from_frame(frame.assign(**metadata, rare=rare), name="t.csv")


def test_a_uniform_sampler_draws_the_counts_of_the_fold() -> None:
    manifest = table()
    sampler = build_sampler(UniformSamplerConfig(), manifest, seed=0, epochs=3)
    drawn = drawn_counts(sampler, manifest.targets, draws=100, epochs=3)
    assert drawn.positives == pytest.approx((10.0,))
    assert drawn.assessed == pytest.approx((90.0,))
    assert drawn_counts(sampler, manifest.targets, draws=50, epochs=3).positives == pytest.approx((5.0,))


@pytest.mark.parametrize("config", [ClassBalancedSamplerConfig(), ProgressiveSamplerConfig()])
def test_expected_counts_are_the_mean_over_long_runs_of_epochs(config: SamplerConfig) -> None:
    manifest = table()
    found = []
    for seed in range(60):
        sampler = build_sampler(config, manifest, seed=seed, epochs=4)
        found += [np.nansum(manifest.targets[sampler.draw(epoch)]) for epoch in range(4)]
    sampler = build_sampler(config, manifest, seed=0, epochs=4)
    expected = drawn_counts(sampler, manifest.targets, draws=100, epochs=4).positives[0]
    assert float(np.mean(found)) == pytest.approx(expected, abs=4 * float(np.std(found)) / len(found) ** 0.5)
    assert expected > 12


def test_a_balanced_sampler_leaves_the_focal_loss_nothing_to_weigh() -> None:
    manifest = table()
    weights = {}
    for config in (UniformSamplerConfig(), ClassBalancedSamplerConfig()):
        sampler = build_sampler(config, manifest, seed=0, epochs=2)
        context = train_context(manifest, count_classes(manifest), sampler=sampler, draws=100, epochs=2)
        weights[config.kind] = side_weights(context, (0,), beta=0.999)
        assert context.positives == (10,), "what the table holds is another matter"
        assert context.num_domains is None
    assert weights["class_balanced"] == pytest.approx([1.0, 1.0])
    assert weights["uniform"][1] > 5 * weights["uniform"][0]


def test_sites_count_that_have_two_train_images() -> None:
    site = ["north"] * 50 + ["south"] * 30 + ["lone"] + [""] * 10 + ["elsewhere"] * 9
    manifest = table(site=site)
    folds = np.array(["train"] * 91 + ["tune"] * 9, dtype=object)
    manifest = manifest.with_folds(folds)
    sampler = build_sampler(UniformSamplerConfig(), manifest, seed=0, epochs=1)
    counts = count_classes(manifest)
    context = train_context(manifest, counts, sampler=sampler, draws=91, epochs=1, domain_column="site")
    assert context.num_domains == 2
    assert context.num_images == 91
    without = train_context(table(), count_classes(table()), sampler=sampler, draws=91, epochs=1, domain_column="site")
    assert without.num_domains == 0


def test_cells_not_assessed_are_no_sign_that_two_classes_do_not_go_together() -> None:
    ids = list("abcdef")
    frame = pd.DataFrame({"image_id": ids, "path": ids, "patient_id": ids, "fold": ["train"] * 5 + ["tune"]})
    shown = frame.assign(rare=[1, 1, 1, 1, 0, 1], common=[1, 0, np.nan, np.nan, 1, 1])
    # of four rare ones two were looked at for the common one, and one has it; both common ones were looked at
    assert joint_counts(manifest_from_frame(shown, name="t.csv")).tolist() == [[4.0, 2.0], [1.0, 2.0]]
    whole = frame.assign(rare=[1, 1, 1, 1, 0, 1], common=[1, 0, 0, 1, 1, 1])
    assert joint_counts(manifest_from_frame(whole, name="t.csv")).tolist() == [[4.0, 2.0], [2.0, 3.0]]
