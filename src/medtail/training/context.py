"""What a loss or an objective may know of the train fold: its counts, what the sampler will draw, and its sites."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from medtail.losses.contract import DrawnCounts, LossContext
from medtail.sampling.contract import Sampler
from medtail.tables.domains import UNKNOWN_DOMAIN, domain_numbers
from medtail.tables.manifest import Manifest
from medtail.tables.tail import ClassCounts


def train_context(
    manifest: Manifest,
    counts: ClassCounts,
    *,
    sampler: Sampler,
    draws: int,
    epochs: int,
    domain_column: str | None = None,
) -> LossContext:
    """Gather what training tells its loss about the train fold.

    Args:
        manifest: The rows the sampler draws from.
        counts: From `count_classes`: synthetic rows are drawn and learnt from, but a class's frequency is that of real
            images.
        sampler: Who draws the rows.
        draws: Rows an epoch.
        epochs: Epochs of the training.
        domain_column: The column whose values an objective compares; None for none.

    Returns:
        The context.

    Raises:
        MedtailError: The manifest has no such column; see `domain_numbers`.
    """
    is_train = manifest.folds == "train"
    context = LossContext.from_counts(
        counts, labels=manifest.labels, num_images=int((is_train & manifest.is_real).sum())
    )
    drawn = drawn_counts(sampler, manifest.targets[sampler.rows], draws=draws, epochs=epochs)
    context = replace(context, drawn=drawn, num_rows=len(manifest))
    if domain_column is None:
        return context
    domains = domain_numbers(manifest, column=domain_column)[is_train]
    _, sizes = np.unique(domains[domains != UNKNOWN_DOMAIN], return_counts=True)
    return replace(context, num_domains=int((sizes >= 2).sum()))


def joint_counts(manifest: Manifest) -> np.ndarray:
    """Count the real train images that show both of two classes.

    Where class j was not assessed in some of the n_i images of class i, their count is n_i times the share among the
    others: an empty cell is no sign that the two do not go together.

    Returns:
        Float64 [classes, classes]; the diagonal has each class's own count. Symmetric where all was assessed.

    Example:
        >>> import pandas as pd
        >>> from medtail.tables.manifest import manifest_from_frame
        >>> table = manifest_from_frame(pd.DataFrame({"image_id": list("abc"), "path": list("abc"), "fold": "train",
        ...                                           "patient_id": list("123"), "a": [1, 1, 0], "b": [1, 0, None]}))
        >>> joint_counts(table).tolist()
        [[2.0, 1.0], [1.0, 1.0]]
    """
    targets = manifest.targets[(manifest.folds == "train") & manifest.is_real]
    is_present, is_assessed = (targets == 1).astype(float), (~np.isnan(targets)).astype(float)
    together, seen = is_present.T @ is_present, is_present.T @ is_assessed
    return np.asarray(together * (is_present.sum(axis=0)[:, None] / np.maximum(seen, 1.0)))


def stream_counts(sampler: Sampler, targets: np.ndarray, *, epoch: int) -> tuple[DrawnCounts, ...]:
    """Compute how often each stream of a sampler is expected to show each class, in draws as many as train rows.

    Args:
        sampler: Who draws.
        targets: Labels of `sampler.rows`, [rows, classes] in {0, 1, NaN}.
        epoch: From 0.

    Returns:
        Counts a stream.
    """
    is_present, is_assessed = targets == 1, ~np.isnan(targets)
    return tuple(
        DrawnCounts(
            positives=tuple(float(value) for value in len(targets) * (shares @ is_present)),
            assessed=tuple(float(value) for value in len(targets) * (shares @ is_assessed)),
        )
        for shares in sampler.stream_frequencies(epoch)
    )


def drawn_counts(sampler: Sampler, targets: np.ndarray, *, draws: int, epochs: int) -> DrawnCounts:
    """Compute how often a sampler is expected to show each class in an epoch, on average over the training.

    A sampler that observes how training goes is taken by its promise for the first epoch.

    Args:
        sampler: Who draws.
        targets: Labels of `sampler.rows`, [rows, classes] in {0, 1, NaN}.
        draws: Rows an epoch.
        epochs: Epochs of the training, at least 1.

    Returns:
        The counts.

    Example:
        >>> import pandas as pd
        >>> from medtail.sampling.build import ClassBalancedSamplerConfig, build_sampler
        >>> from medtail.tables.manifest import manifest_from_frame
        >>> table = manifest_from_frame(pd.DataFrame({"image_id": list("abcd"), "path": list("abcd"), "fold": "train",
        ...                                           "patient_id": list("1234"), "Hernia": [1, 0, 0, None]}))
        >>> sampler = build_sampler(ClassBalancedSamplerConfig(), table, seed=0, epochs=2)
        >>> drawn_counts(sampler, table.targets, draws=4, epochs=2)
        DrawnCounts(positives=(2.0,), assessed=(4.0,))
    """
    promised = range(1 if sampler.observes else epochs)
    shares = np.zeros(len(sampler.rows))
    for epoch in promised:
        shares += sampler.frequencies(epoch) / len(promised)
    return DrawnCounts(
        positives=tuple(float(value) for value in draws * (shares @ (targets == 1))),
        assessed=tuple(float(value) for value in draws * (shares @ ~np.isnan(targets))),
    )
