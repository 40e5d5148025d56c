from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from medtail.errors import MedtailError
from medtail.tables.vectors import (
    ImageVectors,
    Phrase,
    check_same_space,
    read_image_vectors,
    read_text_vectors,
    text_vectors,
)

PHRASES = (
    Phrase("Mass", "prompt", "mass", "a mass"),
    Phrase("Nodule", "prompt", "nodule", "a nodule"),
    Phrase("Mass", "negative", "", "no mass"),
    Phrase("Mass", "prompt", "tumour", "a tumour – größer"),
)
VALUES = np.array([[3.0, 0, 0], [0, 2, 0], [0, 0, 1], [1, 1, 0]])


def images(**header: str) -> ImageVectors:
    ids = np.array(["i1", "i2"], dtype=object)
    return ImageVectors(ids, np.eye(2, 3, dtype=np.float32), header, "images.safetensors")


def test_texts_come_back_as_they_were_written_and_the_bytes_repeat(tmp_path: Path) -> None:
    texts = text_vectors(PHRASES, VALUES, header={"tower": "t"})
    texts.write(tmp_path / "a.safetensors")
    texts.write(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    again = read_text_vectors(tmp_path / "a.safetensors")
    assert again.phrases == PHRASES
    assert again.digest == texts.digest
    assert dict(again.header) == {"tower": "t"}
    np.testing.assert_array_equal(again.values, texts.values)


def test_mean_is_of_unit_vectors_and_of_one_kind() -> None:
    texts = text_vectors(PHRASES, VALUES)
    half = np.sqrt(0.5)
    expected = np.array([1 + half, half, 0]) / np.linalg.norm([1 + half, half, 0])
    np.testing.assert_allclose(texts.means(["Nodule", "Mass"])[1], expected, atol=1e-6)
    np.testing.assert_allclose(texts.means(["Mass"], "negative"), [[0, 0, 1]])


def test_select_keeps_the_phrases_of_a_class_in_the_asked_order() -> None:
    chosen = text_vectors(PHRASES, VALUES).select(["Nodule", "Mass"])
    assert chosen.class_names == ("Nodule", "Mass")
    assert len(chosen.phrases) == 4
    np.testing.assert_allclose(chosen.means(["Mass"]), text_vectors(PHRASES, VALUES).means(["Mass"]))


def test_missing_classes_and_kinds_are_all_named() -> None:
    texts = text_vectors(PHRASES, VALUES)
    with pytest.raises(MedtailError) as caught:
        texts.check(["Nodul", "Nodule"], "negative")
    assert "class 'Nodul': no vectors; did you mean 'Nodule'" in str(caught.value)
    assert "class 'Nodule': no phrase of kind 'negative'" in str(caught.value)


def test_vector_without_direction_is_refused_by_its_text() -> None:
    for bad in (0.0, np.nan, np.inf):
        with pytest.raises(MedtailError, match="'a nodule': its vector has no direction"):
            text_vectors(PHRASES, np.where(np.arange(4)[:, None] == 1, bad, VALUES))


def test_phrases_that_cancel_each_other_are_refused() -> None:
    texts = text_vectors(PHRASES[:1] + PHRASES[3:], np.array([[1.0, 0], [-1.0, 0]]))
    with pytest.raises(MedtailError, match=r"class 'Mass', mean of prompts: its vector has no direction"):
        texts.means(["Mass"])


def test_file_of_another_tool_has_a_tensor_a_class(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"Mass": np.array([0, 2.0]), "Nodule": np.array([[1.0, 0], [1.0, 1.0]])}, path)
    texts = read_text_vectors(path)
    assert texts.class_names == ("Mass", "Nodule")
    np.testing.assert_allclose(texts.means(["Mass"]), [[0, 1]])
    assert len(texts.rows("Nodule")) == 2


def test_unusable_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    save_file({"Mass": np.array([0, 2.0]), "Nodule": np.zeros((1, 2, 3)), "Hernia": np.ones(3)}, path)
    with pytest.raises(MedtailError, match=r"'Nodule': found float64 \[1, 2, 3\](.|\n)*vectors of 2, 3 numbers"):
        read_text_vectors(path)
    path.write_bytes(b"\x80\x04pickle")
    with pytest.raises(MedtailError, match="is not a safetensors file"):
        read_text_vectors(path)
    with pytest.raises(MedtailError, match="no such file"):
        read_text_vectors(tmp_path / "none.safetensors")
    with pytest.raises(MedtailError, match=r"written as \.safetensors"):
        images().write(tmp_path / "a.npy")


def test_images_come_back_and_are_found_by_id(tmp_path: Path) -> None:
    images(tower="t").write(tmp_path / "a.safetensors")
    again = read_image_vectors(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(again.of(["i2", "i1"]), np.eye(2, 3)[[1, 0]])
    with pytest.raises(MedtailError, match=r"no vector for 1 of 2 images: i9"):
        again.of(["i1", "i9"])
    with pytest.raises(MedtailError, match="holds vectors of 'images'; expected vectors of 'texts'"):
        read_text_vectors(tmp_path / "a.safetensors")


def test_images_and_texts_of_two_towers_are_not_compared() -> None:
    texts = text_vectors(PHRASES, VALUES, header={"tower": "t", "tower_digest": "1"})
    check_same_space(images(), texts)
    with pytest.raises(MedtailError, match=r"from the tower 'u'.*from 't' \(digests differ\)"):
        check_same_space(images(tower="u", tower_digest="2"), texts)
    with pytest.raises(MedtailError, match="vectors of length 3, texts of 2"):
        check_same_space(images(), text_vectors(PHRASES, VALUES[:, :2] + 1))


def test_vectors_need_no_torch() -> None:
    script = "import sys, medtail.tables.vectors; from safetensors.numpy import save; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=60).returncode == 0
