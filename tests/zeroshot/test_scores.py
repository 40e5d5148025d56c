from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from scipy.stats import rankdata

from medtail.errors import MedtailError, UsageError
from medtail.tables.manifest import Manifest, manifest_from_frame
from medtail.tables.vectors import ImageVectors, Phrase, TextVectors, text_vectors, unit_rows
from medtail.zeroshot.scores import ScoreConfig, predict_zero_shot, zero_shot_scores

MODES = ("prompts", "prompts_posneg", "prompts_random", "descriptions")
CLASSES = ("Mass", "Bulla", "Hernia")


def texts(classes: tuple[str, ...] = CLASSES, *, width: int = 6) -> TextVectors:
    random = np.random.default_rng(0)
    kinds = [("prompt", word) for word in ("a", "a", "b", "c", "d")] + [("negative", "")] * 2 + [("description", "")]
    phrases = [Phrase(name, kind, word, f"{name} {number}") for name in classes
               for number, (kind, word) in enumerate(kinds)]  # type: ignore[arg-type]  # fmt: skip
    return text_vectors(phrases, random.normal(size=(len(phrases), width)) + 0.5, header={"phrases_digest": "ab"})


def pictures(count: int = 40, *, width: int = 6) -> ImageVectors:
    values = unit_rows(np.random.default_rng(1).normal(size=(count, width)), what=[""] * count)
    return ImageVectors(np.array([f"i{n:02d}" for n in range(count)], dtype=object), values)


def table(count: int = 40) -> Manifest:
    rows = np.arange(count)
    frame = pd.DataFrame({"image_id": [f"i{n:02d}" for n in rows], "path": "x.png", "patient_id": rows // 2})
    fold = np.where(rows % 4 < 2, "tune", "test")
    return manifest_from_frame(frame.astype(str).assign(fold=fold, Mass=rows % 3 == 0).astype({"Mass": int}))


def test_prompts_are_a_sigmoid_of_the_cosine_with_the_mean() -> None:
    words, images = texts(), pictures().values
    mean = words.values[words.rows("Bulla")].mean(axis=0)
    cosine = images @ mean / np.linalg.norm(mean)
    found = zero_shot_scores(images, words, ["Bulla"], config=ScoreConfig(sharpness=3.0))
    np.testing.assert_allclose(found[:, 0], expit(3.0 * cosine), atol=1e-6)


def test_positive_and_negative_are_a_softmax_of_two_cosines() -> None:
    words, images = texts(), pictures().values
    for_, against = (images @ words.means(["Mass"], kind)[0] for kind in ("prompt", "negative"))
    both = np.exp(np.stack([for_, against]) / 0.07)
    found = zero_shot_scores(images, words, ["Mass"], config=ScoreConfig(mode="prompts_posneg", temperature=0.07))
    np.testing.assert_allclose(found[:, 0], both[0] / both.sum(axis=0), atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_a_class_is_scored_the_same_whatever_is_asked_beside_it(mode: str) -> None:
    words, images = texts(), pictures().values
    config = ScoreConfig(mode=mode)  # type: ignore[arg-type]
    together = zero_shot_scores(images, words, CLASSES, config=config)
    alone = np.concatenate([zero_shot_scores(images, words, [name], config=config) for name in CLASSES], axis=1)
    np.testing.assert_allclose(together, alone, atol=1e-12)
    assert ((together > 0) & (together < 1)).all()
    order = np.random.default_rng(2).permutation(len(images))
    np.testing.assert_allclose(zero_shot_scores(images[order], words, CLASSES, config=config), together[order])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ScoreConfig(sharpness=1.0), ScoreConfig(sharpness=50.0)),
        (ScoreConfig(mode="descriptions", sharpness=1.0), ScoreConfig(mode="descriptions", sharpness=20.0)),
        (ScoreConfig(mode="prompts_posneg"), ScoreConfig(mode="prompts_posneg", temperature=0.1)),
    ],
)
def test_sharpness_and_temperature_never_change_the_order(one: ScoreConfig, other: ScoreConfig) -> None:
    words, images = texts(), pictures().values
    first, second = (zero_shot_scores(images, words, CLASSES, config=config) for config in (one, other))
    np.testing.assert_array_equal(rankdata(first, axis=0), rankdata(second, axis=0))
    assert np.abs(first - second).max() > 0.05


def test_keyword_draws_repeat_by_seed_and_one_draw_of_all_is_the_plain_mode() -> None:
    words, images = texts(), pictures().values

    def random(**settings: float) -> np.ndarray:
        return zero_shot_scores(images, words, CLASSES, config=ScoreConfig(mode="prompts_random", **settings))  # type: ignore[arg-type]

    np.testing.assert_array_equal(random(seed=3), random(seed=3))
    assert np.abs(random(seed=3) - random(seed=4)).max() > 1e-3
    np.testing.assert_allclose(random(share=1.0, draws=1), zero_shot_scores(images, words, CLASSES), atol=1e-6)


def test_scores_of_an_exclusive_group_add_up_to_one() -> None:
    names = ("shape=oval", "shape=round", "halo")
    for mode in MODES:
        found = zero_shot_scores(pictures().values, texts(names), names, config=ScoreConfig(mode=mode))  # type: ignore[arg-type]
        np.testing.assert_allclose(found[:, :2].sum(axis=1), 1.0)
        assert (found[:, 2] < 1).all()


def test_predictions_are_ordinary_and_labels_have_no_part_in_them() -> None:
    manifest = table()
    found = predict_zero_shot(pictures(), texts(), manifest, fold="test")
    assert set(found.folds) == {"test"}
    assert found.labels.class_names == CLASSES
    np.testing.assert_array_equal(found.targets[:, 0], manifest.in_fold("test").targets[:, 0])
    assert np.isnan(found.targets[:, 1:]).all()
    assert found.digests["phrases"] == "ab"
    other = manifest_from_frame(manifest.frame.assign(Mass=1 - manifest.frame["Mass"]))
    np.testing.assert_array_equal(predict_zero_shot(pictures(), texts(), other, fold="test").scores, found.scores)
    changed = predict_zero_shot(pictures(), texts(), manifest, fold="test", config=ScoreConfig(sharpness=6))
    assert changed.digests["model"] != found.digests["model"]


def test_unusable_requests_say_what_is_wrong() -> None:
    with pytest.raises(UsageError, match="--fold 'tset': expected one of train"):
        predict_zero_shot(pictures(), texts(), table(), fold="tset")
    with pytest.raises(MedtailError, match="no row is in 'reward'"):
        predict_zero_shot(pictures(), texts(), table(), fold="reward")
    with pytest.raises(MedtailError, match="class 'Hernai': no vectors; did you mean 'Hernia'"):
        predict_zero_shot(pictures(), texts(), table(), class_names=["Hernai"])
    with pytest.raises(MedtailError, match="no vector for 20 of 40 images"):
        predict_zero_shot(pictures(20), texts(), table())
    with pytest.raises(MedtailError, match="expected a class at least"):
        predict_zero_shot(pictures(), texts(), table(), class_names=[])
