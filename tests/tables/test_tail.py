from __future__ import annotations

import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtail.errors import MedtailError
from medtail.tables.labels import LabelSpace
from medtail.tables.manifest import manifest_from_frame
from medtail.tables.tail import ClassCounts, TailGroups, count_classes, tail_groups


def counts(images: list[int], *, assessed: int = 1000, patients: list[int] | None = None) -> ClassCounts:
    names = tuple(f"c{number:02d}" for number in range(len(images)))
    return ClassCounts(names, tuple(images), tuple(patients or images), (assessed,) * len(images))


def groups(found: ClassCounts, **options: object) -> list[str]:
    space = LabelSpace(found.class_names)
    return list(tail_groups(found, labels=space, **options).group_of.values())  # type: ignore[arg-type]


# --- counting -------------------------------------------------------------------------------------------------------


def test_only_real_assessed_rows_of_the_fold_are_counted():
    manifest = manifest_from_frame(
        pd.DataFrame(
            {
                "image_id": list("abcdef"),
                "path": list("abcdef"),
                "patient_id": ["1", "1", "2", "3", "3", "4"],
                "fold": ["train", "train", "train", "train", "test", "train"],
                "origin": ["real", "real", "real", "real", "real", "synthetic"],
                "A": [1, 1, 0, None, 1, 1],
                "B": [0, 0, 0, 0, 1, 1],
            }
        )
    )
    assert count_classes(manifest) == ClassCounts(("A", "B"), (2, 0), (1, 0), (3, 4))
    assert count_classes(manifest, fold="test") == ClassCounts(("A", "B"), (1, 1), (1, 1), (1, 1))
    assert count_classes(manifest, fold="reward") == ClassCounts(("A", "B"), (0, 0), (0, 0), (0, 0))


def test_where_patients_are_unknown_every_image_is_one():
    frame = pd.DataFrame({"image_id": list("ab"), "path": list("ab"), "patient_id": "", "fold": "train", "A": [1, 1]})
    assert count_classes(manifest_from_frame(frame)).patients == (2,)


def test_counts_survive_json_and_are_chosen_by_name():
    found = ClassCounts(("b", "a"), (5, 3), (2, 1), (9, 8))
    assert ClassCounts.from_json(found.to_json()) == found
    assert found.select(["a", "b"]) == ClassCounts(("a", "b"), (3, 5), (1, 2), (8, 9))
    assert found.select(["a"]).images == (3,)
    with pytest.raises(MedtailError, match="train counts: no class 'zzz'; counted: b, a"):
        found.select(["zzz"])


@pytest.mark.parametrize(
    "value", [{"a": {"images": 1}}, {"a": 3}, 3, {"a": {"images": "x", "patients": 1, "assessed": 1}}]
)
def test_json_that_is_no_counts_is_refused(value):
    with pytest.raises(MedtailError, match="train counts: expected images, patients and assessed a class"):
        ClassCounts.from_json(value)


# --- rules (evaluation of the tail, with its borders) ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "images", "expected"),
    [
        # > 10 % / 1-10 % / < 1 % of 1,000 assessed images (CXR-LT 2024)
        ("prevalence", [101, 100, 10, 9, 0], ["head", "medium", "medium", "tail", "tail"]),
        # > 10,000 / 1,000-10,000 / < 1,000 images (CXR-LT 2023)
        ("count", [10_001, 10_000, 1_000, 999, 0], ["head", "medium", "medium", "tail", "tail"]),
        # >= 50 % / 10-50 % / < 10 % of the largest class
        ("relative", [400, 200, 199, 40, 39, 0], ["head", "head", "medium", "medium", "tail", "tail"]),
        ("relative", [0, 0], ["tail", "tail"]),
    ],
)
def test_each_rule_cuts_where_its_source_says(rule, images, expected):
    assert groups(counts(images), rule=rule) == expected


def test_a_share_is_of_the_images_where_the_class_was_assessed():
    found = ClassCounts(("a", "b", "never"), (5, 5, 0), (5, 5, 0), (20, 1000, 0))
    assert groups(found, rule="prevalence") == ["head", "tail", "tail"]


@pytest.mark.parametrize(
    ("number", "expected"),
    [(20, (7, 6, 7)), (1, (0, 1, 0)), (2, (1, 0, 1)), (3, (1, 1, 1)), (4, (1, 2, 1)), (5, (2, 1, 2)), (14, (5, 4, 5))],
)
def test_terciles_are_thirds_of_the_classes_by_patients(number, expected):
    found = groups(counts([1] * number, patients=list(range(number, 0, -1))), rule="terciles")
    assert (found.count("head"), found.count("medium"), found.count("tail")) == expected
    assert found == sorted(found, key=["head", "medium", "tail"].index)


def test_terciles_rank_patients_not_images_and_break_ties_by_name():
    found = ClassCounts(("d", "c", "b", "a", "e", "f"), (1, 2, 3, 4, 5, 60), (9, 5, 5, 5, 5, 1), (100,) * 6)
    assert tail_groups(found, labels=LabelSpace(found.class_names), rule="terciles").group_of == {
        "d": "head", "a": "head", "b": "medium", "c": "medium", "e": "tail", "f": "tail"
    }  # fmt: skip


def test_terciles_put_a_class_never_seen_into_the_tail():
    assert groups(counts([5, 0, 0]), rule="terciles") == ["head", "tail", "tail"]


@given(patients=st.lists(st.integers(1, 50), min_size=1, max_size=40))
def test_terciles_are_as_even_as_thirds_can_be(patients):
    found = groups(counts(patients), rule="terciles")
    sizes = [found.count(group) for group in ("head", "medium", "tail")]
    assert sizes[0] == sizes[2] == math.floor(len(patients) / 3 + 0.5)
    assert max(sizes) - min(sizes) <= 1
    worst_head = min((n for n, group in zip(patients, found, strict=True) if group == "head"), default=99)
    best_tail = max((n for n, group in zip(patients, found, strict=True) if group == "tail"), default=0)
    assert worst_head >= best_tail


@given(
    images=st.lists(st.integers(0, 5000), min_size=1, max_size=20),
    rule=st.sampled_from(["prevalence", "count", "relative", "terciles"]),
)
def test_a_class_with_more_images_is_never_in_a_lower_group(images, rule):
    level = {"tail": 0, "medium": 1, "head": 2}
    found = [level[group] for group in groups(counts(images, assessed=5000), rule=rule)]
    ranked = sorted(zip(images, found, strict=True))
    assert [group for _, group in ranked] == sorted(group for _, group in ranked)
    assert all(group == 0 for number, group in zip(images, found, strict=True) if number == 0)


def test_auto_is_relative_for_a_multiclass_task_and_prevalence_otherwise():
    found = counts([200, 150, 5])
    multiclass = LabelSpace.from_columns(list(found.class_names), groups={"g": list(found.class_names)})
    assert tail_groups(found, labels=multiclass).rule == "relative"
    assert tail_groups(found, labels=LabelSpace(found.class_names)).rule == "prevalence"
    assert tail_groups(found, labels=multiclass).cuts == (0.5, 0.1)


def test_cuts_can_be_chosen():
    # thyroid descriptors: 20 % and 5 % of the assessed images
    assert groups(counts([300, 100, 49]), rule="prevalence", cuts=(0.20, 0.05)) == ["head", "medium", "tail"]


def test_groups_stand_in_the_order_of_the_label_space_whatever_the_order_of_the_counts():
    found = ClassCounts(("a", "b", "c"), (500, 50, 5), (1, 1, 1), (1000,) * 3)
    result = tail_groups(found, labels=LabelSpace(("c", "a")))
    assert list(result.group_of.items()) == [("c", "tail"), ("a", "head")]
    assert result.members("head") == ("a",)
    assert result.members("medium") == ()


def test_groups_can_be_named():
    members = {"tail": ["c02", "c00"], "head": ["c01"]}
    result = tail_groups(counts([1, 2, 3]), labels=LabelSpace(("c00", "c01", "c02")), rule="list", members=members)
    assert list(result.group_of.items()) == [("c00", "tail"), ("c01", "head"), ("c02", "tail")]
    assert (result.rule, result.cuts) == ("list", ())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"rule": "tercile"}, r"tail rule 'tercile': unknown; did you mean 'terciles'\?"),
        ({"rule": "xyz"}, "tail rule 'xyz': unknown; expected auto, prevalence, count, relative, terciles, list"),
        ({"rule": "count", "cuts": (10, 100)}, "tail cuts 10, 100: expected an upper cut above a lower cut above 0"),
        ({"rule": "count", "cuts": (10, 0)}, "tail cuts 10, 0: expected an upper cut above a lower cut above 0"),
        ({"rule": "count", "cuts": (math.nan, 1)}, "tail cuts nan, 1: expected an upper cut above a lower"),
        (
            {"rule": "terciles", "cuts": (0.5, 0.1)},
            "tail rule 'terciles': takes no cuts; they belong to prevalence, count",
        ),
        ({"rule": "count", "members": {"head": ["c00"]}}, "tail rule 'count': takes no members; .* the rule 'list'"),
        ({"rule": "list"}, r"tail groups: 'c00', 'c01' in no group; name every class once"),
        ({"rule": "list", "members": {"head": ["c00"]}}, r"tail groups: 'c01' in no group; name every class once"),
        ({"rule": "list", "members": {"hed": ["c00"]}}, r"tail group 'hed': expected .*; did you mean 'head'\?"),
        ({"rule": "list", "members": {"head": ["c0"]}}, r"tail group 'head': no class 'c0'; did you mean 'c0[01]'\?"),
        (
            {"rule": "list", "members": {"head": ["c00", "c01"], "tail": ["c00"]}},
            "tail group 'tail': 'c00' is in 'head' already; name it once",
        ),
    ],
)
def test_a_rule_that_cannot_be_followed_says_why(options, expected):
    with pytest.raises(MedtailError, match=expected):
        groups(counts([5, 3]), **options)


def test_classes_that_were_not_counted_cannot_be_grouped():
    with pytest.raises(MedtailError, match=r"train counts: no class 'c1'; did you mean 'c01'\?"):
        tail_groups(counts([5, 3]), labels=LabelSpace(("c00", "c1")))


@pytest.mark.parametrize(
    ("rule", "cuts", "expected"),
    [
        ("prevalence", (0.1, 0.01), "head > 10 %, medium 1 % to 10 %, tail < 1 % of the assessed train images"),
        ("count", (10_000.0, 1_000.0), "head > 10,000, medium 1,000 to 10,000, tail < 1,000 train images"),
        (
            "relative",
            (0.5, 0.1),
            "head at least 50 %, medium 10 % to 50 %, tail < 10 % of the largest class's train images",
        ),
        ("terciles", (), "thirds of the classes by number of train patients"),
        ("list", (), "named by the user"),
    ],
)
def test_a_rule_is_told_in_words(rule, cuts, expected):
    assert TailGroups({}, rule, cuts).describe() == expected
