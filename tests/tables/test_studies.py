from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from medtail.errors import MedtailError
from medtail.tables.manifest import Manifest, manifest_from_frame
from medtail.tables.studies import VIEW_KINDS, gather_studies, study_manifest


def table(**changes: object) -> Manifest:
    frame = pd.DataFrame(
        {
            "image_id": ["a", "b", "c", "d", "e", "f"],
            "path": "x.png",
            "patient_id": ["1", "1", "1", "2", "2", "3"],
            "fold": ["train", "train", "train", "tune", "tune", "train"],
            "study_id": ["s1", "s1", "s2", "s3", "s3", ""],
            "view": ["LL", "PA", "LATERAL", "XX", "", "AP"],
            "Hernia": [0, 1, 0, None, None, 1],
            "shape=oval": [1, 1, 0, 1, None, 0],
            "shape=round": [0, 0, 1, 0, None, 1],
        }
    )
    return manifest_from_frame(frame.assign(**changes), name="t.csv")


def test_an_image_without_a_study_is_one_of_its_own_and_unknown_codes_are_named() -> None:
    studies = gather_studies(table())
    assert len(studies) == 4
    assert [VIEW_KINDS[kind] for kind in studies.kinds] == ["lateral", "frontal", "lateral", "other", "", "frontal"]
    assert studies.census.unknown_codes == ("XX",)
    assert studies.census.without_frontal == 2, "s2 has a lateral view alone, s3 none that is frontal"
    assert studies.census.no_study == 1


def test_studies_do_not_depend_on_the_order_of_the_table() -> None:
    manifest = table()
    order = np.array([5, 3, 0, 4, 2, 1])
    turned = manifest.take(order)
    plain, other = gather_studies(manifest), gather_studies(turned)
    assert plain.names.tolist() == other.names.tolist()
    for study in range(len(plain)):
        assert [manifest.frame["image_id"][row] for row in plain.images(study)] == [
            turned.frame["image_id"][row] for row in other.images(study)
        ]


def test_frontal_views_are_looked_at_first_and_draws_keep_to_the_study() -> None:
    many = manifest_from_frame(
        pd.DataFrame(
            {
                "image_id": [f"i{n}" for n in range(6)], "path": "x", "patient_id": "1", "study_id": "s",
                "view": ["LL", "", "AP", "SWIMMERS", "PA", "LL"], "Hernia": 1,
            }
        )
    )  # fmt: skip
    studies = gather_studies(many)
    assert "1 studies have more than 4 images" in studies.text(most=4)
    assert "more than" not in studies.text(most=6)
    assert studies.pick(np.array([0]), most=4).tolist() == [[2, 4, 0, 5]]
    assert studies.pick(np.array([0]), most=8).tolist() == [[2, 4, 0, 5, 3, 1, -1, -1]]
    random = np.random.default_rng(0)
    drawn = [tuple(studies.pick(np.array([0]), most=4, random=random)[0]) for _ in range(60)]
    assert len(set(drawn)) > 5
    assert all(len(set(rows)) == 4 for rows in drawn)
    assert {row for rows in drawn for row in rows} == set(range(6)), "every image has its turn"


def test_a_study_says_what_any_of_its_images_says() -> None:
    manifest = table()
    rows = study_manifest(manifest, gather_studies(manifest))
    assert len(rows) == 4
    by_patient = rows.frame.set_index("image_id")
    assert by_patient.loc["b", "Hernia"] == 1.0, "one of two images shows it"
    assert by_patient.loc["c", "Hernia"] == 0.0
    assert by_patient.loc["d", "Hernia"] != by_patient.loc["d", "Hernia"], "assessed in no image"
    assert by_patient.loc["d", "shape=oval"] == 1.0
    assert rows.folds.tolist().count("tune") == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"study_id": ""}, "column 'study_id': missing or empty"),
        ({"study_id": ["s1", "s1", "s1", "s1", "s3", ""]}, "1 studies have images of several patients"),
        ({"fold": ["train", "tune", "train", "tune", "tune", "train"]}, "1 studies have images of several folds"),
    ],
)
def test_torn_or_missing_studies_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(MedtailError, match=message):
        gather_studies(table(**changes))


def test_a_study_of_two_classes_that_exclude_each_other_is_refused() -> None:
    torn = table(**{"shape=oval": [1, 0, 0, 1, None, 0], "shape=round": [0, 1, 1, 0, None, 1]})
    with pytest.raises(MedtailError, match="group 'shape': 1 studies have images of different classes of it: 's1'"):
        study_manifest(torn, gather_studies(torn))
