"""Are the shares of levels what they claim? Predicted against observed, on nodules whose level is known."""

from __future__ import annotations

import numpy as np
import pandas as pd

from medtail.errors import MedtailError
from medtail.lexicons.propagation import LevelLaw


def level_reliability(law: LevelLaw, levels: np.ndarray) -> pd.DataFrame:
    """Compare the mean predicted share of each level with how often it was found.

    Args:
        law: Of N nodules; rows of the tune fold, if the fold was not used to fit them.
        levels: int [N], number of the true category; -1 where unknown or undefined (left out).

    Returns:
        A row a category: `category, predicted` (mean share), `observed` (share of the nodules), `n`, `named` (nodules
        whose likeliest category it is) and `correct` (share of those in which it was right; NaN without any).

    Raises:
        MedtailError: Lengths differ, a number is no category, or no level is known.

    Example:
        >>> from medtail.lexicons.probabilities import descriptor_probabilities
        >>> from medtail.lexicons.propagation import level_law
        >>> law = level_law(descriptor_probabilities(composition="solid", echogenicity=[0, 0, 0.5, 0.5, 0],
        ...                                          shape="wider", margin="smooth", foci="none"))
        >>> level_reliability(law, np.array([3])).loc[3, ["category", "predicted", "observed"]].to_dict()
        {'category': 'TR4', 'predicted': 0.5, 'observed': 1.0}
    """
    truth = np.asarray(levels, dtype=np.int64)
    if truth.shape != (len(law),):
        raise MedtailError(f"level reliability: found {truth.size} levels of {len(law)} nodules; expected one each.")
    if ((truth < -1) | (truth >= len(law.categories))).any():
        raise MedtailError(f"level reliability: found {truth.max()}; expected numbers of {len(law.categories)} levels.")
    known = truth >= 0
    if not known.any():
        raise MedtailError("level reliability: no level is known; expected some nodules with all groups assessed.")
    shares, best = law.probabilities[known], law.most_probable[known]
    rows = []
    for number, name in enumerate(law.categories):
        named = best == number
        rows.append(
            {
                "category": name,
                "predicted": float(shares[:, number].mean()),
                "observed": float((truth[known] == number).mean()),
                "n": int((truth[known] == number).sum()),
                "named": int(named.sum()),
                "correct": float((truth[known][named] == number).mean()) if named.any() else float("nan"),
            }
        )
    return pd.DataFrame(rows)
