"""Guards: what would make "zero-shot" untrue.

A class is unseen if the training had no label of it, under any of its names. And a tower that looked at the test images
in its own training has seen them, whatever it is asked: medtail prints what it knows of that and leaves the judgement
to people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medtail.errors import Problems
from medtail.sources.cxr_lt import plain_name
from medtail.tables.manifest import Manifest
from medtail.zeroshot.prompts import PhraseBook


def check_unseen(
    unseen: Sequence[str],
    *,
    trained: Sequence[str] = (),
    manifest: Manifest | None = None,
    book: PhraseBook | None = None,
) -> None:
    """Check that classes called unseen are: not trained, and without a label in the training's folds.

    Names are compared without capitals, `_` and `-`, and by the phrase file's aliases: `Effusion` is not unseen to a
    model of `Pleural Effusion`.

    Args:
        unseen: The classes.
        trained: Classes of the model.
        manifest: What it was trained on; columns of unseen classes may be there for the test fold, but must be empty in
            `train`, `tune` and `reward`.
        book: Knows aliases; without it only the spelling is compared.

    Raises:
        MedtailError: One was seen; all are named, with where.

    Example:
        >>> check_unseen(["Bulla"], trained=["Emphysema"])
        >>> check_unseen(["pleural_effusion"], trained=["Pleural Effusion"])
        Traceback (most recent call last):
        medtail.errors.MedtailError: unseen classes, 'pleural_effusion': the model was trained on it, as ...
    """

    def meaning(name: str) -> str:
        found = None if book is None else book.find(name)
        return plain_name(name if found is None else found)

    problems = Problems("unseen classes")
    known = {meaning(name): name for name in reversed(trained)}
    for name in unseen:
        if meaning(name) in known:
            problems.add(
                f"{name!r}: the model was trained on it, as {known[meaning(name)]!r}; expected a class it never had a"
                " label of. Leave it out, or train without it."
            )
    if manifest is not None:
        taught = np.isin(manifest.folds.astype(str), ("train", "tune", "reward"))
        columns = {meaning(name): name for name in reversed(manifest.labels.class_names)}
        for name in unseen:
            column = columns.get(meaning(name))
            if column is None:
                continue
            labelled = taught & ~np.isnan(manifest.targets[:, manifest.labels.index(column)])
            if labelled.any():
                folds = ", ".join(sorted(set(manifest.folds[labelled].astype(str))))
                problems.add(
                    f"{name!r}: {int(labelled.sum())} images of {manifest.name} have a label of it, column {column!r},"
                    f" in {folds}; expected empty cells there. Empty them (labels of the test fold may stay)."
                )
    problems.raise_if_any()


def tower_caution(header: Mapping[str, Any], *, test_set: str = "") -> str:
    """Say what a tower was trained on, beside the test set it is asked about.

    Args:
        header: Of text or image vectors.
        test_set: Name of the data set asked about; "" if not named.

    Example:
        >>> tower_caution({"tower": "minilm", "trained_on": "text pairs only; no images"})
        "Tower 'minilm' was trained on: text pairs only; no images."
    """
    learnt = str(header.get("trained_on", "not known to medtail"))
    said = f"Tower {header.get('tower', '?')!r} was trained on: {learnt}."
    if test_set and plain_name(test_set) in plain_name(learnt):
        said += f" That includes {test_set}: its scores there flatter it."
    elif learnt.startswith("not known"):
        said += " Check its card: if the test images are among them, nothing here is zero-shot."
    return said
