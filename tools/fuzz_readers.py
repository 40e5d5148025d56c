"""What `fuzz.py` can damage: each reader of medtail with small valid files of its own.

A reader is two functions: one writes valid files into a folder, the other reads them as a verb would. Whatever is then
done to the files, the second must answer with success or a MedtailError. Where a table was accepted, it must come back
from a file unchanged. Imports stand inside the functions, so that atheris can instrument what a reader loads.
"""

from __future__ import annotations

import gzip
import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image


@dataclass(frozen=True)
class Reader:
    """A reader under test.

    Attributes:
        make: Writes valid files into an empty folder.
        read: Reads them; what it writes goes into the folder's sub-folder `out`.
        damage: Which files are damaged: a regular expression on the path below the folder.
    """

    make: Callable[[Path], None]
    read: Callable[[Path], object]
    damage: str = r".*"


def _labels(count: int = 8) -> pd.DataFrame:
    random = np.random.default_rng(0)
    shape = random.integers(0, 3, count)
    return pd.DataFrame(
        {
            "image_id": [f"i{row}" for row in range(count)],
            "path": [f"images/{row}.png" for row in range(count)],
            "patient_id": [f"p{row // 2}" for row in range(count)],
            "fold": [("train", "train", "tune", "test")[row // 2 % 4] for row in range(count)],
            "age": random.integers(20, 80, count),
            "roi_x": 1, "roi_y": 1, "roi_w": 5, "roi_h": 5,
            "halo": [1, 0, "", 1, 0, 1, 0, 0][:count],
            **{f"shape={name}": (shape == place).astype(int) for place, name in enumerate(("oval", "round", "other"))},
        }
    )  # fmt: skip


def _pictures(folder: Path, names: list[str], *, mode: str = "L") -> None:
    random = np.random.default_rng(1)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        size = (24, 20) if mode == "L" else (24, 20, 3)
        Image.fromarray(random.integers(0, 255, size, dtype=np.uint8)).save(folder / name)


# --- tables ---------------------------------------------------------------------------------------------------------


def _manifest(ending: str) -> Reader:
    def make(folder: Path) -> None:
        from medtail.tables.frames import write_table

        frame = _labels()
        if ending == ".csv.gz":
            (folder / "table.csv.gz").write_bytes(gzip.compress(frame.to_csv(index=False).encode()))
        else:
            write_table(folder / f"table{ending}", frame.replace("", None).infer_objects(copy=False))

    def read(folder: Path) -> None:
        from medtail.tables.manifest import read_manifest

        manifest = read_manifest(folder / f"table{ending}")
        for written in ("again.csv", "again.parquet"):
            manifest.write(folder / written)  # beside the table: paths stay what they are
            found = read_manifest(folder / written, groups=_groups(manifest.labels))
            assert found.digest == manifest.digest, f"a manifest changed on its way through {written}"

    return Reader(make, read)


def _groups(labels: Any) -> dict[str, tuple[str, ...]]:
    return {group.name: group.classes for group in labels.groups}


def _predictions(ending: str) -> Reader:
    def make(folder: Path) -> None:
        from medtail.tables.manifest import manifest_from_frame
        from medtail.tables.predictions import read_predictions

        manifest = manifest_from_frame(_labels())
        scores = np.round(np.random.default_rng(2).random(manifest.targets.shape), 3)
        table = pd.DataFrame(scores, columns=list(manifest.labels.class_names))
        table.insert(0, "image_id", list(manifest.frame["image_id"]))
        table.to_csv(folder / "scores.csv", index=False)
        read_predictions(folder / "scores.csv", truth=manifest).write(folder / f"table{ending}")
        if ending != ".csv":
            (folder / "scores.csv").unlink()

    def read(folder: Path) -> None:
        from medtail.tables.manifest import manifest_from_frame
        from medtail.tables.predictions import read_predictions

        found = read_predictions(folder / f"table{ending}")
        for written in ("again.csv", "again.parquet"):
            found.write(folder / "out" / written)
            again = read_predictions(folder / "out" / written)
            assert again.digest == found.digest, f"predictions changed on their way through {written}"
        if ending == ".csv":
            read_predictions(folder / "scores.csv", truth=manifest_from_frame(_labels()))

    return Reader(make, read)


def _results(ending: str) -> Reader:
    def make(folder: Path) -> None:
        from medtail.tables.results import results_from_rows

        rows = [
            {"metric": "auroc", "class": "halo", "value": 0.8, "low": 0.7, "high": 0.9, "support": 12},
            {"metric": "macro_auroc", "class": "", "tail_group": "tail", "value": float("nan"), "support": 3},
        ]
        results_from_rows(rows).write(folder / f"results{ending}")

    def read(folder: Path) -> None:
        from medtail.tables.results import read_results

        found = read_results(folder / f"results{ending}")
        found.write(folder / "out" / "again.csv")
        assert len(read_results(folder / "out" / "again.csv")) == len(found)

    return Reader(make, read)


def _tirads() -> Reader:
    def make(folder: Path) -> None:
        rows = ["image_id,composition,echogenicity,shape,margin,foci,size_mm",
                "a,solid,hypoechoic,taller-than-wide,irregular,punctate echogenic foci,12",
                "b,cystic,anechoic,wider-than-tall,smooth,none,"]  # fmt: skip
        (folder / "readings.csv").write_text("\n".join(rows) + "\n")

    def read(folder: Path) -> None:
        from medtail.lexicons.score_table import score_table
        from medtail.tables.frames import read_table, write_table

        frame, _ = read_table(folder / "readings.csv", what="table of readings")
        write_table(folder / "out" / "graded.csv", score_table(frame).results)

    return Reader(make, read)


def _prevalence() -> Reader:
    def make(folder: Path) -> None:
        _predictions(".parquet").make(folder)
        rows = ["class,prevalence,site", "halo,0.1,a", "shape=oval,0.2,a", "shape=round,0.3,a", "shape=other,0.5,a"]
        (folder / "prevalence.csv").write_text("\n".join(rows))

    def read(folder: Path) -> None:
        from medtail.judging.prevalence import read_prevalence, read_unlabelled
        from medtail.tables.predictions import read_predictions

        scored = read_predictions(folder / "table.parquet")
        read_prevalence(folder / "prevalence.csv", predictions=scored)
        read_unlabelled(folder / "table.parquet", labels=scored.labels)

    return Reader(make, read, r"prevalence\.csv")


# --- configs and records --------------------------------------------------------------------------------------------


def _train_config() -> Reader:
    def make(folder: Path) -> None:
        (folder / "train.yaml").write_text(
            "manifest: toy.csv\npixels: {size_px: 32, channels: 1}\nbackbone:\n  kind: resnet\n  size: tiny\n"
            "sampler: {kind: class_balanced}\nloss:\n  kind: focal\n  gamma: 2.0\noptimizer:\n  epochs: 3\nseed: 1\n"
        )

    def read(folder: Path) -> None:
        from medtail.config import config_to_dict, dump_yaml
        from medtail.training.config import load_train_config

        config = load_train_config(folder / "train.yaml", overrides=["optimizer.epochs=2"])
        (folder / "out" / "again.yaml").write_text(dump_yaml(config_to_dict(config)), encoding="utf-8")
        assert load_train_config(folder / "out" / "again.yaml") == config, "a config changed on its way through a file"

    return Reader(make, read)


def _study_config() -> Reader:
    def make(folder: Path) -> None:
        (folder / "study.yaml").write_text(
            "train:\n  manifest: toy.csv\n  optimizer: {epochs: 2}\nseeds: [0, 1]\narms:\n  plain: {}\n"
            "  focal: {loss: {kind: focal}}\n"
        )

    def read(folder: Path) -> None:
        from medtail.studies.config import load_study

        load_study(folder / "study.yaml")

    return Reader(make, read)


def _synthesis_config() -> Reader:
    def make(folder: Path) -> None:
        (folder / "synthesis.yaml").write_text("manifest: toy.csv\nseed: 0\nsize: tiny\n")

    def read(folder: Path) -> None:
        from medtail.synthesis.config import load_synthesis_config

        load_synthesis_config(folder / "synthesis.yaml")

    return Reader(make, read)


def _phrases() -> Reader:
    def make(folder: Path) -> None:
        from importlib.resources import files

        source = files("medtail") / "zeroshot" / "phrases" / "thyroid_us.yaml"
        (folder / "phrases.yaml").write_text(source.read_text(encoding="utf-8"), encoding="utf-8")

    def read(folder: Path) -> None:
        from medtail.zeroshot.prompts import load_phrases

        book = load_phrases(folder / "phrases.yaml")
        assert re.fullmatch("[0-9a-f]{64}", book.digest)

    return Reader(make, read)


def _label_map() -> Reader:
    def read(folder: Path) -> None:
        from medtail.tables.subtypes import read_label_map

        read_label_map(folder / "map.yaml")

    return Reader(
        lambda folder: _write(folder / "map.yaml", "halo: margin_halo\nround: [shape=round, shape=oval]\nnone:\n"), read
    )


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _records() -> Reader:
    """Small JSON records of judging and the challenges."""

    def make(folder: Path) -> None:
        from medtail.challenges.thyro_lmd_labels import LABELS, describe_split, labels_from_frame
        from medtail.judging.calibration_maps import AffineMap, BetaMap, IsotonicMap, SoftmaxMap
        from medtail.judging.calibration_record import CalibrationMap
        from medtail.judging.ensemble_record import EnsembleWeights
        from medtail.sampling.policy_network import PolicyNetwork
        from medtail.sampling.replay import Schedule
        from medtail.tables.labels import LabelSpace

        labels = LabelSpace.from_columns(["a", "shape=oval", "shape=round", "b", "c"])
        maps = (
            AffineMap(class_name="a", alpha=0.25, beta=-1.0, positive_patients=12),
            SoftmaxMap(group="shape", classes=("shape=oval", "shape=round"), alpha=-0.1, bias=(0.5, -0.5)),
            BetaMap(class_name="b", rise=0.1, fall=0.2, shift=0.3),
            IsotonicMap(class_name="c", knots=(0.1, 0.5), values=(0.2, 0.4), note="ties"),
        )
        CalibrationMap(labels=labels, maps=maps, method="auto", kappa=10.0, rows="ab", num_rows=9, num_patients=4,
                       kappa_losses={"10": 0.2}, model="0" * 64).write(folder / "calibration.json")  # fmt: skip
        weights = np.array([[1.0, 0.25], [0.0, 0.75]])
        EnsembleWeights(("a", "b"), ("m", ""), ("x", "y"), "mean", "class_best", weights, {"rows": 3}).write(
            folder / "ensemble.json"
        )
        network = PolicyNetwork(["k=a", "k=b"], [0.0, 0.5, 1.0], seed=0)
        Schedule(("k=a", "k=b"), np.array([[0.0, 0.25], [0.5, 1.0]]), network, {"rounds": 2}).write(
            folder / "schedule.json"
        )
        rules = [{"kind": "normal_gate"}]
        _write(folder / "rules.json", json.dumps({"kind": "post rules", "rules": rules}))
        cells = {name: [0] * 12 for name in LABELS.class_names}
        for name in ("comp_solid", "echo_hypo", "shape_wider", "margin_smooth", "foci_none"):
            cells[name] = [1] * 12
        lead = {"image_id": [f"i{n}" for n in range(12)], "path": "a.png", "patient_id": [f"p{n}" for n in range(12)],
                "fold": ["train"] * 6 + ["tune"] * 3 + ["test"] * 3}  # fmt: skip
        manifest = labels_from_frame(pd.DataFrame(lead | cells), name="labels.csv", root=folder)
        _write(folder / "split.json", json.dumps(describe_split(manifest, rule="x", seed=0).to_json()))

    def read(folder: Path) -> None:
        from medtail.challenges.thyro_lmd_labels import read_split
        from medtail.judging.calibration_record import read_calibration
        from medtail.judging.ensemble_record import read_ensemble
        from medtail.judging.post_rule_trials import read_rules
        from medtail.sampling.replay import read_schedule

        _each(
            lambda: read_calibration(folder / "calibration.json"),
            lambda: read_ensemble(folder / "ensemble.json"),
            lambda: read_schedule(folder / "schedule.json"),
            lambda: read_rules(folder / "rules.json"),
            lambda: read_split(folder / "split.json"),
        )

    return Reader(make, read)


def _each(*reads: Callable[[], object]) -> None:
    """Run them all, so that an answer of the first does not hide the second; then say what the first refusal was."""
    from medtail.errors import MedtailError

    refused: list[MedtailError] = []
    for read in reads:
        try:
            read()
        except MedtailError as error:
            refused.append(error)
    if refused:
        raise refused[0]


# --- tensors --------------------------------------------------------------------------------------------------------


def _model() -> Reader:
    def make(folder: Path) -> None:
        import torch

        from medtail.models.backbones import ResNetConfig
        from medtail.models.checkpoint import ModelCard, ModelParts, save_model
        from medtail.models.diagnoser import build_diagnoser
        from medtail.models.heads import LinearHeadConfig
        from medtail.pixels.settings import PixelConfig
        from medtail.tables.labels import LabelSpace
        from medtail.tables.tail import ClassCounts

        torch.manual_seed(0)
        labels = LabelSpace.from_columns(["shape=oval", "shape=round", "halo"])
        parts = ModelParts(pixels=PixelConfig(size_px=32, channels=1), backbone=ResNetConfig(), head=LinearHeadConfig(),
                           link="sigmoid")  # fmt: skip
        model = build_diagnoser(
            backbone=parts.backbone, head=parts.head, labels=labels, link=parts.link, channels=1, size_px=32
        )
        counts = ClassCounts(labels.class_names, (5, 3, 1), (4, 3, 1), (8, 8, 7))
        card = ModelCard(labels=labels, parts=parts, thresholds={"halo": 0.25}, train_counts=counts, digests={}, seed=7)
        save_model(folder / "model", model, card)

    def read(folder: Path) -> None:
        from medtail.models.checkpoint import load_model

        load_model(folder / "model")

    return Reader(make, read, r"model/card\.json")


def _states() -> Reader:
    def make(folder: Path) -> None:
        import torch

        from medtail.synthesis import state as synthesis
        from medtail.training import state as training

        tensors = {"a": torch.zeros(2, 3), "b": torch.ones(4, dtype=torch.int64)}
        training.write_state(folder / "train.safetensors", tensors=tensors, progress=training.Progress(log=({"x": 1},)))
        synthesis.write_state(folder / "synth.safetensors", tensors=tensors, progress=synthesis.Progress())

    def read(folder: Path) -> None:
        from medtail.synthesis import state as synthesis
        from medtail.training import state as training

        _each(
            lambda: training.read_state(folder / "train.safetensors"),
            lambda: synthesis.read_state(folder / "synth.safetensors"),
        )

    return Reader(make, read)


def _vectors() -> Reader:
    def make(folder: Path) -> None:
        from safetensors.numpy import save_file

        from medtail.tables.vectors import ImageVectors, Phrase, text_vectors

        phrases = (Phrase("Mass", "prompt", "mass", "a mass"), Phrase("Mass", "negative", "", "no mass"))
        text_vectors(phrases, np.eye(2, 3), header={"tower": "t"}).write(folder / "texts.safetensors")
        ids = np.array(["i1", "i2"], dtype=object)
        ImageVectors(ids, np.eye(2, 3, dtype=np.float32), {}, "images").write(folder / "images.safetensors")
        save_file({"Mass": np.eye(2, 3, dtype=np.float32)}, folder / "foreign.safetensors")

    def read(folder: Path) -> None:
        from medtail.tables.vectors import read_image_vectors, read_text_vectors

        _each(
            lambda: read_text_vectors(folder / "texts.safetensors"),
            lambda: read_text_vectors(folder / "foreign.safetensors"),
            lambda: read_image_vectors(folder / "images.safetensors"),
        )

    return Reader(make, read)


# --- images ---------------------------------------------------------------------------------------------------------

PICTURES = ("a.png", "rgb.jpg", "b.tiff", "c.bmp", "d.gif", "e.webp", "f.jp2", "g.pgm", "deep.png", "palette.png",
            "alpha.png")  # fmt: skip


def _images() -> Reader:
    def make(folder: Path) -> None:
        gray = Image.fromarray(np.random.default_rng(3).integers(0, 255, (24, 20), dtype=np.uint8))
        for name in PICTURES[:8]:
            (gray.convert("RGB") if name == "rgb.jpg" else gray).save(folder / name)
        Image.fromarray(np.arange(480, dtype=np.uint16).reshape(24, 20) * 99).save(folder / "deep.png")
        gray.convert("P").save(folder / "palette.png", transparency=3)
        gray.convert("RGBA").save(folder / "alpha.png")

    def read(folder: Path) -> None:
        from medtail.pixels.decode import image_from_bytes, read_image

        for name in PICTURES:
            path = folder / name
            _each(
                lambda path=path: _check_pixels(read_image(path)),  # type: ignore[misc]
                lambda path=path: image_from_bytes(path.read_bytes(), max_pixels=10**6),  # type: ignore[misc]
            )

    return Reader(make, read)


def _check_pixels(pixels: np.ndarray) -> None:
    assert pixels.dtype == np.float32
    assert pixels.ndim in (2, 3), pixels.shape
    assert np.isfinite(pixels).all(), "pixels that are no numbers"
    assert 0 <= pixels.min() <= pixels.max() <= 1, "pixels outside [0, 1]"


def _dicom_file(path: Path, *, syntax: str, frames: int = 1, colour: bool = False) -> None:
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless, generate_uid

    random = np.random.default_rng(4)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.6.1")
    meta.MediaStorageSOPInstanceUID = UID(generate_uid(entropy_srcs=[path.name]))
    meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian if syntax == "deflated" else ExplicitVRLittleEndian
    data = pydicom.Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID = generate_uid(entropy_srcs=["study"])
    data.PatientID, data.PatientAge, data.PatientSex, data.Modality = "p1", "045Y", "F", "US"
    data.Rows, data.Columns, data.PixelSpacing = 24, 20, [0.1, 0.1]
    data.SamplesPerPixel = 3 if colour else 1
    data.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        data.PlanarConfiguration = 0
    else:
        data.WindowCenter, data.WindowWidth, data.RescaleSlope, data.RescaleIntercept = "2000", "4000", "1", "0"
    data.BitsAllocated, data.BitsStored, data.HighBit = (8, 8, 7) if colour else (16, 12, 11)
    data.PixelRepresentation = 0
    if frames > 1:
        data.NumberOfFrames = str(frames)
    shape = (frames, 24, 20, 3) if colour else (frames, 24, 20)
    values = random.integers(0, 255 if colour else 4095, shape)
    data.PixelData = values.astype(np.uint8 if colour else np.uint16).tobytes()
    if syntax == "rle":
        data.compress(RLELossless, generate_instance_uid=False)
    data.save_as(path, enforce_file_format=True)


def _dicom() -> Reader:
    names = ("plain.dcm", "rle.dcm", "deflated.dcm", "film.dcm", "colour.dcm")

    def make(folder: Path) -> None:
        _dicom_file(folder / "plain.dcm", syntax="plain")
        _dicom_file(folder / "rle.dcm", syntax="rle")
        _dicom_file(folder / "deflated.dcm", syntax="deflated")
        _dicom_file(folder / "film.dcm", syntax="plain", frames=3)
        _dicom_file(folder / "colour.dcm", syntax="plain", colour=True)
        _write(folder / "labels.csv", "patient_id,halo\np1,1\n")

    def read(folder: Path) -> None:
        from medtail.pixels.decode import read_image
        from medtail.sources.dicom import import_dicom

        for name in names:
            _each(lambda name=name: _check_pixels(read_image(folder / name)))  # type: ignore[misc]
        import_dicom(folder, labels=folder / "labels.csv")

    return Reader(make, read)


# --- data sets ------------------------------------------------------------------------------------------------------


def _layout(layout: str, make: Callable[[Path], None], damage: str, **options: Any) -> Reader:
    def read(folder: Path) -> None:
        from medtail.pixels.decode import read_image
        from medtail.sources.importing import ImportOptions, import_layout

        given = {key: folder / value if isinstance(value, Path) else value for key, value in options.items()}
        target = folder / {"medmnist": "data.npz", "csv": "table.csv"}.get(layout, "")
        manifest = import_layout(layout, target, options=ImportOptions(**given), read_image=read_image)
        manifest.write(folder / "out" / "manifest.csv")

    return Reader(make, read, damage)


def _nih(folder: Path) -> None:
    rows = ["Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position",
            "1_000.png,Cardiomegaly|Emphysema,0,1,058Y,M,PA", "2_000.png,No Finding,1,1,058Y,M,AP"]  # fmt: skip
    _write(folder / "Data_Entry_2017.csv", "\n".join(rows) + "\n")
    _write(folder / "test_list.txt", "2_000.png\n")
    _write(folder / "train_val_list.txt", "1_000.png\n")
    _pictures(folder, ["1_000.png", "2_000.png"])


def _bus_bra(folder: Path) -> None:
    head = "image,patient,histology,pathology,birads,device,side,width,height,bbox_x,bbox_y,bbox_w,bbox_h,fold5"
    rows = [head, "a-l.jpg,1,cyst,benign,2,GE,left,20,24,1,2,3,4,1",
            "b-r.jpg,2,idc,malignant,5,GE,right,20,24,1,2,3,4,2"]  # fmt: skip
    _write(folder / "labels.csv", "\n".join(rows) + "\n")
    _pictures(folder, ["images/a-l.jpg", "images/b-r.jpg"])


def _breast_usg(folder: Path) -> None:
    head = ("image,mask,width,height,bbox_x,bbox_y,bbox_w,bbox_h,caseid,pixel_size,age,tissue_composition,shape,margin,"
            "echogenicity,posterior_features,halo,calcifications,skin_thickening,birads,verification,diagnosis,"
            "classification,orig_width,orig_height")  # fmt: skip
    rows = [head, "a.jpg,,20,24,1,2,3,4,1,0.01,57,homogeneous: fat,oval,circumscribed,hypoechoic,no,no,no,no,2,biopsy,"
            "cyst,benign,40,48", "b.jpg,,20,24,1,2,3,4,2,0.01,50,x,irregular,not circumscribed - angular,anechoic,"
            "shadowing,yes,in a mass,no,5,biopsy,idc,malignant,40,48"]  # fmt: skip
    _write(folder / "labels.csv", "\n".join(rows) + "\n")
    _pictures(folder, ["images/a.jpg", "images/b.jpg"])


def _ham(folder: Path) -> None:
    rows = ["lesion_id,image_id,dx,dx_type,age,sex,localization,dataset", "H1,I1,bkl,histo,80.0,male,scalp,v",
            "H2,I2,mel,follow_up,,unknown,unknown,r"]  # fmt: skip
    _write(folder / "HAM10000_metadata.csv", "\n".join(rows) + "\n")
    _pictures(folder, ["part_1/I1.jpg", "part_2/I2.jpg"])


def _ddti(folder: Path) -> None:
    points = [{"points": [{"x": 3, "y": 3}, {"x": 15, "y": 4}, {"x": 9, "y": 18}], "annotation": {}, "regionType": "x"}]
    for number in ("1", "2"):
        svg = json.dumps(points)
        _write(
            folder / f"{number}.xml",
            f"<case><number>{number}</number><age>40</age><sex>F</sex><composition>solid</composition>"
            "<echogenicity>hypoechogenicity</echogenicity><margins>well defined smooth</margins>"
            "<calcifications>non</calcifications><tirads>3</tirads><reportbacaf/><reporteco/>"
            f"<mark><image>1</image><svg>{svg}</svg></mark></case>",
        )
    _pictures(folder, ["1_1.jpg", "2_1.jpg"])


def _thyro_lmd(folder: Path) -> None:
    from medtail.sources.thyro_lmd import LABELS

    plain = ("comp_solid", "echo_hypo", "shape_wider", "margin_smooth", "foci_none")
    lead = {"image_id": ["i0", "i1"], "path": ["images/0.png", "images/1.png"], "patient_id": ["p0", "p1"],
            "size_mm": 12.5, "undetermined": "", "pathology": ["benign", ""]}  # fmt: skip
    pd.DataFrame(lead | {name: int(name in plain) for name in LABELS.class_names}).to_csv(
        folder / "labels.csv", index=False
    )
    _pictures(folder, ["images/0.png", "images/1.png"])


def _busi(folder: Path) -> None:
    cases = [f"{kind}/{kind} ({number})" for kind in ("benign", "malignant") for number in (1, 2)]
    _pictures(folder, [f"{case}{part}.png" for case in cases for part in ("", "_mask")])


def _cxr_lt_labels(folder: Path) -> None:
    from medtail.sources.cxr_lt import edition

    names = edition("2024").task(1).class_names
    place = "files/p10/p10000001/s1"
    lead = {"dicom_id": ["a", "b"], "subject_id": ["10000001", "10000002"], "study_id": ["s1", "s2"],
            "ViewPosition": ["PA", "LATERAL"], "ViewCodeSequence_CodeMeaning": "",
            "fpath": [f"{place}/a.jpg", f"{place}/b.jpg"]}  # fmt: skip
    frame = pd.DataFrame(lead | {name: [n % 2, (n + 1) % 2] for n, name in enumerate(names)})
    frame.to_csv(folder / "train_labeled.csv", index=False)


def _own_csv(folder: Path) -> None:
    _write(folder / "table.csv", "file,who,finding,site\nimages/0.png,p1,oval;halo,A\nimages/1.png,p2,none,B\n")
    _pictures(folder, ["images/0.png", "images/1.png"])


def _medmnist_file(folder: Path) -> None:
    random = np.random.default_rng(5)
    arrays = {}
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        arrays[f"{split}_images"] = random.integers(0, 255, (count, 8, 8), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(count).reshape(-1, 1) % 2
    np.savez(folder / "data.npz", **arrays)


# --- challenges -----------------------------------------------------------------------------------------------------


def _cxr_lt_submission() -> Reader:
    def make(folder: Path) -> None:
        from medtail.sources.cxr_lt import edition

        names = edition("2024").task(3).class_names
        frame = pd.DataFrame({"dicom_id": ["a", "b", "c"], **{name: [0.1, 0.5, 0.9] for name in names}})
        frame.to_csv(folder / "scores.csv", index=False)
        with zipfile.ZipFile(folder / "scores.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(folder / "scores.csv", "scores.csv")
            archive.writestr("code/readme.txt", "code")
        truth = pd.DataFrame({"dicom_id": ["a", "b", "c"], "subject_id": ["1", "1", "2"]})
        content = truth.assign(**{name: [0, 1, 0] for name in names}).to_csv(index=False)
        (folder / "truth.csv.gz").write_bytes(gzip.compress(content.encode()))

    def read(folder: Path) -> None:
        from medtail.challenges.cxr_lt_submission import read_submission, validate_submission
        from medtail.challenges.cxr_lt_truth import read_truth

        _each(
            lambda: read_submission(folder / "scores.csv", edition="2024", task=3),
            lambda: read_submission(folder / "scores.zip", edition="2024", task=3),
            lambda: validate_submission(folder / "scores.zip", edition="2024", task=3, ids=np.array(["a", "b", "c"])),
            lambda: read_truth(folder / "truth.csv.gz", edition="2024", task=3),
        )

    return Reader(make, read)


def _medmnist_scores() -> Reader:
    labels = np.array([[0], [1], [0], [1]])

    def make(folder: Path) -> None:
        pd.DataFrame([0.1, 0.9, 0.2, 0.8]).to_csv(folder / "official.csv", header=False)
        table = pd.DataFrame({"image_id": [f"test_{row:06d}" for row in range(4)], "class=0": 0.5, "class=1": 0.5})
        table.to_csv(folder / "own.csv", index=False)

    def read(folder: Path) -> None:
        from medtail.challenges.medmnist_files import read_scores
        from medtail.challenges.medmnist_sets import medmnist_set

        one = medmnist_set("breastmnist")
        _each(
            lambda: read_scores(folder / "official.csv", dataset=one, split="test", labels=labels),
            lambda: read_scores(folder / "own.csv", dataset=one, split="test", labels=labels),
        )

    return Reader(make, read)


READERS: dict[str, Reader] = {
    "manifest_csv": _manifest(".csv"),
    "manifest_gz": _manifest(".csv.gz"),
    "manifest_parquet": _manifest(".parquet"),
    "predictions_csv": _predictions(".csv"),
    "predictions_parquet": _predictions(".parquet"),
    "results_csv": _results(".csv"),
    "results_parquet": _results(".parquet"),
    "prevalence": _prevalence(),
    "tirads": _tirads(),
    "train_yaml": _train_config(),
    "study_yaml": _study_config(),
    "synthesis_yaml": _synthesis_config(),
    "phrases": _phrases(),
    "label_map": _label_map(),
    "records": _records(),
    "model": _model(),
    "states": _states(),
    "vectors": _vectors(),
    "images": _images(),
    "dicom": _dicom(),
    "nih_cxr": _layout("nih_cxr", _nih, r".*\.(csv|txt)"),
    "bus_bra": _layout("bus_bra", _bus_bra, r".*\.csv"),
    "breast_usg": _layout("breast_usg", _breast_usg, r".*\.csv"),
    "ham10000": _layout("ham10000", _ham, r".*\.csv"),
    "ddti": _layout("ddti", _ddti, r".*", masks_out=Path("out/masks")),
    "thyro_lmd": _layout("thyro_lmd", _thyro_lmd, r".*\.csv"),
    "busi": _layout("busi", _busi, r".*"),
    "cxr_lt_labels": _layout("cxr_lt", _cxr_lt_labels, r".*\.csv", edition="2024"),
    "own_csv": _layout("csv", _own_csv, r".*\.csv", image_column="file", patient_column="who",
                       label_column="finding", separator=";", negative=("none",), keep=("site",)),
    "medmnist": _layout("medmnist", _medmnist_file, r".*", images_out=Path("out/images")),
    "cxr_lt": _cxr_lt_submission(),
    "medmnist_scores": _medmnist_scores(),
}  # fmt: skip
"""Name → reader."""
