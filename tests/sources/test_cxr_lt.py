"""The class tables: every line of the specification that was checked by arithmetic is checked here again."""

from __future__ import annotations

from collections import Counter

import pytest

from medtail.errors import UsageError
from medtail.sources.cxr_lt import EDITIONS, edition, plain_name

GROUPS = ("head", "medium", "tail")


def sizes(year: str, task: int) -> tuple[int, ...]:
    tables = edition(year)
    found = tables.groups(tables.task(task).class_names)
    assert found is not None
    counted = Counter(found.group_of.values())
    return tuple(counted[group] for group in GROUPS)


def test_positives_of_2024_sum_to_633025_and_head_to_tail_is_667():
    counts = [found.train for found in edition("2024").classes if found.train is not None]
    assert len(counts) == 40
    assert sum(counts) == 633_025
    assert round(max(counts) / min(counts)) == 667


def test_groups_have_the_sizes_of_the_overviews():
    assert sizes("2024", 1) == (9, 15, 16)
    assert sizes("2024", 2) == (9, 11, 6)
    assert sizes("2023", 1) == (13, 10, 3)


def test_parts_of_mimic_sum_to_its_377110_images():
    for year in ("2023", "2024"):
        tables = edition(year)
        assert tables.train_images + tables.development_images + tables.task(1).images == 377_110


def test_fourteen_classes_of_task_1_are_new_and_five_more_are_unseen():
    tables = edition("2024")
    new = {found.name for found in tables.classes if found.new}
    assert len(new & set(tables.task(1).class_names)) == 14
    assert len(new) == 19
    assert new - set(tables.task(1).class_names) == set(tables.task(3).class_names)
    assert set(tables.task(1).class_names) - new == set(tables.task(2).class_names)


def test_task_1_is_alphabetical_and_task_2_too_except_that_normal_precedes_nodule():
    one, two = (list(edition("2024").task(task).class_names) for task in (1, 2))
    assert one == sorted(one)
    assert two != sorted(two)
    at = two.index("Normal")
    assert two[at + 1] == "Nodule"
    two[at : at + 2] = ["Nodule", "Normal"]
    assert two == sorted(two)


def test_task_2_columns_lie_where_the_specification_says_among_those_of_task_1():
    one, two = (edition("2024").task(task).class_names for task in (1, 2))
    published = "1,3,4,6,7,8,9,10,12,14,17,20,21,22,24,23,25,26,27,28,29,30,31,36,37,38"
    assert ",".join(str(one.index(name)) for name in two) == published


def test_2023_is_the_list_of_task_2_with_no_finding_for_normal():
    assert [name.replace("No Finding", "Normal") for name in edition("2023").task(1).class_names] == list(
        edition("2024").task(2).class_names
    )
    assert sum(found.new for found in edition("2023").classes) == 12


@pytest.mark.parametrize(
    ("head", "medium", "tail", "published"),
    [
        (0.499, 0.246, 0.242, 0.3720),
        (0.482, 0.226, 0.227, 0.3541),
        (0.480, 0.221, 0.220, 0.3504),
        (0.474, 0.218, 0.243, 0.3489),
    ],
)
def test_cuts_by_count_give_the_map_of_2023_from_the_teams_group_means(head, medium, tail, published):
    means = dict(zip(GROUPS, (head, medium, tail), strict=True))
    tables = edition("2023")
    found = tables.groups(tables.task(1).class_names)
    per_class = [means[found.group_of[name]] for name in tables.task(1).class_names]
    assert round(sum(per_class) / len(per_class), 4) == published


def test_cuts_by_percent_give_the_winners_map_of_2024_from_its_group_means():
    means = dict(zip(GROUPS, (0.567, 0.263, 0.136), strict=True))
    tables = edition("2024")
    found = tables.groups(tables.task(1).class_names)
    per_class = [means[found.group_of[name]] for name in tables.task(1).class_names]
    assert round(sum(per_class) / 40, 4) == 0.2806
    assert round(sum(means.values()) / 3, 3) == 0.322


def test_pneumothorax_is_head_in_2023_and_medium_in_2024():
    assert edition("2023").groups(["Pneumothorax"]).group_of == {"Pneumothorax": "head"}
    assert edition("2024").groups(["Pneumothorax"]).group_of == {"Pneumothorax": "medium"}


def test_2026_has_thirty_known_and_six_unseen_classes_without_counts():
    tables = edition("2026")
    assert [len(tables.task(task).class_names) for task in (1, 2)] == [30, 6]
    assert tables.id_column == "ImageID"
    assert tables.groups(tables.task(1).class_names) is None
    assert set(tables.task(1).class_names).isdisjoint(tables.task(2).class_names)


@pytest.mark.parametrize("year", EDITIONS)
def test_no_two_classes_of_an_edition_can_be_meant_by_one_name(year):
    meant = [plain_name(alias) for found in edition(year).classes for alias in (found.name, *found.aliases)]
    assert len(set(meant)) == len(meant)
    for number, task in edition(year).tasks.items():
        assert task.number == number
        assert len(set(task.class_names)) == len(task.class_names)
        assert set(task.class_names) <= set(edition(year).by_name)


def test_aliases_and_spellings_are_understood_and_strangers_are_not():
    tables = edition("2024")
    assert tables.canonical("No Finding") == "Normal"
    assert tables.canonical("Round Atelectasis") == "Round(ed) Atelectasis"
    assert tables.canonical("PLEURAL_EFFUSION") == "Pleural Effusion"
    assert tables.canonical("Effusions") is None
    assert tables.canonical("subject_id") is None


def test_an_unknown_edition_or_task_names_those_there_are():
    with pytest.raises(UsageError, match=r"'2025'.*did you mean '202"):
        edition("2025")
    with pytest.raises(UsageError, match=r"--task 4: CXR-LT 2024 has the tasks 1, 2, 3"):
        edition("2024").task(4)


def test_counts_of_unseen_classes_are_unknown_not_zero():
    assert edition("2024").train_counts(["Hernia", "Bulla"]) is None
    assert edition("2024").groups(["Bulla"]) is None
