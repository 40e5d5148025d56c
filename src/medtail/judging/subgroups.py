"""Who belongs to which subgroup: a manifest's columns as text, their values, their crossings.

A subgroup is a set of rows named `column=value`, or `a=x & b=y` for a crossing. Ages become bands, other long lists
of numbers thirds, and what is not known is a subgroup of its own, `(unknown)`, so that nobody drops out of sight.
What is measured on them lives in `subgroup_estimates`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import final

import numpy as np
import pandas as pd

from medtail.errors import MedtailError, Problems, did_you_mean, listing
from medtail.tables.frames import as_numbers
from medtail.tables.manifest import META_PREFIX, NUMBER_METADATA, TEXT_METADATA, Manifest
from medtail.tables.predictions import Predictions

UNKNOWN = "(unknown)"
MOST_VALUES = 20
"""A column of more values than this is no grouping; a person must choose."""
FEW_NUMBERS = 10
"""Up to so many distinct numbers are values of their own (a grade, a Fitzpatrick type); more are cut into thirds."""
AGE_CUTS = (40, 60, 80)
OLDEST = 120
NO_GROUPING = ("image_id", "path", "patient_id", "study_id", "mask_path", "roi_x", "roi_y", "roi_w", "roi_h")


@final
@dataclass(frozen=True, eq=False)
class Division:
    """One way of dividing the rows: a column, or two columns crossed.

    Attributes:
        name: `column`, or `a & b`.
        groups: Subgroup name → its rows, bool [N], in the order to print.
        known: Rows whose value is known, bool [N]: a subgroup's *rest* are the other ones of these.
        unnamed: The groups that stand for "not known".
    """

    name: str
    groups: Mapping[str, np.ndarray]
    known: np.ndarray
    unnamed: frozenset[str]

    def rest(self, group: str) -> np.ndarray:
        """Return the rows a subgroup is compared with, bool [N]: all others whose value is known."""
        return np.asarray(self.known & ~self.groups[group])


def divide(columns: Mapping[str, np.ndarray], *, depth: int = 2) -> list[Division]:
    """Divide the rows by every column and, at depth 2, by every pair of columns.

    Args:
        columns: Name → text [N]; "" is unknown.
        depth: 1 for the columns alone, 2 for their crossings too.

    Returns:
        The columns in their order, then the pairs.

    Raises:
        MedtailError: No column, columns of different lengths, more than 20 values in one, or another depth.

    Example:
        >>> sex = np.array(["F", "M", "", "F"], dtype=object)
        >>> [(name, rows.sum().item()) for name, rows in divide({"sex": sex})[0].groups.items()]
        [('sex=F', 2), ('sex=M', 1), ('sex=(unknown)', 1)]
    """
    if depth not in (1, 2):
        raise MedtailError(f"subgroups, depth {depth!r}: expected 1 (columns) or 2 (their crossings too).")
    if not columns:
        raise MedtailError("subgroups: no column given; expected at least one, such as sex or site.")
    texts = {name: as_labels(values) for name, values in columns.items()}
    problems = Problems("subgroups")
    if len({len(text) for text in texts.values()}) > 1:
        problems.add("columns of different lengths; expected one value an image in each.")
    for name, text in texts.items():
        _check_values(name, text, problems)
    problems.raise_if_any()
    single = {name: _by_column(name, text) for name, text in texts.items()}
    crossed = [_cross(single[a], single[b]) for a, b in combinations(single, 2)] if depth == 2 else []
    return [*single.values(), *crossed]


def as_labels(values: np.ndarray) -> np.ndarray:
    """Return a column as text [N]; empty, None and NaN become `(unknown)`.

    Example:
        >>> as_labels(np.array(["F", "", None, float("nan")], dtype=object)).tolist()
        ['F', '(unknown)', '(unknown)', '(unknown)']
    """
    plain = pd.Series(np.asarray(values, dtype=object))
    text = plain.where(plain.notna(), "").map(lambda value: str(value).strip())
    return text.where(text != "", UNKNOWN).to_numpy(dtype=object)


def _check_values(name: str, text: np.ndarray, problems: Problems) -> None:
    found = [value for value in pd.unique(text) if value != UNKNOWN]
    if len(found) > MOST_VALUES:
        problems.add(
            f"column {name!r}: {len(found)} values ({listing(found, limit=4)}); expected at most {MOST_VALUES}."
            " Choose: merge them into fewer in a meta_ column, or leave the column out."
        )


def _by_column(name: str, text: np.ndarray) -> Division:
    values = sorted(set(text) - {UNKNOWN}, key=_natural)
    groups = {f"{name}={value}": np.asarray(text == value) for value in values}
    known = np.asarray(text != UNKNOWN)
    if not known.all():
        groups[f"{name}={UNKNOWN}"] = ~known
    return Division(name, groups, known, frozenset({f"{name}={UNKNOWN}"} & groups.keys()))


def _natural(value: str) -> tuple[int, float, str]:
    """Order "<40" before "40-59" before "80+", grades by number, and words by letter."""
    head = value.removeprefix("<").removeprefix("under ")
    digits = head.rstrip("+").split("-")[0].split(" ")[0]
    try:
        return (0, float(digits) - 0.5 * (head != value), value)
    except ValueError:
        return (1, 0.0, value)


def _cross(first: Division, second: Division) -> Division:
    groups = {}
    for a, rows_a in first.groups.items():
        for b, rows_b in second.groups.items():
            if (both := rows_a & rows_b).any():
                groups[f"{a} & {b}"] = both
    known = first.known & second.known
    unnamed = frozenset(name for name, rows in groups.items() if not known[rows].any())
    return Division(f"{first.name} & {second.name}", groups, known, unnamed)


def age_bands(values: np.ndarray, *, cuts: Sequence[int] = AGE_CUTS) -> np.ndarray:
    """Put ages into bands.

    Args:
        values: Ages in years, float [N], NaN where unknown.
        cuts: Where a new band starts, rising.

    Returns:
        Text [N]: `<40`, `40-59`, `60-79`, `80+` by default, `(unknown)` for NaN.

    Raises:
        MedtailError: An age is below 0 or above 120, or the cuts do not rise.

    Example:
        >>> age_bands(np.array([39.9, 40, 79, 80, np.nan])).tolist()
        ['<40', '40-59', '60-79', '80+', '(unknown)']
    """
    if not len(cuts) or any(b <= a for a, b in pairwise(cuts)):
        raise MedtailError(f"age bands, cuts {tuple(cuts)!r}: expected rising whole years.")
    ages = np.asarray(values, dtype=np.float64)
    wrong = (ages < 0) | (ages > OLDEST)
    if wrong.any():
        raise MedtailError(
            f"column 'age': found {listing(sorted(set(ages[wrong])))}; expected years from 0 to {OLDEST}."
            " Mend them, or leave the cells empty (unknown)."
        )
    names = [
        f"<{cuts[0]}", *(f"{a}-{b - 1}" for a, b in pairwise(cuts)), f"{cuts[-1]}+", UNKNOWN
    ]  # fmt: skip
    band = np.where(np.isnan(ages), len(cuts) + 1, np.searchsorted(cuts, np.nan_to_num(ages), side="right"))
    return np.array(names, dtype=object)[band]


def thirds(values: np.ndarray) -> np.ndarray:
    """Cut a column of numbers into thirds of its known values; few distinct numbers stay as they are.

    Args:
        values: float [N], NaN where unknown.

    Returns:
        Text [N].

    Example:
        >>> sorted(set(thirds(np.arange(30.0))))
        ['10 to under 20', '20 or more', 'under 10']
        >>> thirds(np.array([1.0, 2.0, np.nan])).tolist()
        ['1', '2', '(unknown)']
    """
    numbers = np.asarray(values, dtype=np.float64)
    known = numbers[~np.isnan(numbers)]
    if len(np.unique(known)) <= FEW_NUMBERS:
        return np.array([UNKNOWN if np.isnan(number) else f"{number:g}" for number in numbers], dtype=object)
    ordered = np.sort(known)
    low, high = (float(ordered[len(ordered) * part // 3]) for part in (1, 2))
    named = [f"under {low:g}", f"{low:g} to under {high:g}", f"{high:g} or more", UNKNOWN]
    third = np.where(np.isnan(numbers), 3, (numbers >= low).astype(int) + (numbers >= high))
    return np.array(named, dtype=object)[third]


def columns_from_manifest(
    manifest: Manifest, predictions: Predictions, names: Sequence[str]
) -> Mapping[str, np.ndarray]:
    """Take columns of a manifest in the order of the predictions' rows, joined by image_id.

    `age` becomes bands, other numbers thirds where there are more than ten of them; a class becomes `present`,
    `absent` and `(unknown)`.

    Args:
        manifest: Where the columns are.
        predictions: Whose rows are wanted.
        names: Column names.

    Returns:
        Name → text [N], `(unknown)` where the manifest's cell is empty.

    Raises:
        MedtailError: A column that is not there, is named twice, tells rows apart (an id) or has more than 20
            values; images the manifest does not have.

    Example:
        >>> from medtail.tables.labels import LabelSpace
        >>> from medtail.tables.manifest import manifest_from_frame
        >>> manifest = manifest_from_frame(pd.DataFrame({"image_id": ["a", "b"], "path": ["a.png", "b.png"],
        ...     "patient_id": ["1", "2"], "sex": ["F", ""], "age": [35, 81], "Hernia": [1, 0]}))
        >>> ids = np.array(["b", "a"], dtype=object)
        >>> predictions = Predictions(ids, ids, np.zeros((2, 1)), np.zeros((2, 1)), LabelSpace(("Hernia",)), ids)
        >>> found = columns_from_manifest(manifest, predictions, ["sex", "age"])
        >>> {name: text.tolist() for name, text in found.items()}
        {'sex': ['(unknown)', 'F'], 'age': ['80+', '<40']}
    """
    problems = Problems(manifest.name)
    row_of = {image_id: row for row, image_id in enumerate(manifest.frame["image_id"])}
    lacking = [image_id for image_id in predictions.image_ids if image_id not in row_of]
    if lacking:
        problems.add(
            f"column 'image_id': {len(lacking)} images of {predictions.name} are missing: {listing(lacking)}."
            " Give the manifest they come from."
        )
    usable = [column for column in manifest.frame.columns if column not in NO_GROUPING]
    for number, name in enumerate(names):
        if name in NO_GROUPING:
            problems.add(
                f"column {name!r}: tells rows apart and makes no groups. Choose of {listing(usable, limit=12)}."
            )
        elif name not in usable:
            # a person who says `skin` may mean the column `meta_skin`
            near = did_you_mean(name, usable) or did_you_mean(META_PREFIX + name, usable)
            problems.add(f"column {name!r}: not there{near or f'; found {listing(usable, limit=12)}.'}")
        elif name in list(names)[:number]:
            problems.add(f"column {name!r}: named twice.")
    problems.raise_if_any()
    rows = np.array([row_of[image_id] for image_id in predictions.image_ids], dtype=np.int64)
    columns = {name: as_labels(_as_groups(manifest, name)[rows]) for name in names}
    for name, text in columns.items():
        _check_values(name, text, problems)
    problems.raise_if_any()
    return columns


def _as_groups(manifest: Manifest, name: str) -> np.ndarray:
    column = manifest.frame[name]
    if name == "age":
        return age_bands(column.to_numpy(dtype=np.float64))
    if name in NUMBER_METADATA:
        return thirds(column.to_numpy(dtype=np.float64))
    if name in manifest.labels.class_names:
        return column.map({1.0: "present", 0.0: "absent"}).to_numpy(dtype=object)
    if name not in TEXT_METADATA:  # meta_ columns are text that may well be numbers
        numbers, bad = as_numbers(column)
        if not bad.any() and len(np.unique(numbers[~np.isnan(numbers)])) > FEW_NUMBERS:
            return thirds(numbers)
    return column.to_numpy(dtype=object)
