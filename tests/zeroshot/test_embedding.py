from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medtail.errors import MedtailError
from medtail.tables.manifest import Manifest
from medtail.zeroshot.embedding import embed_images, embed_texts
from medtail.zeroshot.prompts import load_phrases
from medtail.zeroshot.towers import open_tower


def test_every_phrase_of_a_class_has_a_unit_vector_and_says_whose_it_is(sentence_folder: Path) -> None:
    tower, book = open_tower(str(sentence_folder)), load_phrases("chest_xray")
    texts = embed_texts(tower, book, ["Mass", "nodule"])
    assert texts.class_names == ("Mass", "nodule")
    assert texts.phrases == book.phrases(["Mass", "nodule"])
    np.testing.assert_allclose(np.linalg.norm(texts.values, axis=1), 1, atol=1e-5)
    raw = tower.texts([texts.phrases[7].text])[0]
    np.testing.assert_allclose(texts.values[7], raw / np.linalg.norm(raw), atol=1e-5)
    assert texts.header["tower_digest"] == tower.digest
    assert texts.header["phrases_digest"] == book.digest


def test_image_vectors_follow_the_images_not_their_order(clip_folder: Path, toy_manifest: Manifest) -> None:
    tower = open_tower(str(clip_folder))
    found = embed_images(tower, toy_manifest)
    turned = embed_images(tower, toy_manifest.take(np.arange(len(toy_manifest))[::-1]))
    np.testing.assert_allclose(turned.of(found.image_ids), found.values, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found.values, axis=1), 1, atol=1e-5)
    bright = toy_manifest.targets[:, toy_manifest.labels.index("bright")] == 1
    within = found.values[bright][0] @ found.values[bright][1]
    assert within > found.values[bright][0] @ found.values[~bright][0], "bright images look alike to the tower"


def test_tower_of_texts_alone_cannot_look_at_images(sentence_folder: Path, toy_manifest: Manifest) -> None:
    with pytest.raises(MedtailError, match=r"reads texts only.*head: \{kind: text_query\}"):
        embed_images(open_tower(str(sentence_folder)), toy_manifest)


def test_missing_images_are_named_before_anything_is_looked_at(clip_folder: Path, toy_manifest: Manifest) -> None:
    toy_manifest.image_path(3).unlink()
    with pytest.raises(MedtailError, match=r"row 5, column 'path'"):
        embed_images(open_tower(str(clip_folder)), toy_manifest)
