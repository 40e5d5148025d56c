from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtail.errors import MedtailError
from medtail.tables.labels import ExclusiveGroup, LabelSpace, one_hot, short_name

COLUMNS = ["shape=oval", "halo", "shape=round", "echo=hypo", "margin"]


def test_columns_named_alike_form_a_group_and_a_lone_one_stays_free():
    space = LabelSpace.from_columns(COLUMNS)
    assert space.groups == (ExclusiveGroup("shape", ("shape=oval", "shape=round")),)
    assert space.group_indices == ((0, 2),)
    assert space.free_indices == (1, 3, 4)
    assert space.num_classes == 5
    assert space.task == "multilabel"


@pytest.mark.parametrize("column", ["=oval", "shape=", "="])
def test_an_equals_sign_without_both_sides_names_no_group(column):
    assert LabelSpace.from_columns([column, "x" + column]).groups == ()


def test_a_value_may_hold_an_equals_sign_itself():
    assert LabelSpace.from_columns(["size=a=b", "size=c"]).groups[0].name == "size"


@pytest.mark.parametrize(
    ("columns", "groups", "task"),
    [
        (["t=a", "t=b"], None, "multiclass"),
        (["a", "b"], {"t": ["b", "a"]}, "multiclass"),
        (["t=a", "t=b", "c"], None, "multilabel"),
        (["t=a", "t=b", "u=a", "u=b"], None, "multilabel"),
        (["t=a"], None, "multilabel"),
        (["a"], None, "multilabel"),
        (["t=a", "t=b", "c"], {"t": ["t=a", "t=b", "c"]}, "multiclass"),
    ],
)
def test_a_task_is_multiclass_exactly_when_one_group_holds_every_class(columns, groups, task):
    assert LabelSpace.from_columns(columns, groups=groups).task == task


@pytest.mark.parametrize(
    ("columns", "groups", "expected"),
    [
        (["a", "b"], {"g": ["a", "bb"]}, r"group 'g': no class 'bb'; did you mean 'b'\?"),
        (["a", "b"], {"g": ["a", "zzz"]}, r"group 'g': no class 'zzz'; classes: a, b"),
        (["a", "b", "c"], {"g": ["a", "b"], "h": ["b", "c"]}, r"class 'b' is in two groups, 'g' and 'h'; expected one"),
        (["t=a", "t=b", "c"], {"g": ["t=a", "c"]}, r"class 't=a' is in two groups, 't' and 'g'; expected one"),
        (["t=a", "t=b", "c"], {"t": ["t=a", "c"]}, r"group 't': leaves out 't=b', whose name says it belongs to it"),
        (["a", "b"], {"g": ["a"]}, r"group 'g': found \['a'\]; expected two or more classes"),
        (["a", "b"], {"g": ["a", "a"]}, r"group 'g': 'a' named twice; expected once"),
        (["a", "b", "a"], None, r"classes: 'a' named twice; expected once"),
    ],
)
def test_impossible_groups_are_refused(columns, groups, expected):
    with pytest.raises(MedtailError, match=expected):
        LabelSpace.from_columns(columns, groups=groups)


def test_an_unknown_class_is_named_with_its_neighbour():
    space = LabelSpace(("Hernia", "Edema"))
    assert space.index("Edema") == 1
    with pytest.raises(MedtailError, match=r"no class 'hernai'; did you mean 'Hernia'\?"):
        space.index("hernai")
    with pytest.raises(MedtailError, match="no class 'x'; classes: Hernia, Edema"):
        space.index("x")


def test_selecting_classes_keeps_the_order_asked_and_dissolves_a_group_of_one():
    space = LabelSpace.from_columns(["t=a", "t=b", "t=c", "x"])
    assert space.select(["x", "t=c", "t=a"]) == LabelSpace(("x", "t=c", "t=a"), (ExclusiveGroup("t", ("t=c", "t=a")),))
    assert space.select(["x", "t=c"]) == LabelSpace(("x", "t=c"))
    with pytest.raises(MedtailError, match=r"no class 't=d'; did you mean"):
        space.select(["t=d"])
    with pytest.raises(MedtailError, match="classes: 'x' named twice"):
        space.select(["x", "x"])


NAMES = st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=6), min_size=1, max_size=6, unique=True)


@given(names=NAMES, grouped=st.integers(0, 6))
def test_json_gives_the_same_space_back(names, grouped):
    groups = (ExclusiveGroup("g", tuple(names[:grouped])),) if grouped >= 2 else ()
    space = LabelSpace(tuple(names), groups)
    assert LabelSpace.from_json(space.to_json()) == space


@given(names=NAMES)
def test_every_class_is_either_in_one_group_or_free(names):
    columns = [*names, *(f"group={name}" for name in names)]
    space = LabelSpace.from_columns(list(dict.fromkeys(columns)))
    indices = [*space.free_indices, *(index for group in space.group_indices for index in group)]
    assert sorted(indices) == list(range(space.num_classes))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({}, "label space: expected 'class_names' and 'groups'; found {}"),
        ({"class_names": "abc", "groups": []}, "label space: expected 'class_names' and 'groups'"),
        ({"class_names": ["a"], "groups": [["a", "b"]]}, "label space: expected 'class_names' and 'groups'"),
        (
            {"class_names": ["a"], "groups": [{"name": "g", "classes": ["a", "b"]}]},
            "label space, group 'g': 'b' is none of its 'class_names'",
        ),
        ({"class_names": ["a", "a"], "groups": []}, "label space: 'a' named twice"),
    ],
)
def test_json_that_is_no_label_space_is_refused(value, expected):
    with pytest.raises(MedtailError, match=expected):
        LabelSpace.from_json(value)


def test_short_names_drop_the_group():
    assert [short_name(name) for name in ("shape=oval", "halo", "a=b=c", "x=")] == ["oval", "halo", "b=c", "x="]


def test_one_hot_tells_not_assessed_from_none_of_them():
    columns = one_hot(["b", "a", None, "", "not applicable", "b"], group="g", absent=["not applicable"])
    assert list(columns) == ["g=a", "g=b"]
    np.testing.assert_array_equal(columns["g=a"], [0, 1, np.nan, np.nan, 0, 0])
    np.testing.assert_array_equal(columns["g=b"], [1, 0, np.nan, np.nan, 0, 1])


def test_one_hot_of_nothing_known_has_no_columns():
    assert one_hot([None, ""], group="g") == {}
