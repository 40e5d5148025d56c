"""How much one wording decides: the ranking of images with every phrase, and with one of them left out.

Needs no labels. A class whose ranking turns over when one prompt goes is a class whose figures are that prompt's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from medtail.errors import MedtailError
from medtail.tables.vectors import ImageVectors, PhraseKind, TextVectors, check_same_space, unit_rows


def phrase_influence(
    images: ImageVectors, texts: TextVectors, *, class_names: Sequence[str] | None = None, kind: PhraseKind = "prompt"
) -> pd.DataFrame:
    """Drop each phrase of each class in turn and compare the order of the images.

    Args:
        images: Vectors of the images to rank.
        texts: Vectors of the phrases.
        class_names: The classes; all if None.
        kind: Which phrases are averaged.

    Returns:
        Columns `class, text, rank_correlation` (Spearman's, of the scores with and without the phrase; 1 = same order)
        and `top_overlap` (share of the tenth that scores highest that stays there), the most influential first within a
        class. A class with one phrase has no rows: nothing would be left.

    Raises:
        MedtailError: Vectors of two towers, a class without phrases, or fewer than ten images.

    Example:
        >>> from medtail.tables.vectors import Phrase, text_vectors
        >>> texts = text_vectors([Phrase("Mass", "prompt", w, w) for w in "ab"], np.array([[1.0, 0.0], [0.9, 0.1]]))
        >>> ids = np.array(list("abcdefghij"), dtype=object)
        >>> turned = np.linspace(0, 1, 10)
        >>> images = ImageVectors(ids, np.column_stack([np.cos(turned), np.sin(turned)]).astype(np.float32))
        >>> float(phrase_influence(images, texts)["rank_correlation"].min()) > 0.9
        True
    """
    check_same_space(images, texts)
    if len(images) < 10:
        raise MedtailError(f"{images.name}: {len(images)} images; expected 10 at least to speak of an order.")
    names = texts.class_names if class_names is None else tuple(class_names)
    texts.check(names, kind)
    vectors = images.values.astype(np.float64)
    top = max(1, len(images) // 10)
    found = []
    for name in names:
        rows = texts.rows(name, kind)
        if len(rows) < 2:
            continue
        total = texts.values[rows].astype(np.float64).sum(axis=0)
        without = np.stack([total - texts.values[row] for row in rows])
        means = unit_rows(np.vstack([total, without]), what=[f"{texts.name}, class {name!r}"] * (len(rows) + 1))
        scores = vectors @ means.astype(np.float64).T
        ranks = rankdata(scores, axis=0)
        best = [set(np.argsort(-scores[:, column], kind="stable")[:top]) for column in range(scores.shape[1])]
        for column, row in enumerate(rows, start=1):
            found.append(
                {
                    "class": name,
                    "text": texts.phrases[row].text,
                    "rank_correlation": _correlation(ranks[:, 0], ranks[:, column]),
                    "top_overlap": len(best[0] & best[column]) / top,
                }
            )
    columns = ["class", "text", "rank_correlation", "top_overlap"]
    table = pd.DataFrame(found, columns=columns)
    order = {name: number for number, name in enumerate(names)}
    table = table.assign(place=table["class"].map(order)).sort_values(["place", "rank_correlation"], kind="stable")
    return table[columns].reset_index(drop=True)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    length = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum() / length) if length > 0 else float("nan")
