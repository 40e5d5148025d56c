from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from medtail.errors import MedtailError
from medtail.tables.vectors import ImageVectors, Phrase, text_vectors, unit_rows
from medtail.zeroshot.influence import phrase_influence


def images(count: int = 60) -> ImageVectors:
    values = unit_rows(np.random.default_rng(0).normal(size=(count, 8)), what=[""] * count)
    return ImageVectors(np.array([str(n) for n in range(count)], dtype=object), values)


def test_odd_phrase_is_found_and_its_figures_are_those_of_dropping_it() -> None:
    random = np.random.default_rng(1)
    one = random.normal(size=8)
    vectors = np.stack([one + 0.05 * random.normal(size=8) for _ in range(4)] + [4 * random.normal(size=8)])
    phrases = [Phrase("Mass", "prompt", str(n), f"wording {n}") for n in range(5)]
    texts, pictures = text_vectors(phrases, vectors), images()
    table = phrase_influence(pictures, texts)
    assert table["text"].iloc[0] == "wording 4"
    with_all, without = (pictures.values @ texts.values[:end].mean(axis=0) for end in (5, 4))
    assert table["rank_correlation"].iloc[0] == pytest.approx(spearmanr(with_all, without).statistic, abs=1e-6)
    top = set(np.argsort(-with_all)[:6]) & set(np.argsort(-without)[:6])
    assert table["top_overlap"].iloc[0] == pytest.approx(len(top) / 6)
    assert (table["rank_correlation"].iloc[1:] > table["rank_correlation"].iloc[0]).all()


def test_equal_phrases_change_nothing_and_a_single_one_cannot_be_dropped() -> None:
    phrases = [Phrase("Mass", "prompt", "a", "x"), Phrase("Mass", "prompt", "b", "y"),
               Phrase("Bulla", "prompt", "c", "z")]  # fmt: skip
    texts = text_vectors(phrases, np.ones((3, 8)))
    table = phrase_influence(images(), texts)
    assert table["class"].tolist() == ["Mass", "Mass"]
    np.testing.assert_allclose(table[["rank_correlation", "top_overlap"]], 1.0)


def test_too_few_images_are_refused() -> None:
    texts = text_vectors([Phrase("Mass", "prompt", "a", "x")], np.ones((1, 8)))
    with pytest.raises(MedtailError, match="9 images; expected 10 at least"):
        phrase_influence(images(9), texts)
