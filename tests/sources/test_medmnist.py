from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medtail.errors import MedtailError, UsageError
from medtail.sources.medmnist import import_medmnist, read_medmnist_labels

SIZES = {"train": 5, "val": 2, "test": 3}


def arrays(*, colour: bool = False, labels: int = 1, classes: int = 3) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    made: dict[str, np.ndarray] = {}
    for split, count in SIZES.items():
        shape = (count, 8, 6, 3) if colour else (count, 8, 6)
        made[f"{split}_images"] = random.integers(0, 256, shape).astype(np.uint8)
        highest = 2 if labels > 1 else classes
        made[f"{split}_labels"] = random.integers(0, highest, (count, labels)).astype(np.uint8)
    made["train_labels"][0] = highest - 1
    return made


def archive(folder: Path, **given: np.ndarray) -> Path:
    np.savez_compressed(folder / "data.npz", **given)
    return folder / "data.npz"


@pytest.mark.parametrize("colour", [False, True])
def test_images_are_written_unchanged_with_the_archives_split(tmp_path: Path, colour: bool) -> None:
    given = arrays(colour=colour)
    manifest = import_medmnist(archive(tmp_path, **given), images_out=tmp_path / "out")
    assert manifest.folds.tolist() == ["train"] * 5 + ["tune"] * 2 + ["test"] * 3
    written = [np.asarray(Image.open(path)) for path in manifest.image_paths()]
    expected = np.concatenate([given[f"{split}_images"] for split in SIZES])
    assert np.array_equal(np.stack(written), expected)
    assert manifest.labels.task == "multiclass"
    labels = np.concatenate([given[f"{split}_labels"] for split in SIZES])[:, 0]
    assert np.array_equal(manifest.targets.argmax(axis=1), labels)
    assert not manifest.has_patients
    assert manifest.frame["image_id"].iloc[5] == "val_000000"


def test_several_label_columns_are_free_classes(tmp_path: Path) -> None:
    given = arrays(labels=4)
    manifest = import_medmnist(archive(tmp_path, **given), images_out=tmp_path / "out")
    assert manifest.labels.class_names == ("class_0", "class_1", "class_2", "class_3")
    assert manifest.labels.groups == ()
    assert np.array_equal(manifest.targets[:5], given["train_labels"])


def test_classes_may_be_named_and_the_number_must_fit(tmp_path: Path) -> None:
    path = archive(tmp_path, **arrays())
    with pytest.raises(UsageError, match="class_names: found 2; expected 3"):
        import_medmnist(path, images_out=tmp_path / "out", class_names=["a", "b"])
    manifest = import_medmnist(path, images_out=tmp_path / "out", class_names=["a", "b", "c"])
    assert manifest.labels.class_names == ("class=a", "class=b", "class=c")


def test_folder_that_holds_something_is_refused_and_none_is_asked_for(tmp_path: Path) -> None:
    path = archive(tmp_path, **arrays())
    with pytest.raises(UsageError, match="is not empty; medtail never overwrites"):
        import_medmnist(path, images_out=tmp_path)
    with pytest.raises(UsageError, match="no images_out"):
        import_medmnist(path, images_out=None)
    (tmp_path / "empty").mkdir()
    assert len(import_medmnist(path, images_out=tmp_path / "empty")) == 10


def test_archive_that_ends_early_leaves_no_folder_behind(tmp_path: Path) -> None:
    given = arrays()
    stream = io.BytesIO()
    np.lib.format.write_array(stream, given["test_images"])
    with zipfile.ZipFile(tmp_path / "short.npz", "w") as file:
        for key, values in given.items():
            part = io.BytesIO()
            np.lib.format.write_array(part, values)
            data = part.getvalue()
            file.writestr(f"{key}.npy", data[:-50] if key == "test_images" else data)
    with pytest.raises(MedtailError, match="array 'test_images': ends after 1 of 3 images"):
        import_medmnist(tmp_path / "short.npz", images_out=tmp_path / "out")
    assert [item.name for item in tmp_path.iterdir()] == ["short.npz"]


class Bomb:
    """An object whose unpickling would leave a trace."""

    trace: str = ""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path(Bomb.trace),))


def test_pickled_objects_are_refused_and_never_run(tmp_path: Path) -> None:
    Bomb.trace = str(tmp_path / "trace")
    hostile = np.array([Bomb()] * 5, dtype=object)
    path = archive(tmp_path, **{**arrays(), "train_images": hostile, "val_labels": hostile[:2]})
    with pytest.raises(MedtailError) as caught:
        import_medmnist(path, images_out=tmp_path / "out")
    assert "array 'train_images': found object [5]; expected uint8" in str(caught.value)
    assert "array 'val_labels': found object [2]; expected integers" in str(caught.value)
    assert not (tmp_path / "trace").exists()
    pickle.loads(pickle.dumps(Bomb()))
    assert (tmp_path / "trace").exists()  # the bomb was live


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": np.zeros((5, 8, 8, 8), np.uint8)}, r"Volumes \(MedMNIST 3D\) are not read"),
        ({"train_images": np.zeros((5, 8, 8), np.float32)}, r"found float32 \[5, 8, 8\]; expected uint8"),
        ({"train_images": np.asfortranarray(np.zeros((5, 8, 8), np.uint8))}, "in C order"),
        ({"train_images": np.zeros((4, 8, 8), np.uint8)}, r"split 'train': \(4,\) images but \(5,\) labels"),
        ({"val_labels": np.zeros((2, 1), np.float64)}, "array 'val_labels': found float64"),
        ({"val_labels": np.zeros((2, 2), np.uint8)}, r"the splits have \[1, 2\] label columns"),
        ({"val_labels": np.full((2, 1), -1, np.int64)}, "labels from -1 to 2; expected 0 to 999"),
        ({"val_labels": np.full((2, 1), 10**9, np.int64)}, "expected 0 to 999"),
    ],
)
def test_arrays_of_another_layout_are_refused(tmp_path: Path, changes: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(MedtailError, match=message):
        import_medmnist(archive(tmp_path, **{**arrays(), **changes}), images_out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def claim(shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return stream.getvalue()


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ((10**6, 3, 3), (10**6, 1), "array 'train_labels': ends too early"),
        ((10**9, 9999, 9999), (10**9, 1), r"array 'train_labels': \[1000000000, 1\] is too large for labels"),
        ((3, 9999, 10), (3, 1), r"images of \[9999, 10\]; expected sides of at most 4096"),
        ((10**6, 28, 28), (10**6, 1), r"784,000,000 bytes packed into \d+; expected at most 200 times as many"),
    ],
)
def test_header_claiming_more_than_the_file_holds_is_refused_without_the_memory(
    tmp_path: Path, images: tuple[int, ...], labels: tuple[int, ...], message: str
) -> None:
    with zipfile.ZipFile(tmp_path / "lie.npz", "w") as file:
        for split in SIZES:
            file.writestr(f"{split}_images.npy", claim(images))
            file.writestr(f"{split}_labels.npy", claim(labels))
    with pytest.raises(MedtailError, match=message):
        import_medmnist(tmp_path / "lie.npz", images_out=tmp_path / "out")


def test_images_that_unpack_a_thousandfold_fill_no_disk(tmp_path: Path) -> None:
    """The archive is whole and does what it says: 5,000 black images out of 0.3 MB."""
    black = np.zeros((5000, 112, 112), dtype=np.uint8)
    few = np.zeros((2, 112, 112), dtype=np.uint8)
    given = {"train_images": black, "val_images": few, "test_images": few}
    given |= {f"{split}_labels": np.arange(len(given[f"{split}_images"])).reshape(-1, 1) % 2 for split in SIZES}
    np.savez_compressed(tmp_path / "bomb.npz", **given)
    with pytest.raises(MedtailError, match=r"train_images.*62,720,000 bytes packed into .*A zip bomb\?"):
        import_medmnist(tmp_path / "bomb.npz", images_out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_arrays_and_files_that_are_no_archive_are_explained(tmp_path: Path) -> None:
    given = arrays()
    del given["val_images"], given["test_labels"]
    with pytest.raises(MedtailError, match=r"arrays missing: val_images, test_labels\. Found: test_images"):
        import_medmnist(archive(tmp_path, **given), images_out=tmp_path / "out")
    (tmp_path / "text.npz").write_text("not found")
    with pytest.raises(MedtailError, match=r"text\.npz: damaged or no \.npz file"):
        import_medmnist(tmp_path / "text.npz", images_out=tmp_path / "out")
    with pytest.raises(MedtailError, match="no such file"):
        import_medmnist(tmp_path / "gone.npz", images_out=tmp_path / "out")
    with pytest.raises(MedtailError, match="is a folder"):
        import_medmnist(tmp_path, images_out=tmp_path / "out")


def test_damaged_bytes_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path, **arrays())
    data = bytearray(path.read_bytes())
    data[200:260] = bytes(60)
    path.write_bytes(bytes(data))
    with pytest.raises(MedtailError, match=r"data\.npz"):
        import_medmnist(path, images_out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_labels_alone_are_read_of_volumes_too_and_of_the_splits_asked_for(tmp_path: Path) -> None:
    given = {**arrays(), "train_images": np.zeros((5, 8, 8, 8), np.uint8)}
    path = archive(tmp_path, **given)
    found = read_medmnist_labels(path, splits=["train", "test"])
    assert set(found) == {"train", "test"}
    assert np.array_equal(found["train"], given["train_labels"])


def test_labels_that_cannot_be_read_are_all_listed(tmp_path: Path) -> None:
    hostile = np.array([Bomb()] * 5, dtype=object)
    Bomb.trace = str(tmp_path / "trace")
    given = {**arrays(), "train_labels": hostile, "val_labels": np.zeros((2, 1))}
    del given["test_labels"]
    with pytest.raises(MedtailError) as caught:
        read_medmnist_labels(archive(tmp_path, **given))
    assert "array 'train_labels': found object [5]; expected integers" in str(caught.value)
    assert "array 'val_labels': found float64 [2, 1]; expected integers" in str(caught.value)
    assert "array 'test_labels': missing. Found: test_images" in str(caught.value)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("name", ["gone.npz", "text.npz", "."])
def test_a_file_without_labels_is_explained(tmp_path: Path, name: str) -> None:
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(MedtailError, match=r"no such file|damaged or no \.npz|is a folder"):
        read_medmnist_labels(tmp_path / name)
