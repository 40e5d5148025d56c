"""Make the reduced copy of BrEaST-Lesions-USG that the package carries for `medtail quickstart`.

    python tools/embed_breast_usg.py ../shared/data/breast_usg src/medtail/quickstart_data

Reads the 256 px development copy (CC BY 4.0), re-encodes the images at most `LONGEST_PX` long as grey JPEG, scales
the lesion boxes with them and keeps the label columns the importer needs. Masks stay out. Total at most 4 MB.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from PIL import Image

LONGEST_PX = 256
QUALITY = 80
LEFT_OUT = ["mask", "signs", "symptoms", "interpretation"]


def main() -> None:
    """Write images, labels.csv and print the size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    table = pd.read_csv(options.source / "labels.csv", dtype=str, keep_default_na=False)
    (options.out / "images").mkdir(parents=True, exist_ok=True)
    for row, name in enumerate(table["image"]):
        with Image.open(options.source / "images" / name) as opened:
            image = opened.convert("L")
        scale = min(1.0, LONGEST_PX / max(image.size))
        if scale < 1:
            image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
        image.save(options.out / "images" / name, quality=QUALITY, optimize=True)
        table.loc[row, ["width", "height"]] = [str(image.width), str(image.height)]
        for column in ("bbox_x", "bbox_y", "bbox_w", "bbox_h"):
            if table.loc[row, column]:
                table.loc[row, column] = str(round(float(str(table.loc[row, column])) * scale))
    table.drop(columns=LEFT_OUT).to_csv(options.out / "labels.csv", index=False, lineterminator="\n")
    total = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    print(f"{len(table)} images, {total / 1e6:.2f} MB")  # noqa: T201


if __name__ == "__main__":
    main()
