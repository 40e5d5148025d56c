from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from medtail.errors import MedtailError
from medtail.judging.metrics import auroc
from medtail.tables.manifest import Manifest, manifest_from_frame
from medtail.tables.vectors import ImageVectors, Phrase, TextVectors, text_vectors, unit_rows
from medtail.zeroshot.fewshot import FewShotConfig, fit_few_shot, predict_few_shot
from medtail.zeroshot.scores import predict_zero_shot

COUNT = 240


def world(seed: int = 0) -> tuple[ImageVectors, TextVectors, Manifest]:
    """Images whose class lies along a direction the text only half points at."""
    random = np.random.default_rng(seed)
    rows = np.arange(COUNT)
    present = (rows // 2) % 3 == 0
    values = random.normal(size=(COUNT, 10))
    values[:, 0] += 2.5 * present
    texts = text_vectors([Phrase("Mass", "prompt", "mass", "a mass")], np.eye(1, 10) + 1.5 * np.eye(1, 10, k=1))
    fold = np.where(rows % 8 < 4, "train", "test")  # patients of two images stay together
    frame = pd.DataFrame({"image_id": [f"i{n}" for n in rows], "path": "x.png", "fold": np.repeat(fold[::2], 2)})
    frame = frame.assign(patient_id=[str(n // 2) for n in rows], Mass=present.astype(int))
    ids = frame["image_id"].to_numpy(dtype=object)
    return ImageVectors(ids, unit_rows(values, what=[""] * COUNT)), texts, manifest_from_frame(frame)


def test_no_shots_and_an_endless_pull_are_the_zero_shot_scores() -> None:
    images, texts, manifest = world()
    plain = predict_zero_shot(images, texts, manifest, fold="test").scores
    for config in (FewShotConfig(shots=0), FewShotConfig(shots=5, pull=1e9)):
        head = fit_few_shot(images, texts, manifest, config=config)
        found = predict_few_shot(head, images, texts, manifest, fold="test", config=config)
        np.testing.assert_allclose(found.scores, plain, atol=1e-6)


def test_labelled_images_help_where_the_text_is_half_right() -> None:
    gained = []
    for seed in range(5):
        images, texts, manifest = world(seed)
        values = []
        for shots in (0, 12):
            config = FewShotConfig(shots=shots, pull=0.3)
            head = fit_few_shot(images, texts, manifest, config=config)
            found = predict_few_shot(head, images, texts, manifest, fold="test", config=config)
            values.append(auroc(found.scores[:, 0], found.targets[:, 0]))
        gained.append(values[1] - values[0])
    assert np.mean(gained) > 0.05


def test_images_come_from_train_one_a_patient_and_are_named() -> None:
    images, texts, manifest = world()
    head = fit_few_shot(images, texts, manifest, config=FewShotConfig(shots=15))
    rows = manifest.frame.set_index("image_id").loc[list(head.used["Mass"])]
    assert set(rows["fold"]) == {"train"}
    assert rows["patient_id"].is_unique
    assert rows["Mass"].sum() == 15
    assert len(rows) == 30
    again = fit_few_shot(images, texts, manifest, config=FewShotConfig(shots=15))
    other = fit_few_shot(images, texts, manifest, config=FewShotConfig(shots=15, seed=1))
    assert again.used == head.used != other.used


def test_fit_is_at_the_minimum_of_its_own_sum() -> None:
    images, texts, manifest = world()
    config = FewShotConfig(shots=6, pull=0.5)
    head = fit_few_shot(images, texts, manifest, config=config)
    vectors = images.of(head.used["Mass"]).astype(float)
    targets = manifest.frame.set_index("image_id").loc[list(head.used["Mass"]), "Mass"].to_numpy()
    start = 5.0 * texts.means(["Mass"])[0]

    def total(weights: np.ndarray, bias: float) -> float:
        margins = (2 * targets - 1) * (vectors @ weights + bias)
        return float(np.logaddexp(0, -margins).sum() + 0.25 * (((weights - start) ** 2).sum() / 25 + bias**2))

    best = total(head.weights[0], head.biases[0])
    random = np.random.default_rng(0)
    assert all(total(head.weights[0] + 0.05 * random.normal(size=10), head.biases[0]) > best for _ in range(20))
    assert total(head.weights[0], head.biases[0] + 0.05) > best


def test_too_few_images_are_counted_aloud_and_one_kind_alone_teaches_nothing() -> None:
    images, texts, manifest = world()
    frame = manifest.frame.assign(Mass=np.where(manifest.folds == "train", 0, manifest.frame["Mass"]))
    without = manifest_from_frame(frame)
    head = fit_few_shot(images, texts, without, config=FewShotConfig(shots=4))
    assert head.short == {"Mass": (0, 4)}
    np.testing.assert_allclose(head.weights[0], 5.0 * texts.means(["Mass"])[0], atol=1e-6)


def test_class_without_labels_and_table_without_train_are_refused() -> None:
    images, texts, manifest = world()
    renamed = manifest_from_frame(manifest.frame.rename(columns={"Mass": "Nodule"}).assign(fold="test"))
    with pytest.raises(MedtailError, match=r"class 'Mass': no such column(.|\n)*no row is in 'train'"):
        fit_few_shot(images, texts, renamed)
