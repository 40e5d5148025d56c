"""The search behind the splits: groups with several quantities each, dealt into folds of given shares.

Knows nothing of manifests or patients; `splits` turns those into the arrays used here. A greedy deal (hardest groups
first) is followed by a local search in which every step is one matrix product over all groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

FREE = -1
"""Fold number of a group not assigned yet."""
_SHORTAGE_WEIGHT = 100.0
_SWAP_CANDIDATES = 64
_MAX_STEPS = 2000


@final
@dataclass(frozen=True)
class Need:
    """How many positives each class must have in each fold, and what a missing one costs.

    Attributes:
        positives: Positive rows of each group, [groups, classes].
        wanted: Positive rows asked for in every fold, [classes].
        cost: Price of one missing row, [folds]; higher in folds that come first.
    """

    positives: np.ndarray
    wanted: np.ndarray
    cost: np.ndarray

    @staticmethod
    def of(positives: np.ndarray, minimum: int, share: np.ndarray, priority: Sequence[float] | None) -> Need:
        """Ask for `minimum` positives of every class that has any."""
        wanted = np.where(positives.sum(axis=0) > 0, float(minimum), 0.0)
        rank = np.zeros(len(share)) if priority is None else np.asarray(priority, dtype=float)
        return Need(positives, wanted, _SHORTAGE_WEIGHT * (1 + share + rank / 2))


@final
class Balance:
    """The state of a split in the making: which group is where, and how far each fold is from its target.

    The objective is Σ_kd cost_kd gap_kd², gap = what fold k has of quantity d minus what it should have, plus
    `need.cost` for every positive row missing to `need.wanted`. Moving amount a out of fold k changes its part by
    Σ_d cost_kd (a² - 2 gap_kd a), moving it in by Σ_d cost_kd (a² + 2 gap_kd a): matrix products over all groups.

    Attributes:
        fold: Fold of each group, int [groups]; `FREE` until dealt. The result.
    """

    def __init__(
        self, amounts: np.ndarray, weights: np.ndarray, share: np.ndarray, need: Need, fold: np.ndarray
    ) -> None:
        totals = amounts.sum(axis=0)
        used = totals > 0
        self.amounts = amounts[:, used]
        self.need = need
        self.share = share
        self.fold = fold
        self.free = fold == FREE
        self.cost = np.empty((len(share), int(used.sum())))
        self.squares = np.empty((len(amounts), len(share)))
        self._used, self._totals = used, totals[used]
        self._largest = need.positives.max(axis=0, initial=0)
        # groups that bring the same are interchangeable: a swap need look at one of them only
        self._profile = np.unique(np.hstack([self.amounts, need.positives]), axis=0, return_inverse=True)[1].ravel()
        self.weigh(weights)
        self.gap = -share[:, None] * totals[used]
        self.have = np.zeros((len(share), need.positives.shape[1]))
        for k in range(len(share)):
            self.gap[k] += self.amounts[fold == k].sum(axis=0)
            self.have[k] = need.positives[fold == k].sum(axis=0)

    def weigh(self, weights: np.ndarray) -> None:
        """Set the weight of each quantity, [quantities]."""
        self.cost = weights[self._used] / (self._totals**2 * self.share[:, None])
        self.squares = (self.amounts**2) @ self.cost.T

    def deal(self) -> None:
        """Give each free group to the fold it helps most: rarest class first, then by size."""
        positive = self.need.positives > 0
        rarity = np.where(positive, positive.sum(axis=0, dtype=float), np.inf)
        rarest = rarity.min(axis=1, initial=np.inf)
        size = self.amounts.sum(axis=1)
        order = np.lexsort((np.arange(len(size)), -size, rarest))
        order = order[self.free[order]]
        groups_left = positive[order].sum(axis=0)
        rows_left = self.need.positives[order].sum(axis=0)
        is_short = bool((self.have < self.need.wanted).any())
        for g in order:
            change = (self.cost * self.gap) @ self.amounts[g] * 2 + self.squares[g]
            if is_short:
                # balance alone decides until what is left of a class is only just enough for the folds that lack it
                missing = np.maximum(self.need.wanted - self.have, 0)
                scarce = ((missing > 0).sum(axis=0) >= groups_left) | (missing.sum(axis=0) >= rows_left)
                lacking = np.flatnonzero(positive[g] & scarce & (missing > 0).any(axis=0))
                if len(lacking):
                    change = change + self._shortage_change(g, lacking)
                is_short = bool(missing.any())
                groups_left -= positive[g]
                rows_left -= self.need.positives[g]
            k = int(change.argmin())
            self._add(g, k, 1)
            self.fold[g] = k

    def _shortage_change(self, g: int, columns: np.ndarray) -> np.ndarray:
        wanted, have = self.need.wanted[columns], self.have[:, columns]
        before = np.maximum(wanted - have, 0)
        after = np.maximum(wanted - have - self.need.positives[g, columns], 0)
        return np.asarray((after - before).sum(axis=1) * self.need.cost)

    def _add(self, g: int, k: int, sign: int) -> None:
        self.gap[k] += sign * self.amounts[g]
        self.have[k] += sign * self.need.positives[g]

    def improve(self) -> None:
        """Make the best single move while one helps, then the best swap, until neither does."""
        if len(self.share) < 2 or not self.free.any():
            return
        for _ in range(_MAX_STEPS):
            moves = self._moves()
            best = int(moves.argmin())
            g, k = divmod(best, moves.shape[1])
            if moves[g, k] < -1e-12:
                self._move(g, k)
                continue
            swap = self._best_swap(moves)
            if swap is None:
                return
            left, right = swap
            a, b = int(self.fold[left]), int(self.fold[right])
            self._move(left, b)
            self._move(right, a)

    def _move(self, g: int, k: int) -> None:
        self._add(g, int(self.fold[g]), -1)
        self._add(g, k, 1)
        self.fold[g] = k

    def _moves(self) -> np.ndarray:
        """Change of the objective for moving each group to each fold, [groups, folds]; inf where not allowed."""
        rows = np.arange(len(self.fold))
        slope: np.ndarray = 2 * self.amounts @ (self.cost * self.gap).T
        change: np.ndarray = slope + self.squares
        change += (self.squares[rows, self.fold] - slope[rows, self.fold])[:, None]
        largest = self.need.positives.max(axis=0, initial=0)
        critical = np.flatnonzero((self.have - largest < self.need.wanted).any(axis=0) & (self.need.wanted > 0))
        if len(critical):
            touched = np.flatnonzero((self.need.positives[:, critical] > 0).any(axis=1))
            brought = self.need.positives[np.ix_(touched, critical)]
            have, wanted = self.have[:, critical], self.need.wanted[critical]
            at = self.fold[touched]
            lost = np.maximum(wanted - have[at] + brought, 0) - np.maximum(wanted - have[at], 0)
            change[touched] += (lost.sum(axis=1) * self.need.cost[at])[:, None]
            for k in range(len(self.share)):
                won = np.maximum(wanted - have[k] - brought, 0) - np.maximum(wanted - have[k], 0)
                change[touched, k] += won.sum(axis=1) * self.need.cost[k]
        change[rows, self.fold] = np.inf
        change[~self.free] = np.inf
        return change

    def _best_swap(self, moves: np.ndarray) -> tuple[int, int] | None:
        """Find the best exchange between two folds in which one side is among the most promising single moves."""
        best, found = -1e-12, None
        kinds = [self._kinds_in(k) for k in range(len(self.share))]
        for a in range(len(self.share)):
            for b in range(a + 1, len(self.share)):
                every_left, every_right = kinds[a], kinds[b]
                left, right = (
                    _promising(every_left, moves[every_left, b]),
                    _promising(every_right, moves[every_right, a]),
                )
                sides = (
                    [(left, every_right)]
                    if len(left) == len(every_left)
                    else [(left, every_right), (every_left, right)]
                )
                for i, j in sides:
                    i, j = self._worth_a_look(i, j, moves[i, b], moves[j, a], a, b, best)
                    if not len(i) or not len(j):
                        continue
                    cross = (self.amounts[i] * (self.cost[a] + self.cost[b])) @ self.amounts[j].T
                    change = moves[i, b][:, None] + moves[j, a][None, :] - 2 * cross
                    change += self._swap_shortage(i, j, a, b)
                    at = int(change.argmin())
                    if change.flat[at] < best:
                        best = float(change.flat[at])
                        found = (int(i[at // len(j)]), int(j[at % len(j)]))
        return found

    def _worth_a_look(
        self, i: np.ndarray, j: np.ndarray, out: np.ndarray, back: np.ndarray, a: int, b: int, best: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Drop groups from the longer side whose swaps cannot be better than the best one known.

        Σ_d cost_d x_d y_d is at most the product of the roots of Σ_d cost_d x_d² and Σ_d cost_d y_d², so a swap changes
        the objective by at least the two moves less twice that product; in a table of many groups few can be good. The
        bound leaves out what classes in need cost, which differs from the two moves' only where both groups show such a
        class: those who do stay.
        """
        if max(len(i), len(j)) <= _SWAP_CANDIDATES:
            return i, j
        sizes = np.sqrt(self.squares[:, a] + self.squares[:, b])
        least = out[:, None] + back[None, :] - 2.0 * sizes[i][:, None] * sizes[j][None, :]
        near = best + 1e-9 * abs(best) + 1e-14  # rounding must not drop the best one
        in_need = (self.have.min(axis=0) - self._largest < self.need.wanted) & (self.need.wanted > 0)

        def kept(groups: np.ndarray, bounds: np.ndarray) -> np.ndarray:
            shows = (self.need.positives[np.ix_(groups, np.flatnonzero(in_need))] > 0).any(axis=1)
            return np.asarray(groups[(bounds < near) | shows])

        return (i, kept(j, least.min(axis=0))) if len(i) <= len(j) else (kept(i, least.min(axis=1)), j)

    def _kinds_in(self, k: int) -> np.ndarray:
        """Return one free group of each profile in a fold."""
        here = np.flatnonzero((self.fold == k) & self.free)
        kept: np.ndarray = here[np.unique(self._profile[here], return_index=True)[1]]
        return kept

    def _swap_shortage(self, left: np.ndarray, right: np.ndarray, a: int, b: int) -> np.ndarray:
        """Correct the sum of two moves' shortage terms to that of the swap, [left, right]."""
        need, positives = self.need, self.need.positives
        low = (self.have[[a, b]].min(axis=0) - positives[np.r_[left, right]].max(axis=0) < need.wanted) & (
            need.wanted > 0
        )
        columns = np.flatnonzero(low & (positives[np.r_[left, right]] > 0).any(axis=0))
        total = np.zeros((len(left), len(right)))
        for c in columns:
            out, back, wanted = positives[left, c][:, None], positives[right, c][None, :], need.wanted[c]
            for k, sign in ((a, 1.0), (b, -1.0)):
                have = self.have[k, c]
                exact = np.maximum(wanted - have + sign * (out - back), 0)
                alone = np.maximum(wanted - have + sign * out, 0) + np.maximum(wanted - have - sign * back, 0)
                total += need.cost[k] * (exact - alone + max(wanted - have, 0))
        return total


def _promising(groups: np.ndarray, changes: np.ndarray) -> np.ndarray:
    if len(groups) <= _SWAP_CANDIDATES:
        return groups
    chosen: np.ndarray = groups[np.sort(np.argpartition(changes, _SWAP_CANDIDATES)[:_SWAP_CANDIDATES])]
    return chosen
