from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from medtail.errors import MedtailError
from medtail.pixels.dataset import PixelBatches, to_float
from medtail.pixels.settings import PixelConfig
from medtail.pixels.store import PixelStore, open_store
from medtail.tables.manifest import Manifest


@pytest.fixture
def toy_store(toy_manifest: Manifest, tmp_path: Path) -> PixelStore:
    return open_store(toy_manifest, PixelConfig(size_px=16), cache=tmp_path / "cache")


def test_batches_hold_the_rows_asked_for_in_their_order(toy_manifest: Manifest, toy_store: PixelStore) -> None:
    rows = np.random.default_rng(0).integers(0, 60, 50)
    batches = list(PixelBatches(toy_store, toy_manifest.targets, batch_size=16, rows=rows))
    assert [len(batch["rows"]) for batch in batches] == [16, 16, 16, 2]
    assert np.array_equal(torch.cat([batch["rows"] for batch in batches]).numpy(), rows)
    images = torch.cat([batch["images"] for batch in batches])
    assert images.dtype == torch.uint8
    assert images.shape == (50, 1, 16, 16)
    for image, row in zip(images.numpy(), rows, strict=True):
        assert np.array_equal(image, toy_store.images([row])[0])
    targets = torch.cat([batch["targets"] for batch in batches])
    assert targets.dtype == torch.float32
    assert np.isnan(targets.numpy()).any()
    assert np.array_equal(targets.numpy(), toy_manifest.targets[rows], equal_nan=True)


@pytest.mark.parametrize(("count", "drop_last", "sizes"), [
    (10, False, [4, 4, 2]), (10, True, [4, 4]), (8, True, [4, 4]), (3, True, []), (3, False, [3]), (0, False, []),
])  # fmt: skip
def test_length_is_the_number_of_batches(
    toy_manifest: Manifest, toy_store: PixelStore, count: int, drop_last: bool, sizes: list[int]
) -> None:
    batches = PixelBatches(toy_store, toy_manifest.targets, batch_size=4, rows=np.arange(count), drop_last=drop_last)
    assert len(batches) == len(sizes)
    assert [len(batch["rows"]) for batch in batches] == sizes


def test_rows_come_from_the_epoch_and_are_drawn_once_an_epoch(toy_manifest: Manifest, toy_store: PixelStore) -> None:
    asked: list[int] = []

    def rows(epoch: int) -> np.ndarray:
        asked.append(epoch)
        return np.arange(epoch, epoch + 6)

    batches = PixelBatches(toy_store, toy_manifest.targets, batch_size=4, rows=rows)
    assert len(batches) == 2
    assert [batch["rows"].tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5]]
    iterator = iter(batches)
    batches.set_epoch(3)  # after `iter`, as trainers do
    assert next(iterator)["rows"].tolist() == [3, 4, 5, 6]
    assert asked == [0, 3]


def test_all_rows_in_order_by_default_and_again_the_next_time(toy_manifest: Manifest, toy_store: PixelStore) -> None:
    batches = PixelBatches(toy_store, toy_manifest.targets, batch_size=7)
    for _ in range(2):
        assert torch.cat([batch["rows"] for batch in batches]).tolist() == list(range(60))


def test_leaving_early_ends_the_reading_thread(toy_manifest: Manifest, toy_store: PixelStore) -> None:
    for _ in PixelBatches(toy_store, toy_manifest.targets, batch_size=2):
        break
    deadline = time.monotonic() + 5
    while any(thread.name.startswith("medtail-batches") for thread in threading.enumerate()):
        assert time.monotonic() < deadline, "the reading thread is still there"
        time.sleep(0.01)


def test_an_error_while_reading_reaches_the_one_who_iterates(
    toy_manifest: Manifest, toy_store: PixelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: PixelStore, rows: np.ndarray) -> np.ndarray:
        raise OSError("the disk went away")

    monkeypatch.setattr(PixelStore, "images", fail)
    with pytest.raises(OSError, match="the disk went away"):
        list(PixelBatches(toy_store, toy_manifest.targets, batch_size=8))


def test_what_does_not_fit_is_refused(toy_manifest: Manifest, toy_store: PixelStore) -> None:
    with pytest.raises(MedtailError, match="batch_size: found 0; expected at least 1"):
        PixelBatches(toy_store, toy_manifest.targets, batch_size=0)
    with pytest.raises(MedtailError, match="targets: found 59 rows; expected 60"):
        PixelBatches(toy_store, toy_manifest.targets[:59], batch_size=4)
    with pytest.raises(MedtailError, match="rows of epoch 0: found -1 to 3; expected 0 to 59"):
        len(PixelBatches(toy_store, toy_manifest.targets, batch_size=4, rows=[3, -1]))


def test_bytes_become_floats_from_0_to_1() -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    result = to_float(images)
    assert result.dtype == torch.float32
    assert result.flatten()[[0, 255]].tolist() == [0.0, 1.0]
    assert torch.equal(torch.round(result * 255).to(torch.uint8), images)


@pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec:FutureWarning")
def test_lightning_trains_from_the_batches(toy_manifest: Manifest, toy_store: PixelStore, tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning")

    class Counting(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(256, 1)
            self.seen: list[int] = []

        def training_step(self, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
            self.seen += batch["rows"].tolist()
            return self.layer(to_float(batch["images"]).flatten(1)).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    module = Counting()
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, PixelBatches(toy_store, toy_manifest.targets, batch_size=16))
    assert module.seen == [*range(60), *range(60)]
