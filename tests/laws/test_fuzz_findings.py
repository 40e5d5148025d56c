"""What `tools/fuzz.py` found, one case a finding: each once broke a reader, and is now refused with its reason."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medtail.errors import MedtailError
from medtail.judging.ensemble_record import read_ensemble
from medtail.sampling.policy_network import PolicyNetwork
from medtail.sampling.replay import Schedule, read_schedule
from medtail.sources.medmnist import import_medmnist, read_medmnist_labels


def test_weights_of_an_ensemble_without_their_method(tmp_path: Path) -> None:
    record = {"kind": "ensemble weights", "members": ["a"], "models": ["m"], "classes": ["x"], "how": "mean",
              "weights": [[1.0]], "evidence": {}}  # fmt: skip
    (tmp_path / "e.json").write_text(json.dumps(record))
    with pytest.raises(MedtailError, match="holds no weights of an ensemble"):
        read_ensemble(tmp_path / "e.json")


@pytest.mark.parametrize("value", [3, [], "x", None])
def test_a_policy_whose_weights_are_no_mapping(value: Any, tmp_path: Path) -> None:
    network = PolicyNetwork(["a"], [0.0, 1.0], seed=0)
    Schedule(("a",), np.array([[0.0], [1.0]]), network, {}).write(tmp_path / "s.json")
    record = json.loads((tmp_path / "s.json").read_text())
    record["network"]["weights"] = value
    (tmp_path / "s.json").write_text(json.dumps(record))
    with pytest.raises(MedtailError, match="is not readable"):
        read_schedule(tmp_path / "s.json")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("train_counts", 3, "train_counts: found int"),
        ("versions", [], "versions: found list"),
        ("digests", "x", "digests: found str"),
        ("digests", None, "digests: found NoneType"),
        ("seed", "x", "seed: found str"),
        ("seed", True, "seed: found bool"),
        ("thresholds", {"halo": "x"}, r"thresholds, 'halo': found 'x'; expected a number"),
        ("training", 1, "training: found int"),
    ],
)
def test_a_model_card_with_values_of_another_kind(key: str, value: Any, said: str, tmp_path: Path) -> None:
    from medtail.models.checkpoint import read_card

    card = {"format": "medtail-model/1", "labels": {}, "parts": {}, "digests": {}, "seed": 1, key: value}
    (tmp_path / "card.json").write_text(json.dumps(card))
    with pytest.raises(MedtailError, match=said):
        read_card(tmp_path)


def archive(header: bytes) -> bytes:
    """A MedMNIST archive whose arrays have one header line."""
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for split in ("train", "val", "test"):
            file.writestr(f"{split}_images.npy", array)
            file.writestr(f"{split}_labels.npy", array)
    return stream.getvalue()


@pytest.mark.parametrize("header", [b"{'descr': '|u1', 'shape': (" * 3, b"(" * 300, b"{'x\n", b"\xff\n", b"[]\n"])
def test_an_array_whose_header_is_no_python(header: bytes, tmp_path: Path) -> None:
    (tmp_path / "d.npz").write_bytes(archive(header))
    for read in (lambda path: import_medmnist(path, images_out=tmp_path / "out"), read_medmnist_labels):
        with pytest.raises(MedtailError, match="no NumPy array"):
            read(tmp_path / "d.npz")


def test_arrays_of_no_rows(tmp_path: Path) -> None:
    (tmp_path / "d.npz").write_bytes(archive(b"{'descr': '|u1', 'fortran_order': False, 'shape': (0,), }\n"))
    found = read_medmnist_labels(tmp_path / "d.npz")
    assert {split: values.shape for split, values in found.items()} == {"train": (0, 1), "val": (0, 1), "test": (0, 1)}


@pytest.mark.parametrize("claimed", [1000, 2**31, 2**32 - 2])
def test_an_archive_whose_members_lie_where_nothing_is(claimed: int, tmp_path: Path) -> None:
    content = bytearray(archive(b"{'descr': '|u1', 'fortran_order': False, 'shape': (0,), }\n"))
    at = 0
    while (at := content.find(b"PK\x01\x02", at)) >= 0:
        struct.pack_into("<I", content, at + 42, claimed)
        at += 1
    (tmp_path / "d.npz").write_bytes(bytes(content))
    with pytest.raises(MedtailError, match=r"d\.npz: damaged or no \.npz file"):
        read_medmnist_labels(tmp_path / "d.npz")


def test_an_archive_whose_directory_lies_elsewhere(tmp_path: Path) -> None:
    """The offset of the directory is behind the directory: members then lie before the start of the file."""
    content = bytearray(archive(b"{'descr': '|u1', 'fortran_order': False, 'shape': (0,), }\n"))
    end = content.rindex(b"PK\x05\x06")
    struct.pack_into("<I", content, end + 16, struct.unpack_from("<I", content, end + 16)[0] + 40)
    (tmp_path / "d.npz").write_bytes(bytes(content))
    with pytest.raises(MedtailError, match=r"d\.npz: damaged or no \.npz file"):
        read_medmnist_labels(tmp_path / "d.npz")
