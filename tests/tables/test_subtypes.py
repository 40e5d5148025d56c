from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medtail.cli.main import call
from medtail.errors import MedtailError, UsageError
from medtail.judging.evaluation import EvaluationConfig, evaluate
from medtail.losses.build import BceConfig, FocalConfig, build_loss
from medtail.losses.contract import LossContext, masked_mean
from medtail.tables.manifest import Manifest, manifest_from_frame, read_manifest
from medtail.tables.predictions import Predictions
from medtail.tables.subtypes import mapped_labels, one_versus_reference, read_label_map, with_id_prefix, with_site

KINDS = ("benign", "FTC", "MTC", "ATC")


def make_manifest(kinds: list[str], *, prefix: str = "type=", **columns: object) -> Manifest:
    rows = len(kinds)
    frame = pd.DataFrame({"image_id": [f"i{n}" for n in range(rows)], "path": "x.png", "patient_id": range(rows)})
    labels = {f"{prefix}{k}": [np.nan if kind == "" else float(kind == k) for kind in kinds] for k in KINDS}
    return manifest_from_frame(frame.assign(**columns, **labels), name="toy.csv")


@given(kinds=st.lists(st.sampled_from([*KINDS, ""]), min_size=1, max_size=30))
def test_a_subtype_is_1_the_reference_0_and_all_else_empty(kinds: list[str]) -> None:
    kinds = ["benign", *kinds]
    view = one_versus_reference(make_manifest(kinds), reference="type=benign")
    assert view.labels.class_names == ("FTC", "MTC", "ATC")
    assert view.labels.groups == ()
    for kind, row in zip(kinds, view.targets, strict=True):
        expected = [1.0 if kind == name else 0.0 if kind == "benign" else np.nan for name in ("FTC", "MTC", "ATC")]
        np.testing.assert_array_equal(row, expected)


@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=12),
    seed=st.integers(0, 1000),
    gamma=st.sampled_from([None, 2.0]),
)
def test_turning_one_subtype_into_another_changes_no_term_of_a_third(
    kinds: list[str], seed: int, gamma: float | None
) -> None:
    kinds = ["benign", "ATC", "FTC", *kinds]
    turned = ["MTC" if kind == "FTC" else kind for kind in kinds]
    targets = [
        torch.tensor(one_versus_reference(make_manifest(each), reference="type=benign").targets)
        for each in (kinds, turned)
    ]
    atc = 2
    context = LossContext((3,) * 3, (3,) * 3, (), len(kinds))
    loss = build_loss(BceConfig() if gamma is None else FocalConfig(gamma=gamma), context)
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(kinds), 3, generator=random).requires_grad_()
    terms, gradients = [], []
    for target in targets:
        only = torch.full_like(target, torch.nan)
        only[:, atc] = target[:, atc]
        value = masked_mean(loss, logits, only)
        terms.append(value.detach())
        gradients.append(torch.autograd.grad(value, logits)[0])
    assert torch.equal(*terms)
    assert torch.equal(*gradients)
    assert gradients[0][kinds.index("FTC")].abs().sum() == 0
    assert gradients[0][kinds.index("ATC")].abs().sum() > 0


def test_plain_names_need_no_group_where_subtypes_are_named() -> None:
    manifest = make_manifest(["benign", "FTC", "MTC", ""], prefix="")
    view = one_versus_reference(manifest, reference="benign", subtypes=["MTC", "FTC"], keep=["ATC"])
    assert view.labels.class_names == ("MTC", "FTC", "ATC")
    assert view.labels.groups == ()
    np.testing.assert_array_equal(view.targets[:, 2], manifest.targets[:, 3])
    with pytest.raises(MedtailError, match="class 'benign': is in no exclusive group"):
        one_versus_reference(manifest, reference="benign")


def test_the_reference_may_be_the_absence_of_a_class() -> None:
    manifest = manifest_from_frame(
        pd.DataFrame(
            {
                "image_id": list("abcd"),
                "path": "x.png",
                "patient_id": list("1234"),
                "malignant": [0, 1, 1, None],
                "histology=lobular": [0, 1, 0, None],
                "histology=cyst": [1, 0, 0, None],
            }
        )
    )
    view = one_versus_reference(
        manifest, reference="not malignant", subtypes=["histology=lobular"], keep=["malignant", "histology=cyst"]
    )
    assert view.labels.class_names == ("lobular", "malignant", "histology=cyst")
    np.testing.assert_array_equal(view.targets[:, 0], [0, 1, np.nan, np.nan])
    np.testing.assert_array_equal(view.targets[:, 1], manifest.targets[:, 0])


def test_metadata_and_groups_of_kept_classes_stay() -> None:
    manifest = make_manifest(["benign", "FTC"], site=["A", "B"], fold=["train", "test"], meta_note=["x", "y"])
    manifest = manifest_from_frame(manifest.frame.assign(**{"shape=oval": [1, 0], "shape=round": [0, 1]}))
    keep = ["shape=oval", "shape=round"]
    view = one_versus_reference(manifest, reference="type=benign", subtypes=["type=FTC"], keep=keep)
    assert [group.classes for group in view.labels.groups] == [tuple(keep)]
    metadata = ["image_id", "path", "patient_id", "site", "fold", "meta_note"]
    pd.testing.assert_frame_equal(view.frame[metadata], manifest.frame[metadata])


def test_classes_that_do_not_exclude_each_other_are_refused_with_their_rows() -> None:
    frame = make_manifest(["benign", "FTC", "MTC"], prefix="").frame
    frame.loc[1, "MTC"] = 1.0
    manifest = manifest_from_frame(frame, name="toy.csv")
    with pytest.raises(MedtailError, match=r"toy.csv, row 3: more than one of the classes is 1 .*'FTC', 'MTC'"):
        one_versus_reference(manifest, reference="benign", subtypes=["FTC", "MTC"])


def test_mistakes_of_a_view_are_named_together() -> None:
    manifest = make_manifest(["benign", "FTC"])
    with pytest.raises(MedtailError) as caught:
        one_versus_reference(manifest, reference="type=bening", subtypes=["type=FTC", "type=FTC"], keep=["halo"])
    for part in (
        "did you mean 'type=benign'?",
        "class 'type=FTC': named twice",
        "no class 'halo'; classes: type=benign",
    ):
        assert part in str(caught.value)
    with pytest.raises(MedtailError, match="class 'type=benign': no image shows it, so there is nothing to tell"):
        one_versus_reference(make_manifest(["FTC", "MTC"]), reference="type=benign")
    both = manifest_from_frame(manifest.frame.assign(FTC=[0, 1]))
    with pytest.raises(MedtailError, match="class 'FTC': two columns of the view would have this name"):
        one_versus_reference(both, reference="type=benign", keep=["FTC"])


def test_a_joined_class_is_present_where_any_part_is_and_absent_only_where_all_are() -> None:
    cells = [1.0, 0.0, np.nan]
    pairs = [(a, b) for a in cells for b in cells]
    frame = pd.DataFrame({"image_id": range(9), "path": "x.png", "patient_id": range(9)})
    manifest = manifest_from_frame(frame.assign(a=[p[0] for p in pairs], b=[p[1] for p in pairs]))
    view = mapped_labels(manifest, {"ours": ["a", "b"], "neither": ["not a"], "unknown": []})
    nan = np.nan
    np.testing.assert_array_equal(view.targets[:, 0], [1, 1, 1, 1, 0, nan, 1, nan, nan])
    np.testing.assert_array_equal(view.targets[:, 1], [0, 0, 0, 1, 1, 1, nan, nan, nan])
    assert np.isnan(view.targets[:, 2]).all()


def test_a_class_without_external_positives_has_no_number() -> None:
    """Whoever judges a view of another centre sees an empty cell, and why."""
    theirs = manifest_from_frame(
        pd.DataFrame(
            {
                "image_id": range(20),
                "path": "x.png",
                "patient_id": range(20),
                "follicular": [1, 0] * 10,
                "ok": [0, 1] * 10,
            }
        )
    )
    view = mapped_labels(theirs, {"benign": ["ok"], "FTC": ["follicular"], "MTC": []})
    view = one_versus_reference(view, reference="benign", subtypes=["FTC", "MTC"])
    scores = np.random.default_rng(0).random((20, 2))
    predictions = Predictions(
        image_ids=view.frame["image_id"].to_numpy(dtype=object),
        patients=view.patients,
        scores=scores,
        targets=view.targets.astype(float),
        labels=view.labels,
        folds=view.folds,
        has_patients=True,
    )
    results = evaluate(predictions, config=EvaluationConfig(bootstrap=50))
    table = results.frame.set_index(["metric", "class"])["value"]
    for metric in ("auroc", "ap"):
        assert np.isfinite(table[metric, "FTC"])
        assert np.isnan(table[metric, "MTC"])


def test_mistakes_of_a_label_map_are_named_together(tmp_path: Path) -> None:
    path = tmp_path / "map.yaml"
    path.write_text("a: [x, x]\nb: 3\nc: {d: e}\n", encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        read_label_map(path)
    for part in ("map.yaml, a: names a column twice", "map.yaml, b: found 3", "map.yaml, c: found"):
        assert part in str(caught.value)
    path.write_text("cancer: [type=FTC, type=ATC]\nbenign: type=benign\nMTC:\n", encoding="utf-8")
    found = read_label_map(path)
    assert found == {"cancer": ("type=FTC", "type=ATC"), "benign": ("type=benign",), "MTC": ()}
    with pytest.raises(MedtailError, match=r"no class 'type=XTC'; did you mean"):
        mapped_labels(make_manifest(["benign"]), {"a": ["type=XTC"]})
    with pytest.raises(MedtailError, match="label map, 'site': is the name of a metadata column"):
        mapped_labels(make_manifest(["benign"]), {"site": ["type=FTC"]})
    with pytest.raises(MedtailError, match="label map: is empty"):
        mapped_labels(make_manifest(["benign"]), {})


def test_a_column_becomes_the_site() -> None:
    manifest = make_manifest(["benign", "FTC"], device=["P", "Q"], age=[30, 40])
    assert with_site(manifest, "device").frame["site"].tolist() == ["P", "Q"]
    assert with_site(manifest, "device").labels == manifest.labels
    with pytest.raises(MedtailError, match="no metadata column 'devise' to take as site; did you mean 'device'"):
        with_site(manifest, "devise")
    with pytest.raises(MedtailError, match="no metadata column 'age'"):
        with_site(manifest, "age")


def test_ids_of_another_centre_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = make_manifest(["benign", "FTC"], study_id=["7", ""])
    found = with_id_prefix(manifest, "warsaw-")
    assert found.frame["image_id"].tolist() == [f"warsaw-{name}" for name in manifest.frame["image_id"]]
    assert found.patients.tolist() == [f"warsaw-{name}" for name in manifest.patients]
    assert found.frame["study_id"].tolist() == ["warsaw-7", ""], "what is unknown stays unknown"
    assert found.frame["path"].tolist() == manifest.frame["path"].tolist()
    for wrong in ("", "a b", "a/b"):
        with pytest.raises(UsageError, match=r"--prefix .*: expected letters, digits"):
            with_id_prefix(manifest, wrong)
    manifest.write(tmp_path / "theirs.csv")
    arguments = ["data", "view", str(tmp_path / "theirs.csv"), "--prefix", "usg_", "--out", str(tmp_path / "view.csv")]
    assert call(arguments) == 0
    assert read_manifest(tmp_path / "view.csv").frame["image_id"].str.startswith("usg_").all()
    capsys.readouterr()


def test_the_command_writes_the_view_and_says_what_is_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_manifest(["benign", "FTC", "MTC", ""] * 3, device=["P", "Q"] * 6).write(tmp_path / "all.csv")
    (tmp_path / "map.yaml").write_text("benign: type=benign\nFTC: type=FTC\nATC:\n", encoding="utf-8")
    arguments = ["data", "view", str(tmp_path / "all.csv"), "--label-map", str(tmp_path / "map.yaml")]
    arguments += ["--one-versus", "benign", "--subtypes", "FTC,ATC", "--keep", "benign", "--site", "device"]
    assert call([*arguments, "--out", str(tmp_path / "view.csv")]) == 0
    view = read_manifest(tmp_path / "view.csv")
    said = capsys.readouterr()
    assert view.digest[:12] in said.out
    assert "FTC: 3 present, 3 absent, 6 not assessed, 3 patients present." in said.out
    assert "class 'ATC': no positives here; its metrics will be empty, not a number." in said.err
    assert view.labels.class_names == ("FTC", "ATC", "benign")
    assert set(view.frame["site"]) == {"P", "Q"}
    assert call([*arguments, "--out", str(tmp_path / "view.csv")]) == 2
    assert call(["data", "view", str(tmp_path / "all.csv"), "--out", str(tmp_path / "b.csv")]) == 2
    assert "nothing to do" in capsys.readouterr().err


def test_the_command_makes_one_patient_of_those_with_duplicates(
    toy_manifest: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = toy_manifest.image_paths()
    paths[0].write_bytes(paths[59].read_bytes())
    toy_manifest.write(tmp_path / "toy.csv")
    arguments = ["data", "view", str(tmp_path / "toy.csv"), "--merge-duplicates", "--out", str(tmp_path / "view.csv")]
    assert call([*arguments, "--quiet"]) == 0
    assert "patients: 30, after joining those with near-duplicates 29." in capsys.readouterr().err
    view = read_manifest(tmp_path / "view.csv")
    assert view.patients[0] == view.patients[59] == "p00"
    assert view.frame["meta_patient"].iloc[59] == "p29"
    assert view.labels == toy_manifest.labels
