"""Does the scanner, the site or the view give the finding away?

A model can learn the machine instead of the disease when one device saw most of the sick. Here every descriptive
column of a manifest is tested against every class, with patients as the units, so that ten images of one person are
not ten witnesses. A strong association is a hint to look, not a proof: the audit words it so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pandas as pd
from scipy.stats import chi2

from medtail.tables.manifest import META_PREFIX, Manifest

ACQUISITION = ("site", "device", "view", "laterality", "sex")
"""Columns that say how and of whom an image was made; `meta_…` columns may say anything."""
NOT_GIVEN = "not given"
MAX_LEVELS = 20
MIN_PATIENTS = 20
MIN_A_SIDE = 5
"""Patients with and without the class, and of a value of its own; rarer values are pooled."""
STRONG_V = 0.3
ALPHA = 0.01


@final
@dataclass(frozen=True)
class Association:
    """How well a column's value predicts a class.

    Attributes:
        column: The descriptive column.
        class_name: The class.
        cramers_v: Strength in [0, 1], corrected for the chance level of many values.
        p_value: Chi-square test over patients, Holm-corrected over all pairs tested.
        patients: Patients in the test.
        levels: (value, patients with it, share of them showing the class), most patients first.
    """

    column: str
    class_name: str
    cramers_v: float
    p_value: float
    patients: int
    levels: tuple[tuple[str, int, float], ...]

    @property
    def is_strong(self) -> bool:
        """Whether it is worth a person's attention."""
        return self.cramers_v >= STRONG_V and self.p_value < ALPHA

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "column": self.column,
            "class": self.class_name,
            "cramers_v": round(self.cramers_v, 4),
            "p_value": self.p_value,
            "patients": self.patients,
            "levels": [
                {"value": value, "patients": patients, "share_positive": round(share, 4)}
                for value, patients, share in self.levels
            ],
        }


def associations(manifest: Manifest) -> list[Association]:
    """Test every descriptive column of few values against every class, on the real rows.

    A patient imaged under several values (a left and a right view) is one unit under each, and all counts are scaled
    so that they sum to the number of patients: such a patient does not count twice in the test.

    Returns:
        The tests that could be made (at least 20 patients, 5 with and 5 without the class), strongest first.

    References:
        bergsma2013 (bias-corrected Cramér's V), holm1979.
    """
    real = manifest.take(manifest.is_real)
    found = [test for column in descriptive_columns(real) for test in _test_column(real, column)]
    corrected = holm([test.p_value for test in found])
    tests = [
        Association(t.column, t.class_name, t.cramers_v, p, t.patients, t.levels)
        for t, p in zip(found, corrected, strict=True)
    ]
    return sorted(tests, key=lambda t: (-t.cramers_v, t.column, t.class_name))


def descriptive_columns(manifest: Manifest) -> list[str]:
    """Return the acquisition and `meta_…` columns that hold 2 to 20 different values."""
    wanted = [c for c in manifest.frame.columns if c in ACQUISITION or c.startswith(META_PREFIX)]
    return [c for c in wanted if 2 <= manifest.frame[c].nunique() <= MAX_LEVELS]


def holm(p_values: Iterable[float]) -> list[float]:
    """Correct p-values for their number (step-down).

    Example:
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]

    References:
        holm1979.
    """
    values = np.array(list(p_values), dtype=float)
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty(len(values))
    corrected[order] = np.minimum(stepped, 1)
    return corrected.tolist()


def cramers_v(table: np.ndarray, *, observations: float | None = None) -> tuple[float, float]:
    """Return the bias-corrected Cramér's V of a contingency table and the p-value of its chi-square test.

    Args:
        table: Counts [values, 2 or more], every row and column sum above 0.
        observations: What the counts are scaled to sum to; their own sum if None.

    Example:
        >>> v, p = cramers_v(np.array([[50.0, 0.0], [0.0, 50.0]]))
        >>> round(v, 2), p < 1e-20
        (1.0, True)

    References:
        bergsma2013, eq. 2.
    """
    table = np.asarray(table, dtype=float)
    n = float(table.sum() if observations is None else observations)
    table = table * n / table.sum()
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / n
    statistic = float(((table - expected) ** 2 / expected).sum())
    rows, columns = table.shape
    degrees = (rows - 1) * (columns - 1)
    p_value = float(chi2.sf(statistic, degrees))
    phi2 = max(0.0, statistic / n - degrees / (n - 1))
    fewer = min(rows - (rows - 1) ** 2 / (n - 1), columns - (columns - 1) ** 2 / (n - 1)) - 1
    return (min(1.0, float(np.sqrt(phi2 / fewer))) if fewer > 0 else 0.0), p_value


def distinct(codes: np.ndarray) -> int:
    """Count the different numbers among codes, int64, >= 0: as `np.unique`, without sorting.

    Example:
        >>> distinct(np.array([4, 0, 4]))
        2
    """
    return int(np.count_nonzero(np.bincount(codes)))


def _test_column(manifest: Manifest, column: str) -> list[Association]:
    values = manifest.frame[column].replace("", NOT_GIVEN).astype(str)
    value_codes, names = pd.factorize(values, sort=True)
    patient_codes, _ = pd.factorize(pd.Series(manifest.patients).astype(str))
    units = pd.DataFrame(manifest.targets).groupby(patient_codes.astype(np.int64) * len(names) + value_codes).max()
    patient_of, value_of = np.divmod(units.index.to_numpy(dtype=np.int64), len(names))
    tests = []
    for c, class_name in enumerate(manifest.labels.class_names):
        label = units[c].to_numpy(dtype=float)
        assessed = ~np.isnan(label)
        patients = distinct(patient_of[assessed])
        sides = [distinct(patient_of[assessed & (label == side)]) for side in (0, 1)]
        if patients < MIN_PATIENTS or min(sides) < MIN_A_SIDE:
            continue
        cells = value_of[assessed] * 2 + (label[assessed] == 1)
        rows: dict[str, np.ndarray] = {}
        for name, row in zip(names, np.bincount(cells, minlength=2 * len(names)).reshape(-1, 2), strict=True):
            if row.sum():
                kept = str(name) if row.sum() >= MIN_A_SIDE else "rarer values"
                rows[kept] = rows.get(kept, 0) + row
        if len(rows) < 2:
            continue
        ordered = dict(sorted(rows.items()))
        v, p = cramers_v(np.array(list(ordered.values())), observations=patients)
        levels = tuple(
            (name, int(row.sum()), float(row[1] / row.sum()))
            for name, row in sorted(ordered.items(), key=lambda item: (-int(item[1].sum()), item[0]))
        )
        tests.append(Association(column, class_name, v, p, patients, levels))
    return tests
