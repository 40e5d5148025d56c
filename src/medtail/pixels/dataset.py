"""Batches from a store: rows in, bytes and targets out, read ahead by a thread.

Bytes travel as bytes and become floats on the device (`to_float`), a quarter of the traffic. Which rows an epoch
holds is a sampler's business and comes from outside.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypedDict, final

import numpy as np
import torch
from torch import Tensor

from medtail.errors import MedtailError
from medtail.pixels.store import PixelStore

PREFETCH = 2
"""Batches read ahead."""

RowsOfEpoch = Callable[[int], np.ndarray]


class Batch(TypedDict):
    """What a training or prediction step gets.

    `images` are bytes [B, channels, size, size], `targets` float32 [B, classes] with NaN where not assessed, `rows`
    int64 [B], the rows of the manifest, `streams` int64 [B], which stream of the sampler drew them, `content` int64
    [B, 4], the part of each square that is image and not bar: left, top, right, bottom.
    """

    images: Tensor
    targets: Tensor
    rows: Tensor
    streams: Tensor
    content: Tensor


@final
class PixelBatches:
    """Iterate over the batches of an epoch; usable wherever a PyTorch data loader is.

    A thread reads the next batches while the model works on this one. The epoch counts from when the first batch is
    asked for, so `set_epoch` may come after `iter`.

    Args:
        store: The pixels.
        targets: Labels of every row of the store, float32 [rows, classes] with NaN: `Manifest.targets`.
        batch_size: Images a batch, at least 1.
        rows: Row indices in the order to go through, the same every epoch (all rows in order if None); or a function
            from the epoch's number to them, called once an epoch.
        streams: From the epoch's number to the stream of each of its rows, int64; 0 everywhere if None.
        drop_last: Leave out a last batch that is short.

    Raises:
        MedtailError: Sizes do not match, or a row is outside the store.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import pandas as pd
        >>> from PIL import Image
        >>> from medtail.pixels.settings import PixelConfig
        >>> from medtail.pixels.store import open_store
        >>> from medtail.tables.manifest import manifest_from_frame
        >>> folder = Path(tempfile.mkdtemp())
        >>> Image.fromarray(np.full((8, 8), 255, np.uint8)).save(folder / "a.png")
        >>> frame = pd.DataFrame({"image_id": ["a"], "path": ["a.png"], "patient_id": ["1"], "Hernia": [1]})
        >>> manifest = manifest_from_frame(frame, root=folder)
        >>> store = open_store(manifest, PixelConfig(size_px=8), cache=folder / "cache")
        >>> for batch in PixelBatches(store, manifest.targets, batch_size=32, rows=[0, 0, 0]):
        ...     print(to_float(batch["images"]).mean().item(), batch["targets"].shape, batch["rows"].tolist())
        1.0 torch.Size([3, 1]) [0, 0, 0]
    """

    def __init__(
        self,
        store: PixelStore,
        targets: np.ndarray,
        *,
        batch_size: int,
        rows: Sequence[int] | np.ndarray | RowsOfEpoch | None = None,
        streams: RowsOfEpoch | None = None,
        drop_last: bool = False,
    ) -> None:
        if batch_size < 1:
            raise MedtailError(f"batch_size: found {batch_size!r}; expected at least 1.")
        if len(targets) != len(store):
            raise MedtailError(f"targets: found {len(targets)} rows; expected {len(store)}, one an image of the store.")
        self.store = store
        self.targets = np.asarray(targets, dtype=np.float32)
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.epoch = 0
        if rows is None:
            rows = np.arange(len(store))
        self._rows_of_epoch: RowsOfEpoch = rows if callable(rows) else _always(np.asarray(rows))
        self._streams_of_epoch = streams
        self._drawn: tuple[int, np.ndarray] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose rows the next iteration goes through."""
        self.epoch = int(epoch)

    @property
    def rows(self) -> np.ndarray:
        """Row indices of the current epoch, int64, in order; drawn when first asked for.

        Raises:
            MedtailError: A row is outside the store.
        """
        if self._drawn is None or self._drawn[0] != self.epoch:
            rows = np.asarray(self._rows_of_epoch(self.epoch), dtype=np.int64)
            if len(rows) and (rows.min() < 0 or rows.max() >= len(self.store)):
                found = f"found {rows.min()} to {rows.max()}"
                raise MedtailError(f"rows of epoch {self.epoch}: {found}; expected 0 to {len(self.store) - 1}.")
            self._drawn = (self.epoch, rows)
        return self._drawn[1]

    def __len__(self) -> int:
        count = len(self.rows)
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        rows = self.rows
        streams = np.zeros_like(rows) if self._streams_of_epoch is None else self._streams_of_epoch(self.epoch)
        assert len(streams) == len(rows), f"{len(streams)} streams of {len(rows)} rows"
        pending: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="medtail-batches") as reader:
            for number in range(len(self)):
                part = slice(number * self.batch_size, (number + 1) * self.batch_size)
                pending.append(reader.submit(self._read, rows[part], streams[part]))
                if len(pending) > PREFETCH:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

    def _read(self, rows: np.ndarray, streams: np.ndarray) -> Batch:
        return {
            "images": torch.from_numpy(self.store.images(rows)),
            "targets": torch.from_numpy(self.targets[rows]),
            "rows": torch.from_numpy(rows.copy()),
            "streams": torch.from_numpy(streams.astype(np.int64)),
            "content": torch.from_numpy(self.store.content_boxes[rows].astype(np.int64)),
        }


def _always(rows: np.ndarray) -> RowsOfEpoch:
    return lambda epoch: rows


def to_float(images: Tensor) -> Tensor:
    """Turn bytes into float32 in [0, 1], on the tensor's device.

    Args:
        images: uint8 of any shape.

    Returns:
        float32 of the same shape; 0 is 0.0 and 255 is 1.0 exactly.

    Example:
        >>> to_float(torch.tensor([0, 255], dtype=torch.uint8))
        tensor([0., 1.])
    """
    assert images.dtype == torch.uint8, f"expected bytes, found {images.dtype}"
    return images.to(torch.float32).div_(255)


def content_masks(boxes: Tensor, *, size_px: int) -> Tensor:
    """Turn content boxes into masks, on the boxes' device.

    Args:
        boxes: Integers [n, 4]: left, top, right, bottom of the content in each square.
        size_px: Side of the squares.

    Returns:
        Booleans [n, 1, size, size], True where there is image and not bar.

    Example:
        >>> content_masks(torch.tensor([[0, 1, 4, 3]]), size_px=4)[0, 0].sum(dim=1)
        tensor([0, 4, 4, 0])
    """
    place = torch.arange(size_px, device=boxes.device)
    across = (place >= boxes[:, :1]) & (place < boxes[:, 2:3])
    down = (place >= boxes[:, 1:2]) & (place < boxes[:, 3:4])
    return (down[:, :, None] & across[:, None, :])[:, None]
