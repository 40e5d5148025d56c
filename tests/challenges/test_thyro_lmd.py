from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from medtail.challenges.thyro_lmd import (
    headline,
    read_submission,
    score_text,
    score_thyro_lmd,
    write_score,
    write_template,
)
from medtail.challenges.thyro_lmd_decoding import decode, invalid_groups
from medtail.challenges.thyro_lmd_labels import (
    FOCI,
    GROUPS,
    LABELS,
    describe_split,
    group_columns,
    labels_from_frame,
    make_split,
)
from medtail.errors import MedtailError, UsageError
from medtail.tables.manifest import Manifest
from medtail.tables.predictions import read_predictions
from medtail.tables.results import read_results

NAMES = list(LABELS.class_names)


def reports(*, seed: int = 0) -> pd.DataFrame:
    """160 valid reports of 80 patients, with common and rare labels; some echogenicities not assessed."""
    random = np.random.default_rng(seed)
    # u ** (1 / w) is highest for a member with a chance in proportion to its w
    shares = np.concatenate([0.4 ** np.arange(len(members)) for members in GROUPS.values()])
    cells = decode(random.random((160, 20)) ** (1 / shares)).astype(float)
    cells[np.ix_(random.random(160) < 0.1, group_columns("echogenicity"))] = np.nan
    ids = {
        "image_id": [f"i{n:04d}" for n in range(160)],
        "path": "x.png",
        "patient_id": [f"p{n // 2:03d}" for n in range(160)],
    }
    return pd.concat([pd.DataFrame(ids), pd.DataFrame(cells, columns=NAMES)], axis=1)


@pytest.fixture
def truth() -> Manifest:
    """160 images of 80 patients, split."""
    return make_split(labels_from_frame(reports(), name="labels.csv"))[0].manifest


def scores_for(truth: Manifest, *folds: str, seed: int = 0) -> pd.DataFrame:
    rows = truth.in_fold(*folds) if folds else truth
    random = np.random.default_rng(seed)
    values = np.round(0.6 * random.random(rows.targets.shape) + 0.4 * np.nan_to_num(rows.targets), 4)
    frame = pd.DataFrame(values.astype(float), columns=NAMES)
    frame.insert(0, "image_id", rows.frame["image_id"])
    return frame


def write(frame: pd.DataFrame, path: Path) -> Path:
    frame.to_csv(path, index=False)
    return path


def test_a_submission_is_decoded_and_scored_beside_its_untuned_decisions(truth: Manifest, tmp_path: Path) -> None:
    score = score_thyro_lmd(write(scores_for(truth, "tune", "test"), tmp_path / "s.csv"), truth=truth, bootstrap=50)
    assert set(score.predictions.folds) == {"test"}
    assert not any(wrong.any() for wrong in invalid_groups(score.decoded).values())
    assert score.predictions.thresholds is not None
    assert set(score.predictions.thresholds) == set(FOCI)
    assert np.array_equal(score.decoded, decode(score.predictions.scores, thresholds=score.predictions.thresholds))
    figures = headline(score.results)
    assert list(figures) == ["Micro-F1", "Macro-F1", "Head-F1", "Body-F1", "Tail-F1", "mAP"]
    kept = ~np.isnan(score.predictions.targets)
    y = score.predictions.targets[kept]
    assert figures["Micro-F1"]["value"] == pytest.approx(f1_score(y, score.decoded[kept]), abs=1e-12)
    assert figures["Micro-F1"]["untuned"] == pytest.approx(
        f1_score(y, score.predictions.scores[kept] >= 0.5), abs=1e-12
    )
    assert sum(figures[f"{group}-F1"]["labels"] for group in ("Head", "Body", "Tail")) == figures["Macro-F1"]["labels"]
    assert score.results.header["thresholds"]["source"] == "tune, shrunk toward 0.5"


def test_thresholds_may_come_from_a_file_of_their_own(truth: Manifest, tmp_path: Path) -> None:
    both = score_thyro_lmd(write(scores_for(truth, "tune", "test"), tmp_path / "b.csv"), truth=truth, bootstrap=0)
    frame = scores_for(truth, "tune", "test").set_index("image_id")
    tune, test = (truth.in_fold(fold).frame["image_id"] for fold in ("tune", "test"))
    write(frame.loc[tune].reset_index(), tmp_path / "tune.csv")
    write(frame.loc[test].reset_index(), tmp_path / "test.csv")
    apart = score_thyro_lmd(tmp_path / "test.csv", truth=truth, tune=tmp_path / "tune.csv", bootstrap=0)
    assert apart.predictions.thresholds == both.predictions.thresholds
    assert np.array_equal(apart.decoded, both.decoded)
    with pytest.raises(UsageError, match="give one of the two"):
        score_thyro_lmd(tmp_path / "b.csv", truth=truth, tune=tmp_path / "tune.csv")
    with pytest.raises(MedtailError, match="scores no row of the tune fold"):
        score_thyro_lmd(tmp_path / "test.csv", truth=truth, tune=tmp_path / "test.csv")
    untuned = score_thyro_lmd(tmp_path / "test.csv", truth=truth, bootstrap=0)
    assert any("foci are called at 0.5" in warning for warning in untuned.results.header["warnings"])


def test_test_labels_choose_no_threshold(truth: Manifest, tmp_path: Path) -> None:
    path = write(scores_for(truth, "tune", "test"), tmp_path / "s.csv")
    first = score_thyro_lmd(path, truth=truth, bootstrap=0)
    frame = truth.frame.copy()
    is_test = (frame["fold"] == "test").to_numpy()
    frame.loc[is_test, list(FOCI)] = [1.0, 0.0, 0.0, 0.0, 0.0]
    second = score_thyro_lmd(path, truth=labels_from_frame(frame), bootstrap=0)
    assert second.predictions.thresholds == first.predictions.thresholds
    assert np.array_equal(second.decoded, first.decoded)


def test_order_of_rows_and_columns_changes_nothing(truth: Manifest, tmp_path: Path) -> None:
    frame = scores_for(truth, "tune", "test")
    first = score_thyro_lmd(write(frame, tmp_path / "a.csv"), truth=truth, bootstrap=30)
    shuffled = frame.sample(frac=1, random_state=1)[["image_id", *reversed(NAMES)]]
    second = score_thyro_lmd(write(shuffled, tmp_path / "b.csv"), truth=truth, bootstrap=30)
    pd.testing.assert_frame_equal(first.results.frame, second.results.frame, rtol=0, atol=1e-14)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_answers_that_could_not_be_parsed_call_nothing_and_are_counted(
    truth: Manifest, tmp_path: Path, ending: str
) -> None:
    frame = scores_for(truth, "test")
    frame.loc[[0, 3], NAMES] = np.nan
    frame.loc[5, NAMES] = 0.0
    path = tmp_path / f"s.{ending}"
    frame.to_csv(path, index=False) if ending == "csv" else frame.to_parquet(path)
    score = score_thyro_lmd(path, truth=truth, bootstrap=0)
    assert np.flatnonzero(score.unparsed).tolist() == [0, 3, 5]
    assert not score.decoded[score.unparsed].any()
    assert score.decoded[~score.unparsed].any(axis=1).all()
    assert score.results.value("unparsed_share") == 3 / len(frame)
    assert score.predictions.name == f"s.{ending}"
    assert any("3 of" in warning and "hold no answer" in warning for warning in score.results.header["warnings"])


def test_cells_empty_in_part_and_every_other_fault_are_listed_at_once(truth: Manifest, tmp_path: Path) -> None:
    frame = scores_for(truth, "test").astype(object)
    frame.loc[0, NAMES] = ""
    frame.loc[1, "comp_solid"] = ""
    frame.loc[2, "echo_iso"] = "yes"
    frame.loc[3, "foci_rim"] = 1.5
    frame.loc[4, "image_id"] = "stranger"
    frame.loc[6, "image_id"] = frame.loc[5, "image_id"]
    frame["confidence"] = 0.5
    with pytest.raises(MedtailError) as caught:
        read_submission(write(frame, tmp_path / "s.csv"), truth=truth)
    said = str(caught.value)
    assert "s.csv, row 3, column 'comp_solid': found ''; expected a score, not NaN or an empty cell" in said
    assert "row 4, column 'echo_iso': found 'yes'; expected a number" in said
    assert "row 5, column 'foci_rim': found '1.5'" in said
    assert "1 ids are not in labels.csv: stranger" in said
    assert "stands in rows 7, 8; expected once" in said
    assert "2 of labels.csv's images have no scores" in said
    assert "column 'confidence': no such class" in said


def test_hard_answers_are_accepted_and_shared_tops_told(truth: Manifest, tmp_path: Path) -> None:
    frame = scores_for(truth, "test")
    frame[NAMES] = (frame[NAMES] >= 0.5).astype(int)
    score = score_thyro_lmd(write(frame, tmp_path / "s.csv"), truth=truth, bootstrap=20)
    figures = headline(score.results)
    assert figures["mAP"]["value"] is None
    assert figures["Macro-F1"]["value"] > 0
    assert any("share its highest score" in warning for warning in score.results.header["warnings"])


def test_a_table_cut_down_to_the_test_fold_takes_its_groups_from_the_split(truth: Manifest, tmp_path: Path) -> None:
    path = write(scores_for(truth, "test"), tmp_path / "s.csv")
    split = describe_split(truth)
    hidden = labels_from_frame(truth.in_fold("test").frame)
    without = headline(score_thyro_lmd(path, truth=hidden, bootstrap=0).results)
    assert without["Tail-F1"] == {"value": None, "low": None, "high": None, "labels": 0, "untuned": None}
    given = score_thyro_lmd(path, truth=hidden, split=split, bootstrap=0)
    whole = score_thyro_lmd(path, truth=truth, bootstrap=0)
    assert headline(given.results) == headline(whole.results)


def test_a_split_of_another_table_is_refused(truth: Manifest, tmp_path: Path) -> None:
    other = describe_split(make_split(labels_from_frame(reports(seed=9)))[0].manifest)
    with pytest.raises(MedtailError, match=r"not those that split\.json was written for"):
        score_thyro_lmd(write(scores_for(truth, "test"), tmp_path / "s.csv"), truth=truth, split=other)


def test_scores_of_other_folds_only_are_refused(truth: Manifest, tmp_path: Path) -> None:
    with pytest.raises(MedtailError, match=r"scores no row of the test fold \(found: tune\)"):
        score_thyro_lmd(write(scores_for(truth, "tune"), tmp_path / "s.csv"), truth=truth)


def test_a_template_lists_the_rows_and_scores_as_all_unparsed(truth: Manifest, tmp_path: Path) -> None:
    count = write_template(tmp_path / "t.csv", truth=truth)
    assert count == len(truth.in_fold("test"))
    score = score_thyro_lmd(tmp_path / "t.csv", truth=truth, bootstrap=0)
    assert score.results.value("unparsed_share") == 1.0
    assert score.results.value("f1") == 0.0
    with pytest.raises(UsageError, match="never overwrites"):
        write_template(tmp_path / "t.csv", truth=truth)


def test_what_is_written_can_be_read_back(truth: Manifest, tmp_path: Path) -> None:
    score = score_thyro_lmd(write(scores_for(truth, "test"), tmp_path / "s.csv"), truth=truth, bootstrap=20)
    folder = write_score(score, tmp_path / "out")
    assert {item.name for item in folder.iterdir()} == {
        "predictions.parquet",
        "reports.csv",
        "results.csv",
        "results.csv.json",
        "score.json",
    }
    reread = read_results(folder / "results.csv")
    assert headline(reread) == headline(score.results)
    written = pd.read_csv(folder / "reports.csv")
    assert np.array_equal(written[NAMES].to_numpy(dtype=bool), score.decoded)
    assert len(read_predictions(folder / "predictions.parquet")) == len(score.predictions)


def test_the_text_names_what_is_missing(truth: Manifest, tmp_path: Path) -> None:
    score = score_thyro_lmd(write(scores_for(truth, "test"), tmp_path / "s.csv"), truth=truth, bootstrap=20)
    said = score_text(score)
    assert "Tail-F1" in said
    assert "answers that could not be parsed: 0.0%" in said
    assert "! No tune rows" in said
