"""Small untrained runs to serve, files to send, and a client that calls the server by a name it answers to."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from medtail.judging.calibrating import calibrate_run
from medtail.lexicons.descriptors import EXCLUSIVE, LABELS
from medtail.models.backbones import ResNetConfig
from medtail.models.checkpoint import ModelCard, ModelParts, save_model
from medtail.models.diagnoser import build_diagnoser
from medtail.models.ensembles import save_ensemble
from medtail.models.heads import LinearHeadConfig
from medtail.pixels.settings import PixelConfig
from medtail.serving.app import Service, build_app
from medtail.serving.diagnosis import Diagnosis
from medtail.serving.journal import Journal
from medtail.serving.settings import ServeSettings
from medtail.serving.similar import SimilarCases
from medtail.tables.labels import ExclusiveGroup, LabelSpace
from medtail.tables.manifest import Manifest, manifest_from_frame
from medtail.tables.tail import ClassCounts
from medtail.training.predict import predict

CLASSES = ("bright", "rare", "shape=irregular", "shape=oval", "shape=round")
THYROID = LabelSpace(
    tuple(name for group in LABELS for name in LABELS[group]),
    tuple(ExclusiveGroup(group, tuple(LABELS[group])) for group in EXCLUSIVE),
)

MakeClient = Callable[..., TestClient]


def save_network(folder: Path, *, labels: LabelSpace, pixels: PixelConfig, seed: int, flip: bool = False) -> Path:
    """Write the model folder of an untrained network whose answers differ between images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = ModelParts(pixels=pixels, backbone=ResNetConfig(), head=LinearHeadConfig(), link="softmax")
        diagnoser = build_diagnoser(
            backbone=parts.backbone, head=parts.head, labels=labels, link="softmax", channels=pixels.channels,
            size_px=pixels.size_px,
        )  # fmt: skip
        for name, weight in diagnoser.head.named_parameters():
            if name.endswith("weight"):
                torch.nn.init.normal_(weight, std=0.7)
    patients = tuple(max(1, 300 // 4**place) for place in range(labels.num_classes))
    card = ModelCard(
        labels=labels,
        parts=parts,
        thresholds={"bright": 0.4, "rare": 0.2} if "rare" in labels.class_names else None,
        train_counts=ClassCounts(labels.class_names, patients, patients, (400,) * labels.num_classes),
        training={"test_time_flip": flip},
    )
    save_model(folder, diagnoser, card)
    return folder


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one network of five classes, an exclusive group of three among them; 32 px, gray."""
    folder = tmp_path_factory.mktemp("runs") / "toy_run"
    folder.mkdir()
    save_network(folder / "model", labels=LabelSpace.from_columns(CLASSES), pixels=PixelConfig(size_px=32), seed=1)
    return folder


@pytest.fixture(scope="session")
def thyroid_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the twenty thyroid descriptors."""
    folder = tmp_path_factory.mktemp("runs") / "thyroid"
    folder.mkdir()
    save_network(folder / "model", labels=THYROID, pixels=PixelConfig(size_px=32), seed=2)
    return folder


@pytest.fixture(scope="session")
def roi_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that reads regions of interest only, in colour."""
    folder = tmp_path_factory.mktemp("runs") / "regions"
    folder.mkdir()
    pixels = PixelConfig(size_px=32, channels=3, crop="roi")
    save_network(folder / "model", labels=LabelSpace.from_columns(CLASSES), pixels=pixels, seed=3)
    return folder


@pytest.fixture
def calibrated_ensemble(tmp_path: Path, toy_manifest: Manifest) -> Path:
    """A calibrated run of two networks whose scores are averaged with those of the mirror image."""
    folder = tmp_path / "ensemble"
    folder.mkdir()
    labels = toy_manifest.labels
    sources = [
        save_network(tmp_path / f"source_{seed}", labels=labels, pixels=PixelConfig(size_px=32), seed=seed)
        for seed in (4, 5)
    ]
    save_ensemble(folder / "model", sources, thresholds=None, training={"test_time_flip": True})
    predict(folder, toy_manifest, fold="tune", quiet=True).write(folder / "predictions_tune.parquet")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # six images are few to fit anything on, which it says
        calibrate_run(folder, resamples=20)
    return folder


@pytest.fixture(scope="session")
def diagnosis(run: Path) -> Diagnosis:
    """The toy run, loaded."""
    return Diagnosis(run)


def picture_bytes(kind: str = "PNG", *, size: tuple[int, int] = (48, 40), colour: bool = False, seed: int = 0) -> bytes:
    """The bytes of an image file of random pixels."""
    shape = (size[1], size[0], 3) if colour else (size[1], size[0])
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format=kind)
    return stream.getvalue()


def dicom_bytes(*, frames: int = 1, preamble: bool = True) -> bytes:
    """The bytes of a 12-bit DICOM file with a window, and with names in its header."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.filewriter import dcmwrite
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, SecondaryCaptureImageStorage

    header = Dataset()
    header.SOPClassUID, header.SOPInstanceUID = SecondaryCaptureImageStorage, "2.25.77"
    header.PatientName, header.PatientID = "Sorrow^Jane", "SECRET-ID"
    header.Rows, header.Columns, header.SamplesPerPixel = 30, 44, 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 12, 11, 0
    header.WindowCenter, header.WindowWidth = 1800, 3000
    if frames > 1:
        header.NumberOfFrames = frames
    values = np.random.default_rng(5).integers(0, 4096, (frames, 30, 44), dtype=np.uint16)
    header.PixelData = values.tobytes()
    stream = io.BytesIO()
    if preamble:
        header.file_meta = FileMetaDataset()
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        header.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
        header.file_meta.MediaStorageSOPInstanceUID = "2.25.77"
        dcmwrite(stream, header, enforce_file_format=True)
    else:
        header["PixelData"].VR = "OW"
        dcmwrite(stream, header, implicit_vr=True, little_endian=True, enforce_file_format=False)
        assert ImplicitVRLittleEndian.is_implicit_VR
    return stream.getvalue()


def manifest_of(folder: Path, content: bytes, *, name: str = "a.png", roi: tuple[int, ...] | None = None) -> Manifest:
    """A manifest of one file with these bytes and the toy classes."""
    (folder / name).write_bytes(content)
    row = {"image_id": ["a"], "path": [name], "patient_id": ["p"], **{label: [0] for label in CLASSES}}
    if roi is not None:
        row |= {f"roi_{side}": [value] for side, value in zip("xywh", roi, strict=True)}
    return manifest_from_frame(pd.DataFrame(row), root=folder)


@pytest.fixture
def log() -> io.StringIO:
    """What the server of the test logs."""
    return io.StringIO()


@pytest.fixture
def make_client(diagnosis: Diagnosis, log: io.StringIO) -> Iterator[MakeClient]:
    """A maker of clients of a server on the toy run; settings lie over the defaults."""
    services: list[Service] = []

    def make(model: Diagnosis | None = None, cases: SimilarCases | None = None, **settings: object) -> TestClient:
        given = {"decoders": 1, "rate": None, "timeout_s": 60.0, **settings}
        service = Service(model or diagnosis, ServeSettings(**given), cases=cases, journal=Journal(log))  # type: ignore[arg-type]
        services.append(service)
        client = TestClient(
            build_app(service), base_url="http://127.0.0.1:8000", headers={"X-Medtail": "test"},
            raise_server_exceptions=False,
        )  # fmt: skip
        client.service = service  # type: ignore[attr-defined]  # for tests that look inside
        return client

    yield make
    for service in services:
        service.close()


@pytest.fixture(scope="session")
def picture() -> Callable[..., bytes]:
    """See `picture_bytes`."""
    return picture_bytes


@pytest.fixture(scope="session")
def dicom() -> Callable[..., bytes]:
    """See `dicom_bytes`."""
    return dicom_bytes


@pytest.fixture
def manifest_for(tmp_path: Path) -> Callable[..., Manifest]:
    """See `manifest_of`."""
    return lambda content, **options: manifest_of(tmp_path, content, **options)
