from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtail.errors import MedtailError
from medtail.tables.folds import (
    cross_validation_folds,
    hold_out_reward,
    hold_out_test,
    merged_patients,
    protocol_record,
)
from medtail.tables.manifest import Manifest, manifest_from_frame


def make_manifest(
    patients: list[object], labels: dict[str, list[float]], *, folds: list[str] | None = None, **columns: list[object]
) -> Manifest:
    rows = len(patients)
    frame = pd.DataFrame({"image_id": [f"i{n}" for n in range(rows)], "path": "x.png", "patient_id": patients})
    frame["fold"] = folds or [""] * rows
    return manifest_from_frame(frame.assign(**columns, **labels), name="toy.csv")


def centres(seed: int, *, patients: int = 120) -> Manifest:
    """Four classes at three centres, some patients with two nodules of different classes."""
    random = np.random.default_rng(seed)
    rows = []
    for patient in range(patients):
        kind = random.choice(4, p=[0.6, 0.2, 0.12, 0.08])
        site = random.choice(3, p=[0.5, 0.3, 0.2])
        for _ in range(random.integers(1, 4)):
            if random.random() < 0.1:
                kind = random.integers(4)
            rows.append((f"p{patient}", f"centre {site}", kind))
    kinds = np.array([row[2] for row in rows])
    labels = {f"type={name}": (kinds == k).astype(float).tolist() for k, name in enumerate(("benign", "A", "B", "C"))}
    return make_manifest([row[0] for row in rows], labels, site=[row[1] for row in rows])


@given(seed=st.integers(0, 10**6), num_folds=st.integers(2, 6))
@pytest.mark.slow
def test_no_patient_is_in_two_folds_and_the_test_fold_is_the_same_in_all(seed: int, num_folds: int) -> None:
    manifest = hold_out_test(centres(seed), share=0.15, seed=seed).manifest
    made = cross_validation_folds(manifest, num_folds=num_folds, seed=seed, min_positives=0)
    columns = np.array([part.folds for part in made])
    is_test = manifest.folds == "test"
    assert 0.08 < is_test.mean() < 0.22
    assert (columns[:, is_test] == "test").all()
    assert ((columns[:, ~is_test] == "tune").sum(axis=0) == 1).all()
    assert ((columns[:, ~is_test] == "train").sum(axis=0) == num_folds - 1).all()
    for part in made:
        part.check_folds("train", "tune", "test")
        pd.testing.assert_frame_equal(part.frame.drop(columns="fold"), manifest.frame.drop(columns="fold"))


@given(seed=st.integers(0, 10**6))
@pytest.mark.slow
def test_near_duplicates_of_two_patients_move_together(seed: int) -> None:
    table = centres(seed)
    random = np.random.default_rng(seed)
    groups = np.arange(len(table))
    for a, b in random.integers(0, len(table), (10, 2)):
        groups[groups == groups[a]] = groups[b]
    manifest = hold_out_test(table, share=0.2, seed=seed, duplicate_groups=groups).manifest
    made = cross_validation_folds(manifest, num_folds=3, seed=seed, min_positives=0, duplicate_groups=groups)
    for part in made:
        for group in np.unique(groups):
            assert len(set(part.folds[groups == group])) == 1


def test_merged_patients_stay_together_in_whatever_follows() -> None:
    table = centres(4)
    groups = np.arange(len(table))
    groups[-1] = groups[0]
    first, last = table.patients[0], table.patients[-1]
    merged = merged_patients(table, groups)
    assert set(merged.patients[np.isin(table.patients, [first, last])]) == {min(first, last)}
    assert (merged.frame["meta_patient"] == table.frame["patient_id"]).all()
    given = hold_out_test(table, seed=2, duplicate_groups=groups).manifest
    assert (hold_out_test(merged, seed=2).manifest.folds == given.folds).all()
    again = merged_patients(merged, groups)
    pd.testing.assert_frame_equal(again.frame, merged.frame)
    with pytest.raises(MedtailError, match="column 'patient_id': empty, so no patients can be joined"):
        merged_patients(make_manifest([""] * 4, {"a": [1.0, 0.0] * 2}), np.arange(4))


def test_the_classes_of_every_site_are_shared_out_alike() -> None:
    kinds, sites = np.meshgrid(np.arange(3), np.arange(2))
    # thirty patients of every class at the first site, ten at the second
    cells = [(k, s) for k, s in zip(kinds.ravel(), sites.ravel(), strict=True) for _ in range((30, 10)[s])]
    labels = {f"type={name}": [float(k == c) for k, _ in cells] for c, name in enumerate("abc")}
    manifest = make_manifest(list(range(len(cells))), labels, site=[f"s{s}" for _, s in cells])
    for seed in range(5):
        for part in cross_validation_folds(manifest, num_folds=5, seed=seed):
            tune = [cell for cell, fold in zip(cells, part.folds, strict=True) if fold == "tune"]
            assert [tune.count((k, s)) for s in range(2) for k in range(3)] == [6, 6, 6, 2, 2, 2]
        test = hold_out_test(manifest, share=0.1, seed=seed).manifest.folds == "test"
        taken = [cell for cell, chosen in zip(cells, test, strict=True) if chosen]
        assert [taken.count((k, s)) for s in range(2) for k in range(3)] == [3, 3, 3, 1, 1, 1]


def test_the_folds_depend_on_the_seed_and_not_on_the_order_of_rows() -> None:
    manifest = hold_out_test(centres(0), seed=3).manifest
    order = np.random.default_rng(0).permutation(len(manifest))
    shuffled = manifest.take(order)
    one = cross_validation_folds(manifest, num_folds=4, seed=3)
    two = cross_validation_folds(shuffled, num_folds=4, seed=3)
    other = cross_validation_folds(manifest, num_folds=4, seed=4)
    for first, second in zip(one, two, strict=True):
        assert (first.folds[order] == second.folds).all()
    assert any((first.folds != second.folds).any() for first, second in zip(one, other, strict=True))


def test_the_record_says_what_the_folds_are_and_notices_a_changed_test_fold() -> None:
    manifest = hold_out_test(centres(1), seed=1).manifest
    made = cross_validation_folds(manifest, num_folds=3, seed=1)
    record = protocol_record(made, seed=1)
    assert record == json.loads(
        json.dumps(protocol_record(cross_validation_folds(manifest, num_folds=3, seed=1), seed=1))
    )
    assert record["manifest_digest"] == centres(1).digest
    assert sum(part["tune"]["images"] for part in record["folds"]) == int((manifest.folds != "test").sum())
    folds = manifest.folds.copy()
    folds[np.flatnonzero(folds == "test")[0]] = ""
    moved = protocol_record([manifest.with_folds(folds)], seed=1)
    assert moved["test_digest"] != record["test_digest"]
    assert moved["manifest_digest"] == record["manifest_digest"]


def test_the_test_fold_is_taken_first_of_all() -> None:
    labels = {"a": [1.0, 0.0] * 5}
    with pytest.raises(
        MedtailError, match=r"column 'fold': 1 row with one already \(first: row 4\).* Empty the column"
    ):
        hold_out_test(make_manifest(list(range(10)), labels, folds=["", "", "train", *[""] * 7]))
    with pytest.raises(MedtailError, match="2 synthetic rows; the test fold is taken before images are generated"):
        hold_out_test(make_manifest(list(range(10)), labels, origin=["real"] * 8 + ["synthetic"] * 2))
    with pytest.raises(MedtailError, match=r"share: found 1.5; expected a part of the images between 0 and 1"):
        hold_out_test(make_manifest(list(range(10)), labels), share=1.5)


def test_a_class_too_rare_for_test_and_the_rest_stays_out_of_test_and_is_named() -> None:
    manifest = make_manifest(list(range(50)), {"rare": [1.0] + [0.0] * 49, "b": [1.0, 0.0] * 25})
    outcome = hold_out_test(manifest, share=0.2)
    assert outcome.manifest.folds[0] == ""
    assert [message for message in outcome.messages if message.startswith("class 'rare': 1 patient with it")]


def test_kfold_tunes_on_every_row_once_and_keeps_the_test_fold() -> None:
    folds = ["test"] * 10 + ["train"] * 20 + [""] * 70
    manifest = make_manifest([n // 2 for n in range(100)], {"a": [float(n % 5 == 0) for n in range(100)]}, folds=folds)
    made = cross_validation_folds(manifest, num_folds=5, seed=1)
    assert len(made) == 5
    columns = np.array([part.folds for part in made])
    assert (columns[:, :10] == "test").all()
    assert ((columns[:, 10:] == "tune").sum(axis=0) == 1).all()
    assert ((columns[:, 10:] == "train").sum(axis=0) == 4).all()
    for part in made:
        part.check_folds("train", "tune", "test")


def test_kfold_names_the_class_that_is_too_rare_and_the_folds_that_work() -> None:
    manifest = make_manifest(list(range(50)), {"FTC": [1.0] * 3 + [0.0] * 47, "b": [1.0, 0.0] * 25})
    with pytest.raises(MedtailError, match=r"class 'FTC': 3 patients with it .* 5 folds .* Ask for 3 folds"):
        cross_validation_folds(manifest, num_folds=5)
    assert len(cross_validation_folds(manifest, num_folds=3)) == 3
    assert len(cross_validation_folds(manifest, num_folds=5, min_positives=0)) == 5


def test_of_several_rare_classes_the_rarest_says_how_many_folds_work() -> None:
    labels = {"ATC": [1.0] * 4 + [0.0] * 46, "MTC": [0.0] * 4 + [1.0] * 3 + [0.0] * 43, "PTC": [0.0, 1.0] * 25}
    manifest = make_manifest(list(range(50)), labels)
    with pytest.raises(MedtailError) as caught:
        cross_validation_folds(manifest, num_folds=10)
    assert str(caught.value).count("Ask for 3 folds") == 2
    assert "'PTC'" not in str(caught.value)
    assert len(cross_validation_folds(manifest, num_folds=3)) == 3


def test_kfold_refuses_synthetic_rows_of_patients_it_deals() -> None:
    manifest = make_manifest([1, 2, 3, 4, 1], {"a": [1.0, 0.0, 1.0, 0.0, 1.0]}, origin=["real"] * 4 + ["synthetic"])
    with pytest.raises(MedtailError, match=r"1 synthetic rows \(first: row 6\) carry the id of a real patient"):
        cross_validation_folds(manifest, num_folds=2)


def test_kfold_keeps_synthetic_rows_of_their_own_in_train() -> None:
    manifest = make_manifest([1, 2, 3, 4, "s"], {"a": [1.0, 0.0, 1.0, 0.0, 1.0]}, origin=["real"] * 4 + ["synthetic"])
    assert all(part.folds[4] == "train" for part in cross_validation_folds(manifest, num_folds=2))


def test_fewer_than_two_folds_are_refused() -> None:
    with pytest.raises(MedtailError, match="folds 1: expected at least 2"):
        cross_validation_folds(make_manifest([1, 2], {"a": [1.0, 0.0]}), num_folds=1)


def with_folds(seed: int) -> Manifest:
    table = centres(seed)
    patients = table.patients
    number = {name: place for place, name in enumerate(dict.fromkeys(patients))}
    folds = np.array(["train", "train", "train", "tune", "test"], dtype=object)
    return table.with_folds(np.array([folds[number[name] % 5] for name in patients], dtype=object))


@given(seed=st.integers(0, 10**6))
def test_reward_patients_come_out_of_train_and_nothing_else_moves(seed: int) -> None:
    table = with_folds(seed % 50)
    taken = hold_out_reward(table, share=0.25, seed=seed).manifest
    moved = taken.folds != table.folds
    assert set(table.folds[moved]) == {"train"}
    assert set(taken.folds[moved]) == {"reward"}
    assert not set(taken.patients[moved]) & set(taken.patients[~moved])
    train = int((table.folds == "train").sum())
    assert 0.15 * train <= moved.sum() <= 0.35 * train
    positives = (taken.targets == 1)[moved].sum(axis=0)
    assert (positives >= 1).all(), "every class can be rewarded"


def test_near_duplicates_of_a_train_patient_are_not_in_reward() -> None:
    table = with_folds(0)
    groups = np.arange(len(table))
    train = np.flatnonzero(table.folds == "train")
    groups[train[1::2]] = groups[train[0]]  # half of train shows one picture
    taken = hold_out_reward(table, share=0.25, duplicate_groups=groups).manifest
    together = taken.folds[train[1::2]]
    assert len(set(together)) == 1


def test_generated_rows_stay_in_train() -> None:
    table = with_folds(1)
    frame = table.frame.assign(origin="real")
    made = frame.iloc[:3].assign(
        image_id=["s0", "s1", "s2"], patient_id=["syn:0", "syn:1", "syn:2"], origin="synthetic", fold="train"
    )
    joined = manifest_from_frame(pd.concat([frame, made], ignore_index=True), name="pool.csv")
    assert set(hold_out_reward(joined, share=0.3).manifest.folds[-3:]) == {"train"}


def test_a_reward_fold_that_cannot_be_taken_is_refused() -> None:
    table = with_folds(2)
    with pytest.raises(MedtailError, match=r"reward share: found 1.0"):
        hold_out_reward(table, share=1.0)
    with pytest.raises(MedtailError, match=r"in 'reward' already; keep that fold"):
        hold_out_reward(hold_out_reward(table, share=0.2).manifest, share=0.2)
    empty = table.with_folds(np.full(len(table), "", dtype=object))
    with pytest.raises(MedtailError, match=r"no real row is in 'train', from which the reward fold is taken"):
        hold_out_reward(empty, share=0.2)
