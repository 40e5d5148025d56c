"""The small print explains what is shown, and nothing else."""

from __future__ import annotations

from medtail.reporting.terms import TERMS, terms


def test_only_shown_parts_are_explained_and_every_word_once() -> None:
    assert len(terms([])) == len(TERMS["always"])
    everything = terms(TERMS)
    words = [word for word, _ in everything]
    assert len(words) == len(set(words)) == sum(map(len, TERMS.values()))
    assert "gap" not in [word for word, _ in terms(["conformal"])]
