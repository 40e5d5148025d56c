from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medtail.errors import MedtailError
from medtail.tables.labels import LabelSpace
from medtail.tables.manifest import Manifest, manifest_from_frame, read_manifest
from medtail.tables.predictions import Predictions
from medtail.tables.pseudo_labels import add_pseudo_labels, has_pseudo_labels, with_pseudo_targets
from medtail.tables.tail import count_classes

IDS = ["own", "ext1", "ext2", "tune", "test", "unscored"]


def table() -> Manifest:
    frame = pd.DataFrame(
        {
            "image_id": IDS,
            "path": "x.png",
            "patient_id": list("123456"),
            "fold": ["train", "train", "train", "tune", "test", "train"],
            "site": ["own", "ext", "ext", "own", "own", "ext"],
            "Hernia": [1, None, None, None, None, None],
            "Mass": [0, 1, None, 0, 1, None],
            "shape=oval": [1, None, None, None, None, None],
            "shape=round": [0, None, 0, None, None, None],
        }
    )
    return manifest_from_frame(frame, name="t.csv")


def scores(*, thresholds: dict[str, float] | None = None) -> Predictions:
    ids = np.array([*IDS[:-1], "stranger"], dtype=object)[::-1].copy()
    values = np.array([[0.9, 0.2, 0.8, 0.2], [0.6, 0.3, 0.7, 0.3], [0.1, 0.95, 0.6, 0.4]] * 2)
    labels = LabelSpace.from_columns(["Hernia", "Mass", "shape=oval", "shape=round"])
    return Predictions(
        ids, ids, values, np.full(values.shape, np.nan), labels, ids, thresholds=thresholds, digests={"model": "t" * 64}
    )


def cell(manifest: Manifest, image: str, column: str) -> str:
    return str(manifest.frame.set_index("image_id").loc[image, column])


def test_only_empty_cells_of_train_rows_are_filled_and_labels_stay_as_they_were() -> None:
    before = table()
    found = add_pseudo_labels(before, scores())
    after = found.manifest
    names = list(before.labels.class_names)
    pd.testing.assert_frame_equal(after.frame[names], before.frame[names])
    for image in ("tune", "test", "own", "unscored"):
        assert cell(after, image, "meta_pseudo:Hernia") == "", image
        assert cell(after, image, "meta_pseudo_teacher") == "", image
    assert cell(after, "ext1", "meta_pseudo:Mass") == "", "Mass was assessed there"
    assert cell(after, "ext2", "meta_pseudo:Mass") != ""
    assert cell(after, "ext1", "meta_pseudo_teacher") == "t" * 16
    assert found.filled == {"Hernia": 2, "Mass": 1, "shape=oval": 1, "shape=round": 1}
    assert found.kept_out == 6, "Hernia and the shape of tune and test"
    assert count_classes(after) == count_classes(before), "a guess is no label, for anybody who counts"


def test_a_group_is_filled_whole_or_not_at_all() -> None:
    after = add_pseudo_labels(table(), scores()).manifest
    values = [float(cell(after, "ext1", f"meta_pseudo:shape={name}")) for name in ("oval", "round")]
    assert sum(values) == pytest.approx(1.0)
    assert cell(after, "ext2", "meta_pseudo:shape=oval") == "", "one of its classes was assessed"


def test_scores_are_joined_by_image_and_class_never_by_place() -> None:
    given = scores()
    turned = replace(given.take(np.array([3, 0, 5, 1, 4, 2])))
    one, other = add_pseudo_labels(table(), given), add_pseudo_labels(table(), turned)
    targets = with_pseudo_targets(one.manifest)
    np.testing.assert_array_equal(targets, with_pseudo_targets(other.manifest))
    place = list(given.image_ids).index("ext1")
    assert targets[1, 0] == pytest.approx(given.scores[place, 0])


def test_hard_ones_keep_their_distance_from_the_teachers_threshold() -> None:
    # threshold 0.2, margin 0.5: present from 0.6 on, absent up to 0.1
    soft = scores(thresholds={"Hernia": 0.2})
    found = {}
    for value in (0.61, 0.59, 0.09, 0.11):
        values = soft.scores.copy()
        values[:, 0] = value
        made = add_pseudo_labels(table(), replace(soft, scores=values), hard=True, margin=0.5)
        found[value] = cell(made.manifest, "ext2", "meta_pseudo:Hernia") if made.filled["Hernia"] else ""
        assert made.filled["Hernia"] + made.undecided["Hernia"] == 2
    assert found == {0.61: "1", 0.59: "", 0.09: "0", 0.11: ""}
    shape = add_pseudo_labels(table(), soft, hard=True, margin=0.5).manifest
    assert [cell(shape, "ext1", f"meta_pseudo:shape={name}") for name in ("oval", "round")] in (["1", "0"], ["0", "1"])


def test_they_survive_the_file_and_are_made_anew_when_asked_again(tmp_path: Path) -> None:
    first = add_pseudo_labels(table(), scores()).manifest
    first.write(tmp_path / "t.csv")
    back = read_manifest(tmp_path / "t.csv")
    np.testing.assert_array_equal(with_pseudo_targets(back), with_pseudo_targets(first))
    assert back.labels.class_names == first.labels.class_names
    other = replace(scores(), scores=np.full((6, 4), 0.5))
    again = add_pseudo_labels(back, other).manifest
    assert cell(again, "ext1", "meta_pseudo:Hernia") == "0.5"
    assert has_pseudo_labels(again)
    assert not has_pseudo_labels(table())


def test_sites_choose_the_external_rows() -> None:
    with pytest.raises(MedtailError, match=r"site 'nih': no row; found ext, own"):
        add_pseudo_labels(table(), scores(), sites=("nih",))
    with pytest.raises(MedtailError, match="no empty cell in train rows"):
        add_pseudo_labels(table(), scores(), sites=("own",))
    assert add_pseudo_labels(table(), scores(), sites=("ext",)).filled["Hernia"] == 2


def test_strangers_are_refused_with_every_reason() -> None:
    other = replace(
        scores().take(np.array([0])), labels=LabelSpace(("a", "b", "c", "d")), image_ids=np.array(["x"], dtype=object)
    )
    with pytest.raises(MedtailError) as caught:
        add_pseudo_labels(table(), other)
    assert "no class in common" in str(caught.value)
    assert "no image in common" in str(caught.value)
    with pytest.raises(MedtailError, match=r"margin: found 1\.0"):
        add_pseudo_labels(table(), scores(), hard=True, margin=1.0)


@pytest.mark.parametrize(
    ("row", "text", "message"),
    [
        (3, "0.5", "a row outside train"),
        (0, "0.5", "a label beside it"),
        (1, "1.5", "no score"),
        (1, "maybe", "no score"),
    ],
)
def test_a_table_changed_by_hand_is_refused(row: int, text: str, message: str) -> None:
    made = add_pseudo_labels(table(), scores()).manifest
    changed = made.frame.copy()
    changed.loc[row, "meta_pseudo:Hernia"] = text
    with pytest.raises(MedtailError, match=message):
        with_pseudo_targets(replace(made, frame=changed))
