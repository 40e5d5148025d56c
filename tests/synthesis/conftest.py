"""A few phantoms and a generator trained on them for a moment: enough for every mechanism, none of the beauty."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from medtail.sources.phantom_breast import CLASS_NAMES, render_breast
from medtail.synthesis.config import SynthesisConfig, synthesis_config
from medtail.synthesis.fit import train_generator
from medtail.synthesis.folder import Generator, load_generator
from medtail.synthesis.sketch import sketch_images

TRAIN = (8, 5, 4, 3, 2, 1)
QUICK = {
    "size": "tiny",
    "threads": 1,
    "accelerator": "cpu",
    "autoencoder": {"steps": 6, "batch_size": 4},
    "denoiser": {"steps": 6, "batch_size": 4},
    "save_every": 2,
}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Two threads on a busy machine wait for each other far longer than they work."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 23 train, 6 tune and 6 test phantoms of six exclusive classes, the rarest with one train image."""
    folder = tmp_path_factory.mktemp("phantoms")
    (folder / "images").mkdir()
    rows = []
    for which, count in enumerate(TRAIN):
        for number in range(count + 2):
            fold = "train" if number < count else ("tune", "test")[number - count]
            name = f"{fold}_{which}_{number}"
            pixels = render_breast(
                which, number=number + 1000 * ("train", "tune", "test").index(fold), size_px=32
            ).pixels
            Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
            row = {"image_id": name, "path": f"images/{name}.png", "patient_id": f"p_{name}", "fold": fold}
            rows.append(row | {c: int(c == CLASS_NAMES[which]) for c in CLASS_NAMES})
    path = folder / "manifest.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


@pytest.fixture(scope="session")
def quick_config(phantoms: Path) -> Callable[..., SynthesisConfig]:
    """Return a config of six steps a stage, with some keys replaced."""

    def build(**changes: object) -> SynthesisConfig:
        return synthesis_config({"manifest": str(phantoms), **QUICK, **changes})

    return build


@pytest.fixture(scope="session")
def generator_folder(quick_config: Callable[..., SynthesisConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator's folder with both branches."""
    return train_generator(quick_config(), tmp_path_factory.mktemp("generator") / "gen").folder


@pytest.fixture(scope="session")
def generator(generator_folder: Path) -> Generator:
    """The same, loaded; its new input channels are no longer zero, so that a sketch changes what is drawn."""
    loaded = load_generator(generator_folder)
    weight = loaded.denoiser.unet.conv_in.weight
    random = np.random.default_rng(0).standard_normal(tuple(weight[:, 4:].shape)).astype(np.float32)
    with torch.no_grad():
        weight[:, 4:] = torch.from_numpy(0.3 * random)
    return loaded


POOL_TRAIN, POOL_TUNE, POOL_MADE = (14, 9, 6), 6, 8
POOL_CLASSES = CLASS_NAMES[:3]


def write_small_pool(folder: Path, *, copies: bool = False) -> Path:
    """Write a pool of three classes at 32 pixels: 29 train, 18 tune and 3 test images, and 24 generated ones.

    Generated images are fresh phantoms, or near-copies of train images; those of the second class come with the sketch
    of a train image they were asked for, drawn from that very image.
    """
    random = np.random.default_rng(0)
    for name in ("images", "sketches", "strips", "real"):
        (folder / name).mkdir(parents=True)
    rows = []
    train: dict[int, list[tuple[str, np.ndarray]]] = {}
    for which in range(3):
        for fold, count in (("train", POOL_TRAIN[which]), ("tune", POOL_TUNE), ("test", 1)):
            for number in range(count):
                name = f"{fold}_{which}_{number}"
                start = 1000 * ("train", "tune", "test").index(fold)
                pixels = render_breast(which, number=start + number, size_px=32).pixels
                Image.fromarray(pixels).save(folder / "real" / f"{name}.png")
                row = {"image_id": name, "path": f"real/{name}.png", "patient_id": f"p_{name}", "fold": fold}
                rows.append(row | {c: float(c == POOL_CLASSES[which]) for c in POOL_CLASSES})
                if fold == "train":
                    train.setdefault(which, []).append((name, pixels))
        for number in range(POOL_MADE):
            name = f"syn_{which}_{number}"
            source, seen = train[which][number % len(train[which])]
            if copies:
                pixels = np.clip(seen + random.normal(0, 4, seen.shape), 0, 255).astype(np.uint8)
            else:
                drawn = number % POOL_TRAIN[which] if which == 1 else 5000 + number
                pixels = render_breast(which, number=drawn, speckle=int(which == 1), size_px=32).pixels
            Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
            row = {"image_id": name, "path": f"images/{name}.png", "patient_id": f"syn:0123456789ab:{len(rows)}"}
            row |= {"fold": "train", "origin": "synthetic", "meta_class": POOL_CLASSES[which], "meta_w_s": "1.5"}
            if which == 1:
                sketch = sketch_images(seen[None].astype(np.float32) / 255).maps[0]
                Image.fromarray(np.rint(sketch * 255).astype(np.uint8)).save(folder / "sketches" / f"{name}.png")
                row["meta_sketch_source"] = source
            rows.append(row | {c: float(c == POOL_CLASSES[which]) for c in POOL_CLASSES})
    Image.fromarray(random.integers(0, 255, (32, 160)).astype(np.uint8)).save(folder / "strips" / "00_a.png")
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    patients = [row["patient_id"] for row in rows if str(row["image_id"]).startswith("train_")]
    digest = "0123456789ab" + "0" * 52
    record = {"generator_digest": digest, "train_patients": patients, "strips": {POOL_CLASSES[0]: "strips/00_a.png"}}
    (folder / "record.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="session")
def honest_pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool of fresh phantoms; never to be written to."""
    return write_small_pool(tmp_path_factory.mktemp("honest") / "pool")


@pytest.fixture(scope="session")
def copied_pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool of near-copies of train images; never to be written to."""
    return write_small_pool(tmp_path_factory.mktemp("copied") / "pool", copies=True)


@pytest.fixture
def own_pool(honest_pool: Path, tmp_path: Path) -> Path:
    """A copy of `honest_pool` that a test may write to."""
    return Path(shutil.copytree(honest_pool, tmp_path / "pool"))


@pytest.fixture(scope="session")
def judge_table(honest_pool: Path) -> Path:
    """Scores of a judge who is right of two classes and blind to the third."""
    frame = pd.read_csv(honest_pool / "manifest.csv")
    frame = frame[frame["fold"] != "test"]
    truth = frame[list(POOL_CLASSES)].to_numpy()
    scores = 0.1 + 0.7 * truth
    third = truth[:, 2] == 1
    scores[third] = [0.8, 0.15, 0.05]
    path = honest_pool.parent / "judge.csv"
    pd.DataFrame({"image_id": frame["image_id"], **dict(zip(POOL_CLASSES, scores.T, strict=True))}).to_csv(
        path, index=False
    )
    return path
