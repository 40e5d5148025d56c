"""Two samplers of the CSASN recipe: classes spread over their sites, and extra copies of chosen classes.

Comparing sites within a label needs a batch that has several images of the label from more than one site; drawing the
site after the class sees to it. `copies` is that paper's own cure for imbalance, each image of the rare classes shown
ten times for once, without its fault: the copies exist only in the draws of the train fold, each augmented anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any, ClassVar, Literal, final

import numpy as np
from pydantic import Field

from medtail.config import CLOSED
from medtail.errors import Problems, did_you_mean, listing
from medtail.sampling.contract import TrainFold


@final
@dataclass(frozen=True, kw_only=True)
class SitesSamplerConfig:
    """A class at random in proportion to a power of its count, then one of its sites, all alike, then one of its rows.

    Attributes:
        power: 1/2 picks classes by the square root of their counts, 0 all alike, 1 by their counts.
        domain_column: The manifest's column that names the site, or any other metadata. Rows that name none count as
            one more site; without a column `site` this is a sampler by classes alone.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED

    kind: Literal["sites"] = "sites"
    power: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    domain_column: Annotated[str, Field(min_length=1)] = "site"


@final
@dataclass(frozen=True, kw_only=True)
class CopiesSamplerConfig:
    """Rows of chosen classes shown several times for once.

    An epoch is as long as ever, so that all rows share it: set `optimizer.epoch_rows` to the number of rows with all
    their copies for an epoch that shows each of them exactly once.

    Attributes:
        classes: Exact names, or shell patterns where `*` and `?` stand for any text and character; a row is copied
            if it shows any of them.
        copies: Extra copies, >= 1, besides the row itself.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = CLOSED

    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    kind: Literal["copies"] = "copies"
    copies: Annotated[int, Field(ge=1)] = 9


def sitewise_shares(members: np.ndarray, domains: np.ndarray, *, power: float) -> np.ndarray:
    """Compute how often each row is drawn if a class is picked, then one of its sites, then a row of both.

    The three picks together draw row i with probability Σ_c q_c [i in c] / (S_c n_cs), with q_c in proportion to
    n_c ** power, S_c the number of sites that class c has and n_cs its rows at the site of row i.

    Args:
        members: Which row belongs to which class, bool [rows, classes], a row at least in each class.
        domains: Site of each row, int64 [rows]; each number is a site, that of unknown ones too.
        power: From 0, classes alike, to 1, in proportion to their counts.

    Returns:
        Float64 [rows], >= 0, adding up to 1.

    Example:
        >>> members = np.array([[True, False], [True, False], [True, False], [False, True]])
        >>> sitewise_shares(members, np.array([0, 0, 1, 1]), power=0.0)
        array([0.125, 0.125, 0.25 , 0.5  ])
    """
    counts = members.sum(axis=0).astype(float)
    picks = counts**power / (counts**power).sum()
    shares = np.zeros(len(members))
    for is_member, pick in zip(members.T, picks, strict=True):
        rows = np.flatnonzero(is_member)
        _, site, sizes = np.unique(domains[rows], return_inverse=True, return_counts=True)
        shares[rows] += pick / (len(sizes) * sizes[site])
    return shares


def copy_factors(fold: TrainFold, *, classes: tuple[str, ...], copies: int) -> np.ndarray:
    """Compute how often each row is shown: 1 + copies where it shows any of the classes, else 1.

    Args:
        fold: The train rows.
        classes: Names or shell patterns.
        copies: Extra copies, >= 1.

    Returns:
        Float64 [rows].

    Raises:
        MedtailError: A name or pattern matches no class; all such are named.
    """
    names = fold.labels.class_names
    problems = Problems(fold.name)
    is_chosen = np.zeros(len(names), dtype=bool)
    for pattern in classes:
        matched = np.array([name == pattern or fnmatchcase(name, pattern) for name in names], dtype=bool)
        if not matched.any():
            hint = did_you_mean(pattern, names) or f"; classes are {listing(names, limit=12)}"
            problems.add(f"sampler.classes: no class is called {pattern!r}{hint}")
        is_chosen |= matched
    problems.raise_if_any()
    return np.asarray(1.0 + copies * fold.is_positive[:, is_chosen].any(axis=1))
