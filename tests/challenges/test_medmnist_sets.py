from __future__ import annotations

import pytest

from medtail.challenges.medmnist_sets import SETS, medmnist_set
from medtail.errors import UsageError


def test_the_collection_has_twelve_sets_of_images_and_six_of_volumes() -> None:
    assert len(SETS) == 18
    assert sum(dataset.is_volume for dataset in SETS.values()) == 6
    assert all(flag == dataset.flag for flag, dataset in SETS.items())


@pytest.mark.parametrize(
    ("flag", "task", "classes"),
    [
        ("chestmnist", "multi-label, binary-class", 14),
        ("breastmnist", "binary-class", 2),
        ("retinamnist", "ordinal-regression", 5),
        ("tissuemnist", "multi-class", 8),
        ("organmnist3d", "multi-class", 11),
        ("fracturemnist3d", "multi-class", 3),
    ],
)
def test_a_set_poses_the_task_of_the_package(flag: str, task: str, classes: int) -> None:
    dataset = medmnist_set(flag)
    assert (dataset.task, len(dataset.class_names)) == (task, classes)
    assert (dataset.labels.task == "multilabel") == dataset.is_multilabel
    assert dataset.labels.num_classes == classes


def test_class_1_of_the_breast_set_is_no_cancer() -> None:
    assert medmnist_set("breastmnist").class_names == ("malignant", "normal, benign")


def test_the_volumes_number_their_organs_in_another_order_than_the_slices() -> None:
    flat, volumes = medmnist_set("organamnist").class_names, medmnist_set("organmnist3d").class_names
    assert sorted(flat) == sorted(volumes)
    assert flat != volumes


def test_an_unknown_flag_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'chestmnist'"):
        medmnist_set("chestmnst")
