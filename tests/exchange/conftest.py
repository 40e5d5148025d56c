"""A de-identified ultrasound image as DICOM, made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

MakeImage = Callable[..., Path]


@pytest.fixture
def ultrasound(tmp_path: Path) -> MakeImage:
    """A function from a file name and header values to a DICOM file of 24 x 32 gray pixels; None removes a value."""

    def make(name: str = "image.dcm", *, frames: int = 1, seed: int = 0, **values: Any) -> Path:
        from pydicom import Dataset, config
        from pydicom.dataset import FileMetaDataset
        from pydicom.uid import ExplicitVRLittleEndian, UltrasoundImageStorage, UltrasoundMultiFrameImageStorage

        kind = UltrasoundMultiFrameImageStorage if frames > 1 else UltrasoundImageStorage
        header = Dataset()
        given = {
            "SOPClassUID": kind, "SOPInstanceUID": f"2.25.{1000 + seed}", "StudyInstanceUID": "2.25.7",
            "SeriesInstanceUID": "2.25.8", "PatientID": "ANON-1", "PatientName": "Anonymous^A", "PatientSex": "F",
            "PatientBirthDate": "", "PatientIdentityRemoved": "YES", "DeidentificationMethod": "for the tests",
            "StudyDate": "20240131", "StudyTime": "101500", "StudyID": "S1", "AccessionNumber": "A1",
            "ReferringPhysicianName": "", "Modality": "US", "Manufacturer": "Maker", "InstanceNumber": 1,
            "SeriesNumber": 1, "PatientOrientation": "", "Laterality": "", "ImageType": ["ORIGINAL", "PRIMARY"],
            "Rows": 24, "Columns": 32, "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2",
            "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0,
        } | values  # fmt: skip
        was, config.settings.writing_validation_mode = config.settings.writing_validation_mode, config.IGNORE
        reading, config.settings.reading_validation_mode = config.settings.reading_validation_mode, config.IGNORE
        try:
            for keyword, value in given.items():
                if value is not None:
                    setattr(header, keyword, value)
            if frames > 1:
                header.NumberOfFrames = frames
            header.add_new(0x00091001, "LO", "SECRET OF THE SCANNER")
            header.add_new(0x00090010, "LO", "MAKER")
            header.PatientComments = "SECRET REMARK"
            header.PixelData = np.random.default_rng(seed).integers(0, 256, frames * 24 * 32, dtype=np.uint8).tobytes()
            header.file_meta = FileMetaDataset()
            header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            header.file_meta.MediaStorageSOPClassUID = given["SOPClassUID"] or kind
            header.file_meta.MediaStorageSOPInstanceUID = given["SOPInstanceUID"] or "2.25.1"
            header.save_as(tmp_path / name, enforce_file_format=True)
        finally:
            config.settings.writing_validation_mode = was
            config.settings.reading_validation_mode = reading
        return tmp_path / name

    return make


def make_run(
    folder: Path, *, seeds: tuple[int, ...] = (0, 1), calibrated: bool = True, tta: str | None = None, **parts: Any
) -> Path:
    """Write a run of small random networks on the classes of the toy table, calibrated by a map of every kind."""
    import torch
    from torch import nn

    from medtail.judging.calibration_maps import AffineMap, IsotonicMap, SoftmaxMap
    from medtail.judging.calibration_record import CalibrationMap
    from medtail.judging.thresholds import ThresholdChoice, ThresholdConfig
    from medtail.models.backbones import ResNetConfig
    from medtail.models.checkpoint import ModelCard, ModelParts, save_model
    from medtail.models.diagnoser import build_diagnoser
    from medtail.models.ensembles import save_ensemble
    from medtail.models.heads import LinearHeadConfig
    from medtail.pixels.settings import PixelConfig
    from medtail.runs import digest_file, read_json
    from medtail.tables.labels import LabelSpace

    labels = LabelSpace.from_columns(["bright", "rare", "shape=irregular", "shape=oval", "shape=round"])
    made = {"backbone": ResNetConfig(), "head": LinearHeadConfig(), "link": "softmax"} | parts
    stored = ModelParts(pixels=PixelConfig(size_px=32), **made)
    thresholds = dict(zip(labels.class_names, (0.3, 0.6, 0.2, 0.2, 0.2), strict=True))
    members = []
    for seed in seeds:
        torch.manual_seed(seed)
        model = build_diagnoser(
            backbone=stored.backbone, head=stored.head, labels=labels, link=stored.link, channels=1, size_px=32,
            band=stored.band,
        )  # fmt: skip
        if model.band is not None:
            model.band.set_sigma(0.1)
        with torch.no_grad():  # statistics of images, and weights that matter: answers that differ between images
            for _ in range(20):
                model.train()(torch.rand(16, 1, 1, 1) * torch.rand(16, 1, 32, 32))
            nn.init.normal_(model.head.linear.weight, std=1.0)
        card = ModelCard(labels=labels, parts=stored, thresholds=thresholds, digests={"manifest": "ab"}, seed=seed)
        save_model(folder / "members" / f"{seed}" / "model", model.eval(), card)
        members.append(folder / "members" / f"{seed}" / "model")
    training = {"test_time_flip": True} if tta is None else {"tta": tta}
    save_ensemble(folder / "model", members, thresholds=thresholds, training=training)
    if calibrated:
        shape = tuple(name for name in labels.class_names if name.startswith("shape"))
        CalibrationMap(
            labels=labels,
            maps=(
                AffineMap(class_name="bright", alpha=0.3, beta=-0.5),
                IsotonicMap(class_name="rare", knots=(0.01, 0.4, 0.99), values=(0.05, 0.1, 0.6)),
                SoftmaxMap(group="shape", classes=shape, alpha=-0.2, bias=(0.4, 0.0, -0.4)),
            ),
            method="auto",
            kappa=10.0,
            rows=digest_file(folder / "model" / "card.json"),
            num_rows=10,
            num_patients=5,
            model=read_json(folder / "model" / "card.json")["weights"],
            thresholds=ThresholdChoice(
                values={**dict.fromkeys(labels.class_names, 0.4), "bright": 0.02}, config=ThresholdConfig(), rows="cd"
            ),
        ).write(folder / "model" / "calibration.json")
    return folder


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two small networks with mirrored scores and a calibration; do not change it."""
    return make_run(tmp_path_factory.mktemp("exported") / "run")


@pytest.fixture(scope="session")
def small_file(small_run: Path) -> Path:
    """The ONNX file of `small_run`, beside its model; do not change it."""
    pytest.importorskip("onnxruntime")
    from medtail.exchange.onnx import export_onnx

    return export_onnx(small_run, small_run / "model.onnx")


@pytest.fixture
def make_small_run() -> Callable[..., Path]:
    """A function that writes runs such as `small_run`, with other parts."""
    return make_run
