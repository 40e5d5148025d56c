"""The label space: which classes a table has and which of them exclude each other.

A class is a finding; its value for an image is 1 (present), 0 (absent) or NaN (not assessed). Columns named
`group=value` (`shape=oval`, `shape=round`) form an exclusive group: at most one of them is 1. A task is
multi-class exactly when all classes form one exclusive group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np

from medtail.errors import MedtailError, did_you_mean, listing

Task = Literal["multiclass", "multilabel"]


@final
@dataclass(frozen=True)
class ExclusiveGroup:
    """Classes of which at most one is present in an image.

    Attributes:
        name: What they describe, such as `shape`.
        classes: Full class names, at least two.
    """

    name: str
    classes: tuple[str, ...]


@final
@dataclass(frozen=True)
class LabelSpace:
    """The ordered classes of a table and their exclusive groups.

    Attributes:
        class_names: Full column names, in column order.
        groups: Exclusive groups, each of two or more of the classes; no class is in two.

    Example:
        >>> space = LabelSpace.from_columns(["shape=oval", "shape=round", "halo"])
        >>> space.task, [group.name for group in space.groups], space.free_indices
        ('multilabel', ['shape'], (2,))
        >>> LabelSpace.from_columns(["type=a", "type=b"]).task
        'multiclass'
    """

    class_names: tuple[str, ...]
    groups: tuple[ExclusiveGroup, ...] = ()

    @staticmethod
    def from_columns(columns: Sequence[str], *, groups: Mapping[str, Sequence[str]] | None = None) -> LabelSpace:
        """Read groups off column names, plus any the caller names.

        Args:
            columns: Class columns in order.
            groups: Further groups, name → full class names, for columns without `=`.

        Raises:
            MedtailError: A column is repeated; or a named group lists a class that does not exist, lists fewer than
                two, or takes a class from another group.
        """
        _refuse_repeated(columns, place="classes")
        gathered: dict[str, list[str]] = {}
        for column in columns:
            group, separator, value = column.partition("=")
            if separator and group and value:
                gathered.setdefault(group, []).append(column)
        for name, members in (groups or {}).items():
            _refuse_repeated(members, place=f"group {name!r}")
            for member in members:
                if member not in columns:
                    hint = did_you_mean(member, columns) or f"; classes: {listing(columns, limit=12)}"
                    raise MedtailError(f"group {name!r}: no class {member!r}{hint}")
            if len(members) < 2:
                raise MedtailError(f"group {name!r}: found {list(members)!r}; expected two or more classes.")
            left = [column for column in gathered.get(name, []) if column not in members]
            if left:
                raise MedtailError(f"group {name!r}: leaves out {left[0]!r}, whose name says it belongs to it.")
            gathered[name] = list(members)
        taken: dict[str, str] = {}
        for name, members in gathered.items():
            for member in members:
                if member in taken:
                    raise MedtailError(
                        f"class {member!r} is in two groups, {taken[member]!r} and {name!r}; expected one at most."
                    )
                taken[member] = name
        kept = tuple(ExclusiveGroup(name, tuple(members)) for name, members in gathered.items() if len(members) > 1)
        return LabelSpace(tuple(columns), kept)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def task(self) -> Task:
        """`multiclass` when one exclusive group holds every class, else `multilabel`."""
        one_group = len(self.groups) == 1 and len(self.groups[0].classes) == len(self.class_names)
        return "multiclass" if one_group else "multilabel"

    @property
    def group_indices(self) -> tuple[tuple[int, ...], ...]:
        """Column indices of each exclusive group, in the groups' order."""
        position = {name: index for index, name in enumerate(self.class_names)}
        return tuple(tuple(position[name] for name in group.classes) for group in self.groups)

    @property
    def free_indices(self) -> tuple[int, ...]:
        """Column indices of the classes in no exclusive group."""
        grouped = {index for indices in self.group_indices for index in indices}
        return tuple(index for index in range(self.num_classes) if index not in grouped)

    def index(self, class_name: str) -> int:
        """Return a class's column index.

        Raises:
            MedtailError: No such class.
        """
        if class_name not in self.class_names:
            hint = did_you_mean(class_name, self.class_names) or f"; classes: {listing(self.class_names, limit=12)}"
            raise MedtailError(f"no class {class_name!r}{hint}")
        return self.class_names.index(class_name)

    def select(self, class_names: Sequence[str]) -> LabelSpace:
        """Keep some classes in the given order; a group left with one class dissolves.

        Raises:
            MedtailError: A class does not exist or is named twice.
        """
        _refuse_repeated(class_names, place="classes")
        for name in class_names:
            self.index(name)
        kept = []
        for group in self.groups:
            members = tuple(name for name in class_names if name in group.classes)
            if len(members) > 1:
                kept.append(ExclusiveGroup(group.name, members))
        return LabelSpace(tuple(class_names), tuple(kept))

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON card."""
        return {
            "class_names": list(self.class_names),
            "groups": [{"name": group.name, "classes": list(group.classes)} for group in self.groups],
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> LabelSpace:
        """Rebuild from `to_json`'s values.

        Raises:
            MedtailError: The values are not a label space.
        """
        try:
            listed = [value["class_names"], *(group["classes"] for group in value["groups"])]
            if not all(isinstance(names, (list, tuple)) for names in listed):
                raise TypeError("class names are no list")
            groups = tuple(ExclusiveGroup(str(g["name"]), tuple(map(str, g["classes"]))) for g in value["groups"])
        except (KeyError, TypeError) as error:
            raise MedtailError(f"label space: expected 'class_names' and 'groups'; found {value!r}") from error
        class_names = tuple(map(str, value["class_names"]))
        _refuse_repeated(class_names, place="label space")
        _refuse_repeated([name for group in groups for name in group.classes], place="label space, groups")
        known = set(class_names)
        for group in groups:
            for name in group.classes:
                if name not in known:
                    raise MedtailError(f"label space, group {group.name!r}: {name!r} is none of its 'class_names'.")
        return LabelSpace(class_names, groups)


def _refuse_repeated(names: Sequence[str], *, place: str) -> None:
    repeated = sorted(name for name, times in Counter(names).items() if times > 1)
    if repeated:
        raise MedtailError(f"{place}: {listing([repr(name) for name in repeated])} named twice; expected once.")


def short_name(class_name: str) -> str:
    """Return the value part of a grouped class name, for axes and tables within the group.

    Example:
        >>> short_name("shape=oval"), short_name("halo")
        ('oval', 'halo')
    """
    return class_name.partition("=")[2] or class_name


def one_hot(values: Iterable[str | None], *, group: str, absent: Iterable[str] = ()) -> dict[str, np.ndarray]:
    """Turn a column of names into exclusive `group=value` columns.

    Args:
        values: One name an image; None or empty = not assessed (NaN in every column).
        group: The group's name.
        absent: Names that mean "none of them applies" (0 in every column), such as `not applicable`.

    Returns:
        Column name → float array of 1, 0, NaN, in alphabetical order of the names.

    Example:
        >>> {name: list(map(float, column)) for name, column in one_hot(["b", "a", None], group="g").items()}
        {'g=a': [0.0, 1.0, nan], 'g=b': [1.0, 0.0, nan]}
    """
    listed = [value or None for value in values]
    none_of_them = set(absent)
    names = sorted({value for value in listed if value is not None} - none_of_them)
    missing = np.array([value is None for value in listed], dtype=bool)
    columns: dict[str, np.ndarray] = {}
    for name in names:
        column = np.array([float(value == name) for value in listed])
        column[missing] = np.nan
        columns[f"{group}={name}"] = column
    return columns
