"""How good an epoch is by its decisions: macro F1 on tune, decided as a study or a benchmark would.

Mean average precision asks how well images are ordered; F1 asks what would be said of them. Where a lexicon's groups
are decided by the highest score, the two can prefer different epochs.
"""

from __future__ import annotations

import numpy as np

from medtail.challenges.thyro_lmd_decoding import decode, shrink_to_half
from medtail.challenges.thyro_lmd_labels import LABELS
from medtail.judging.decisions import decide
from medtail.judging.thresholds import label_threshold
from medtail.tables.labels import LabelSpace


def decoded_f1(scores: np.ndarray, targets: np.ndarray, labels: LabelSpace) -> float | None:
    """Return macro F1 after decoding: the highest score of each exclusive group, elsewhere a threshold.

    A threshold is the one with the best F1 on these very rows, pulled toward 0.5 where positives are few: of n of them,
    0.5 + (t - 0.5) · n / (n + 20). The twenty labels of Thyro-LMD are decoded by its own rule, whose reports are valid.

    Args:
        scores: Of the tune fold, float [N, C] in [0, 1].
        targets: [N, C] in {0, 1, NaN}.
        labels: The classes.

    Returns:
        The mean over classes with a positive; None where none has.

    Example:
        >>> labels = LabelSpace.from_columns(["shape=round", "shape=oval"])
        >>> decoded_f1(np.array([[0.2, 0.1], [0.3, 0.4]]), np.array([[1.0, 0.0], [0.0, 1.0]]), labels)
        1.0
    """
    is_positive, is_assessed = targets == 1, ~np.isnan(targets)
    counts = is_positive.sum(axis=0)
    if not counts.any():
        return None
    limits = np.full(scores.shape[1], 0.5)
    for column in labels.free_indices:
        if counts[column]:
            fitted = label_threshold(scores[:, column], targets[:, column])
            limits[column] = shrink_to_half(fitted, positives=int(counts[column]))
    called = _decide(scores, limits, labels)
    hits = (called & is_positive).sum(axis=0)
    either = (called & is_assessed).sum(axis=0) + counts
    known = counts > 0
    return float((2.0 * hits[known] / either[known]).mean())


def _decide(scores: np.ndarray, limits: np.ndarray, labels: LabelSpace) -> np.ndarray:
    if set(labels.class_names) != set(LABELS.class_names):
        return decide(scores, thresholds=limits, groups=labels.group_indices)
    order = [labels.index(name) for name in LABELS.class_names]
    called = np.empty(scores.shape, dtype=bool)
    called[:, order] = decode(scores[:, order], thresholds=dict(zip(labels.class_names, limits, strict=True)))
    return called
