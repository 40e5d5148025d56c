"""The compiled inner loop of the ensemble search: the AP of many candidate mixtures of one class.

A candidate is what has been gathered so far plus one more member. AP needs no sorted table: only the positives are
sorted, and every negative is counted where it falls among them. For a rare class that is a tenth of a sort's work.
Imported only by the search; the loop is a plain function, which the tests also run as it stands.
"""

from __future__ import annotations

import numpy as np

from medtail.judging.kernels import compile_loop


def _candidate_precision(
    sorted_positives: np.ndarray, negative_sum: np.ndarray, negatives: np.ndarray, found: np.ndarray
) -> None:
    """Compute the AP of (sum + member) for every member of one class.

    Args:
        sorted_positives: Sum + member of the positive rows from low to high, float64 [M, P], P >= 1.
        negative_sum: What has been gathered, of the negative rows, float64 [n].
        negatives: Members' values of the negative rows, float64 [M, n].
        found: Receives AP, float64 [M].
    """
    size = sorted_positives.shape[1]
    steps, gained, passed = np.empty(size), np.empty(size), np.empty(size)
    places = min(max(4 * size, 256), 65_536)
    first = np.empty(places + 1, dtype=np.int64)
    for member in range(sorted_positives.shape[0]):
        # distinct scores from low to high, and how many positives have each
        last = -1
        for row in range(size):
            value = sorted_positives[member, row]
            if last < 0 or value != steps[last]:
                last += 1
                steps[last], gained[last], passed[last] = value, 0.0, 0.0
            gained[last] += 1.0
        lowest, width = steps[0], steps[last] - steps[0]
        scale = (places - 1) / width if width > 0.0 else 0.0
        # where each of many equal stretches of the scores starts among the steps: leaves the search a step or two
        at = 0
        for place in range(places):
            while at <= last and (steps[at] - lowest) * scale < place:
                at += 1
            first[place] = at
        first[places] = last + 1
        for row in range(negative_sum.shape[0]):
            value = negative_sum[row] + negatives[member, row]
            if value < lowest:
                continue
            if value >= steps[last]:
                passed[last] += 1.0
                continue
            place = int((value - lowest) * scale)
            low, high = first[place] - 1, first[place + 1]
            if low < 0:
                low = 0
            while high - low > 1:
                middle = (low + high) // 2
                if steps[middle] <= value:
                    low = middle
                else:
                    high = middle
            passed[low] += 1.0
        true, false, total = 0.0, 0.0, 0.0
        for step in range(last, -1, -1):
            true += gained[step]
            false += passed[step]
            total += gained[step] * (true / (true + false))
        found[member] = total / size


candidate_precision = compile_loop(_candidate_precision)
