from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from medtail.errors import MedtailError
from medtail.sources.phantom_breast import render_breast
from medtail.synthesis.memorisation import copy_test, low_ratio, nearest_train


def test_the_nearest_is_found_also_when_mirrored():
    train = np.array([[0.0, 0.0], [10.0, 0.0]])
    found = nearest_train(np.array([[4.0, 0.0]]), np.array([[10.0, 1.0]]), train)
    assert found.row.tolist() == [1]
    assert found.distance.tolist() == [1.0]


def test_images_of_the_same_patient_are_passed_over():
    train = np.array([[0.0], [0.1], [5.0]])
    patients = np.array(["a", "a", "b"])
    found = nearest_train(train, train, train, patients=patients, train_patients=patients)
    assert found.distance.round(6).tolist() == [5.0, 4.9, 4.9]
    assert found.row.tolist() == [2, 2, 1]


def test_a_patient_alone_has_no_neighbour():
    train = np.array([[0.0], [1.0]])
    found = nearest_train(train, train, train, patients=np.array(["a", "a"]), train_patients=np.array(["a", "a"]))
    assert np.isnan(found.distance).all()
    assert found.row.tolist() == [-1, -1]
    assert np.isnan(found.ratio).all()


def test_the_copy_ratio_is_small_beside_a_train_image_and_about_one_between_them():
    random = np.random.default_rng(0)
    train = random.normal(size=(100, 6))
    copies = train[:20] + random.normal(0, 0.01, (20, 6))
    fresh = random.normal(size=(20, 6))
    ratios = [nearest_train(x, x + 100, train).ratio for x in (copies, fresh)]
    assert ratios[0].max() < 0.1
    assert 0.5 < np.median(ratios[1]) < 1.2


def test_the_copy_ratio_of_few_train_images_uses_those_there_are():
    found = nearest_train(np.array([[0.5]]), np.array([[0.5]]), np.array([[0.0], [1.0], [3.0]]))
    assert found.ratio[0] == pytest.approx(0.5 / 2.0)


@pytest.mark.parametrize("ties", [False, True])
def test_the_test_is_the_rank_test_of_mann_and_whitney(ties):
    random = np.random.default_rng(1)
    a, b = random.normal(0.3, 1, 40), random.normal(0, 1, 25)
    if ties:
        a, b = a.round(0), b.round(0)
    u = mannwhitneyu(a, b).statistic
    assert copy_test(a, b) == pytest.approx((u - 500) / np.sqrt(1000 * 66 / 12))


def test_it_is_a_standard_normal_for_new_images():
    random = np.random.default_rng(2)
    values = [copy_test(random.normal(size=50), random.normal(size=40)) for _ in range(2000)]
    assert np.mean(values) == pytest.approx(0, abs=0.08)
    assert np.std(values) == pytest.approx(1, abs=0.06)


def test_too_few_images_say_nothing():
    assert np.isnan(copy_test(np.arange(9.0), np.array([1.0, 2, 3, 4, np.nan])))
    assert np.isnan(low_ratio(np.array([1.0, np.inf, np.nan, 2, 3])))


@pytest.fixture(scope="module")
def phantoms():
    def draw(count, start):
        images = np.stack([render_breast(3, number=start + n).pixels for n in range(count)]) / 255.0
        small = images.reshape(count, 32, 2, 32, 2).mean(axis=(2, 4))
        return small.reshape(count, -1), small[:, :, ::-1].reshape(count, -1)

    return draw(60, 0), draw(60, 1000), draw(60, 2000)


def test_fresh_phantoms_are_no_copies_and_noisy_copies_are(phantoms):
    (train, mirrored), (fresh, fresh_mirrored), (tune, _) = phantoms
    names = np.arange(60).astype(str)
    reference = nearest_train(train, mirrored, train, patients=names, train_patients=names).distance
    honest = nearest_train(fresh, fresh_mirrored, train).distance
    assert abs(copy_test(honest, reference)) < 3
    noise = np.random.default_rng(0).normal(0, 0.03, train.shape)
    assert copy_test(nearest_train(train + noise, mirrored + noise, train).distance, reference) < -3
    # a copy of the mirror image is a copy
    assert copy_test(nearest_train(mirrored + noise, train + noise, train).distance, reference) < -3
    # and to images never learnt from, copies are as far as real ones are
    unseen = nearest_train(train, mirrored, tune).distance
    assert copy_test(nearest_train(train + noise, mirrored + noise, tune).distance, unseen) > -3


def test_smooth_images_are_near_to_everything(phantoms):
    (train, mirrored), (fresh, fresh_mirrored), (tune, _) = phantoms
    names = np.arange(60).astype(str)
    middle = train.mean(axis=0)
    smooth, smooth_mirrored = 0.3 * fresh + 0.7 * middle, 0.3 * fresh_mirrored + 0.7 * middle
    reference = nearest_train(train, mirrored, train, patients=names, train_patients=names).distance
    to_train = copy_test(nearest_train(smooth, smooth_mirrored, train).distance, reference)
    to_tune = copy_test(
        nearest_train(smooth, smooth_mirrored, tune).distance, nearest_train(train, mirrored, tune).distance
    )
    assert to_train < -3
    assert to_train - to_tune > -3


def test_two_spaces_are_refused():
    with pytest.raises(MedtailError, match="expected one space"):
        nearest_train(np.zeros((1, 2)), np.zeros((1, 2)), np.zeros((1, 3)))
