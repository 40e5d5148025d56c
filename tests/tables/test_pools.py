"""A pool fills classes up to balance and joins the table it was made for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from medtail.errors import MedtailError
from medtail.tables.manifest import Manifest, manifest_from_frame, read_manifest
from medtail.tables.pools import fill_counts, synthetic_patient, with_pool, write_pool_tables


def real_table(root: Path, counts: tuple[int, ...] = (8, 3, 1)) -> Manifest:
    rows: list[dict[str, Any]] = []
    for c, count in enumerate(counts):
        for _ in range(count):
            n = len(rows)
            rows.append({"image_id": f"r{n}", "path": f"images/{n}.png", "patient_id": f"p{n}", "fold": "train",
                         "mask_path": f"masks/{n}.png", "age": 40.0 + n,
                         **{f"type={k}": float(k == c) for k in range(len(counts))}})  # fmt: skip
    rows.append({**rows[0], "image_id": "held", "patient_id": "held", "fold": "test"})
    return manifest_from_frame(pd.DataFrame(rows), name="real.csv", root=root)


def pool_rows(number: int = 2, asked: str = "type=2") -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"image_id": f"g{n}", "path": f"images/{n}.png", "patient_id": synthetic_patient("ab" * 20, n),
             "meta_class": asked, "meta_mode": "M0", "type=0": 0.0, "type=1": 0.0, "type=2": 1.0} for n in range(number)
        ]
    )  # fmt: skip


def test_the_phantoms_pool_has_the_size_of_the_specification() -> None:
    counts = [400, 160, 80, 40, 20, 10]
    labels = {f"t={c}": [float(k == c) for k, n in enumerate(counts) for _ in range(n)] for c in range(6)}
    frame = pd.DataFrame({"image_id": range(710), "path": "x", "patient_id": range(710), "fold": "train"})
    wanted = fill_counts(manifest_from_frame(frame.assign(**labels)))
    assert list(wanted.values()) == [100, 240, 320, 360, 380, 390]
    assert sum(wanted.values()) == 1790


def test_the_cap_holds_down_the_rarest_and_the_floor_keeps_the_commonest(tmp_path: Path) -> None:
    table = real_table(tmp_path)
    assert list(fill_counts(table).values()) == [2, 5, 7]
    assert list(fill_counts(table, floor=0.0).values()) == [0, 5, 7]
    assert list(fill_counts(table, cap=2.0).values()) == [2, 5, 2]


def test_only_real_train_rows_are_counted(tmp_path: Path) -> None:
    table = real_table(tmp_path)
    joined = with_pool(table, pool_rows(5), root=tmp_path / "pool")
    assert fill_counts(joined) == fill_counts(table)


def test_the_joined_table_reads_back_and_finds_the_real_images(tmp_path: Path) -> None:
    table = real_table(tmp_path / "data")
    written = write_pool_tables(
        tmp_path / "pool", table, pool_rows(), record={"generator_digest": "a", "train_patients": []}
    )
    found = read_manifest(tmp_path / "pool" / "manifest.csv")
    assert found.digest == written.digest
    assert found.image_path(0).resolve() == (tmp_path / "data" / "images" / "0.png").resolve()
    assert found.frame["mask_path"].iloc[0] == "../data/masks/0.png"
    assert found.image_path(len(found) - 1) == tmp_path / "pool" / "images" / "1.png"
    last = found.frame.iloc[-1]
    assert (last["origin"], last["fold"], last["mask_path"], last["meta_class"]) == ("synthetic", "train", "", "type=2")
    assert pd.isna(last["age"])
    assert (found.frame["meta_class"].iloc[: len(table)] == "").all()
    assert len(read_manifest(tmp_path / "pool" / "pool.csv")) == 2


def test_a_pool_of_another_label_space_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MedtailError, match=r"its classes are not the table's \(type=2, type=9 in one only"):
        with_pool(real_table(tmp_path), pool_rows().rename(columns={"type=2": "type=9"}), root=tmp_path)


def test_a_row_that_asks_for_no_class_is_refused(tmp_path: Path) -> None:
    for rows in (pool_rows(asked=""), pool_rows().drop(columns="meta_class")):
        with pytest.raises(MedtailError, match="column 'meta_class': expected a class of the table"):
            with_pool(real_table(tmp_path), rows, root=tmp_path)


def test_ids_of_the_pool_are_its_own(tmp_path: Path) -> None:
    with pytest.raises(MedtailError, match="r0"):
        with_pool(real_table(tmp_path), pool_rows(1).assign(image_id="r0"), root=tmp_path)
