from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medtail.challenges.thyro_lmd_labels import (
    EXCLUSIVE,
    FOCI,
    GROUPS,
    LABELS,
    describe_split,
    head_body_tail,
    labels_from_frame,
    make_split,
    read_labels,
    read_split,
    split_digest,
)
from medtail.errors import MedtailError, UsageError
from medtail.tables.tail import ClassCounts


def reports(count: int, *, seed: int = 0, per_patient: int = 2, sites: int = 1) -> pd.DataFrame:
    """A table of valid reports with common and rare labels, some groups not assessed."""
    random = np.random.default_rng(seed)
    cells = np.zeros((count, LABELS.num_classes))
    for members in EXCLUSIVE.values():
        share = 0.4 ** np.arange(len(members))
        chosen = random.choice(len(members), count, p=share / share.sum())
        for place, name in enumerate(members):
            cells[:, LABELS.index(name)] = chosen == place
        cells[np.ix_(random.random(count) < 0.1, [LABELS.index(name) for name in members])] = np.nan
    others = random.random((count, 4)) < [0.25, 0.2, 0.1, 0.05]
    cells[:, [LABELS.index(name) for name in FOCI[1:]]] = others
    cells[:, LABELS.index("foci_none")] = ~others.any(axis=1)
    lead = {
        "image_id": [f"i{n:04d}" for n in range(count)],
        "path": [f"{n}.png" for n in range(count)],
        "patient_id": [f"p{n // per_patient:04d}" for n in range(count)],
        "site": [f"s{n % sites}" for n in range(count)],
        "undetermined": "",
        "pathology": random.choice(["benign", "malignant", ""], count),
    }
    return pd.concat([pd.DataFrame(lead), pd.DataFrame(cells, columns=list(LABELS.class_names))], axis=1)


def test_the_label_space_is_the_protocols() -> None:
    assert LABELS.num_classes == 20
    assert [len(members) for members in GROUPS.values()] == [4, 5, 2, 4, 5]
    assert [group.name for group in LABELS.groups] == ["composition", "echogenicity", "shape", "margin"]
    assert LABELS.task == "multilabel"


def test_columns_in_any_order_are_put_in_the_protocols_and_context_is_kept_aside(tmp_path: Path) -> None:
    frame = reports(10)
    shuffled = frame[[*frame.columns[:6], *reversed(LABELS.class_names)]]
    shuffled.to_csv(tmp_path / "labels.csv", index=False)
    manifest = read_labels(tmp_path / "labels.csv")
    assert manifest.labels == LABELS
    assert manifest.frame["meta_pathology"].tolist() == frame["pathology"].tolist()
    assert np.array_equal(manifest.targets, frame[list(LABELS.class_names)].to_numpy(np.float32), equal_nan=True)


def test_all_broken_reports_are_listed_with_image_group_and_values() -> None:
    frame = reports(12, seed=4)
    frame[list(LABELS.class_names)] = reports(12, seed=4)[list(LABELS.class_names)].fillna(0.0)
    for members in EXCLUSIVE.values():
        frame[list(members)] = 0.0
        frame[members[0]] = 1.0
    frame.loc[0, "comp_cystic"] = 0.0
    frame.loc[1, "shape_taller"] = np.nan
    frame.loc[2, list(FOCI)] = [1.0, 1.0, 0.0, 0.0, 0.0]
    frame.loc[3, list(FOCI)] = 0.0
    frame.loc[4, list(FOCI)] = 0.0
    with pytest.raises(MedtailError) as caught:
        labels_from_frame(frame, name="labels.csv")
    said = str(caught.value)
    assert (
        "labels.csv, row 2, image 'i0000', group 'composition': found comp_cystic 0, comp_spongiform 0, comp_mixed 0,"
        " comp_solid 0; expected exactly one of them 1." in said
    )
    assert "row 3, image 'i0001', group 'shape': found shape_wider 1, shape_taller empty; expected all of them" in said
    assert "row 4, image 'i0002', group 'foci': found foci_none 1, foci_comet_tail 1" in said
    assert "row 5, image 'i0003', group 'foci'" in said
    assert "at least one of them 1. Also 1 more rows." in said


def test_two_members_of_an_exclusive_group_are_refused() -> None:
    frame = reports(6)
    frame.loc[0, ["shape_wider", "shape_taller"]] = 1.0
    with pytest.raises(MedtailError, match="the classes of 'shape' exclude each other"):
        labels_from_frame(frame)


def test_missing_and_unknown_labels_are_all_named() -> None:
    frame = reports(6).rename(columns={"echo_iso": "echo_isoechoic"}).drop(columns="foci_rim")
    with pytest.raises(MedtailError) as caught:
        labels_from_frame(frame)
    assert "column 'echo_iso': missing" in str(caught.value)
    assert "column 'foci_rim': missing" in str(caught.value)
    assert "column 'echo_isoechoic': is none of the twenty labels" in str(caught.value)


def test_the_cuts_are_20_and_5_percent_of_the_assessed_images() -> None:
    counts = ClassCounts(("a", "b", "c", "d", "e"), (20, 19, 5, 4, 0), (1,) * 5, (100, 100, 100, 100, 0))
    groups = head_body_tail(counts)
    assert list(groups.group_of.values()) == ["head", "medium", "medium", "tail", "tail"]
    assessed_less = ClassCounts(("a",), (4,), (1,), (20,))
    assert head_body_tail(assessed_less).group_of["a"] == "head"
    with pytest.raises(MedtailError, match="upper cut above a lower cut"):
        head_body_tail(counts, cuts=(0.05, 0.2))


@pytest.mark.parametrize("sites", [1, 3])
def test_a_split_keeps_patients_whole_and_its_shares(sites: int) -> None:
    manifest = labels_from_frame(reports(240, sites=sites))
    outcome, split = make_split(manifest, seed=1)
    outcome.manifest.check_folds("train", "tune", "test")
    assert outcome.manifest.labels == LABELS
    shares = outcome.manifest.frame["fold"].value_counts(normalize=True)
    assert shares.to_dict() == pytest.approx({"train": 0.7, "tune": 0.1, "test": 0.2}, abs=0.03)
    assert sum(split.patients.values()) == 120
    assert ("site" in split.rule) == (sites > 1)
    assert not any(" at site " in message for message in outcome.messages)
    train = outcome.manifest.in_fold("train")
    assert split.counts.images == tuple(int(n) for n in (train.targets == 1).sum(axis=0))
    again, _ = make_split(manifest, seed=1)
    assert np.array_equal(again.manifest.folds, outcome.manifest.folds)


def test_sites_are_shared_out_over_the_folds() -> None:
    outcome, _ = make_split(labels_from_frame(reports(600, sites=3)))
    table = pd.crosstab(outcome.manifest.frame["fold"], outcome.manifest.frame["site"], normalize="columns")
    assert (table.loc["train"] - 0.7).abs().max() < 0.05
    assert (table.loc["test"] - 0.2).abs().max() < 0.05


def test_a_split_file_is_read_back_and_never_overwritten(tmp_path: Path) -> None:
    outcome, split = make_split(labels_from_frame(reports(120)), seed=3)
    split.write(tmp_path / "split.json")
    assert read_split(tmp_path / "split.json") == split
    assert split.digest == split_digest(outcome.manifest)
    with pytest.raises(UsageError, match="never overwrites"):
        split.write(tmp_path / "split.json")


def test_the_digest_forgets_the_order_of_rows_and_sees_every_label() -> None:
    manifest = make_split(labels_from_frame(reports(60)))[0].manifest
    shuffled = manifest.take(np.random.default_rng(0).permutation(60))
    assert split_digest(shuffled) == split_digest(manifest)
    changed = manifest.frame.assign(foci_rim=1.0 - manifest.frame["foci_rim"])
    frame = changed.assign(foci_none=0.0, foci_macro=1.0)
    assert split_digest(labels_from_frame(frame)) != split_digest(manifest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"digest": None}, "key 'digest': missing"),
        ({"tail": {"cuts": [0.2], "groups": {}}}, "Expected what `medtail thyro-lmd split` writes"),
        ({"terciles": {"comp_solid": "head"}}, "missing or unknown; expected the twenty labels"),
        ({"tail": {"cuts": [0.2, 0.05], "groups": dict.fromkeys(LABELS.class_names, "body")}}, "'body'"),
    ],
)
def test_a_damaged_split_file_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    split = describe_split(make_split(labels_from_frame(reports(120)))[0].manifest)
    value = {**split.to_json(), **change}
    (tmp_path / "s.json").write_text(
        json.dumps({key: part for key, part in value.items() if part is not None or key == "seed"})
    )
    with pytest.raises(MedtailError, match=message):
        read_split(tmp_path / "s.json")


def test_groups_need_a_train_fold() -> None:
    with pytest.raises(MedtailError, match="no row is in 'train'"):
        describe_split(labels_from_frame(reports(10)))
