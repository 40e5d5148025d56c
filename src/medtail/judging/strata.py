"""Strata of patients: resampling inside them keeps every class's number of positive patients nearly as it is."""

from __future__ import annotations

import numpy as np


def rarest_strata(targets: np.ndarray, patients: np.ndarray, *, num_patients: int) -> np.ndarray:
    """Put each patient into the stratum of their rarest positive class.

    Rare is the class with the fewest positive patients among these rows (ties: the first column). Patients without a
    positive make one more stratum. Resampling inside strata holds the prevalence of rare classes fixed: intervals
    become narrower, and answer "other patients, just as many with each rare finding".

    Args:
        targets: [N, C] in {0, 1, NaN}.
        patients: Patient numbers, int [N].
        num_patients: K.

    Returns:
        int64 [K]: 0 for patients without a positive, else 1 + rank of the class, the rarest 1.

    Example:
        >>> targets = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, np.nan], [1.0, 0.0]])
        >>> rarest_strata(targets, np.array([0, 1, 2, 3]), num_patients=4).tolist()
        [2, 1, 0, 2]
    """
    positive = np.zeros((num_patients, targets.shape[1]), dtype=bool)
    rows, columns = np.nonzero(targets == 1)
    positive[patients[rows], columns] = True
    order = np.argsort(positive.sum(axis=0), kind="stable")
    ranked = positive[:, order]
    strata: np.ndarray = np.where(ranked.any(axis=1), ranked.argmax(axis=1) + 1, 0)
    return strata
