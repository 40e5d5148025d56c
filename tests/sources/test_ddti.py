"""DDTI's layout, on made-up cases: no file of the data set is here, but its elements and spellings are."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medtail.errors import MedtailError, UsageError
from medtail.sources.ddti import CALCIFICATIONS, COMPOSITION, ECHOGENICITY, MARGINS, import_ddti
from medtail.sources.importing import ImportOptions, import_layout
from medtail.sources.thyro_lmd import GROUPS, LABELS
from medtail.tables.manifest import Manifest, read_manifest

SQUARE = [(200, 100), (260, 100), (260, 140), (200, 140)]
OTHER = [(300, 200), (330, 200), (330, 230)]
GIVEN = {
    "age": "45", "sex": "F", "composition": "solid", "echogenicity": "hypoechogenicity",
    "margins": "well defined smooth", "calcifications": "microcalcifications", "tirads": "4b",
    "reportbacaf": "BACAF 6", "reporteco": "",
}  # fmt: skip


def svg(*polygons: list[tuple[int, int]]) -> str:
    regions = [
        {"points": [{"x": x, "y": y} for x, y in polygon], "annotation": {}, "regionType": "freehand"}
        for polygon in polygons
    ]
    return json.dumps(regions)


def case(folder: Path, number: str, marks: dict[str, str] | None = None, /, **change: str) -> None:
    """Write one made-up case: N.xml and an image for each mark."""
    fields = {"number": number, **GIVEN, **change}
    marks = {"1": svg(SQUARE)} if marks is None else marks
    elements = "".join(f"<{name}>{text}</{name}>" for name, text in fields.items())
    marked = "".join(f"<mark><image>{image}</image><svg>{text}</svg></mark>" for image, text in marks.items())
    (folder / f"{number}.xml").write_text(f'<?xml version="1.0"?>\n<case>{elements}{marked}</case>\n')
    for image in marks:
        Image.new("L", (560, 360), 40).save(folder / f"{number}_{image}.jpg")


def present(manifest: Manifest, row: int = 0) -> set[str]:
    return {name for name, cell in zip(LABELS.class_names, manifest.targets[row], strict=True) if cell == 1}


def assessed(manifest: Manifest, row: int = 0) -> set[str]:
    cells = dict(zip(LABELS.class_names, manifest.targets[row], strict=True))
    return {group for group, members in GROUPS.items() if not any(np.isnan(cells[name]) for name in members)}


def test_a_case_becomes_rows_with_labels_person_region_and_the_words_themselves(tmp_path: Path) -> None:
    case(tmp_path, "7", {"1": svg(SQUARE), "2": svg(OTHER)})
    manifest = import_ddti(tmp_path)
    assert manifest.frame["image_id"].tolist() == ["7_1", "7_2"]
    assert set(manifest.patients) == {"7"}
    assert present(manifest) == present(manifest, 1) == {"comp_solid", "echo_hypo", "margin_smooth", "foci_punctate"}
    assert assessed(manifest) == set(GROUPS) - {"shape"}
    first = manifest.frame.iloc[0]
    assert (first["age"], first["sex"], first["meta_tirads"], first["meta_reportbacaf"]) == (45.0, "F", "4b", "BACAF 6")
    assert first["meta_margins"] == "well defined smooth"
    assert manifest.labels == LABELS
    manifest.check_files()


def test_the_region_leaves_burned_in_text_outside(tmp_path: Path) -> None:
    case(tmp_path, "1")
    x, y, width, height = import_ddti(tmp_path).roi(0) or (0, 0, 0, 0)
    assert (x, y) == (200 - 12, 100 - 12)  # a fifth of the longer side around
    assert (x + width, y + height) == (260 + 12 + 1, 140 + 12 + 1)


def test_a_region_at_the_border_stays_inside_the_image(tmp_path: Path) -> None:
    case(tmp_path, "1", {"1": svg([(-5, 2), (600, 2), (600, 355), (-5, 355)])})
    assert import_ddti(tmp_path).roi(0) == (0, 0, 560, 360)


def test_masks_are_drawn_from_all_polygons_of_an_image(tmp_path: Path) -> None:
    (tmp_path / "ddti").mkdir()
    case(tmp_path / "ddti", "1", {"1": svg(SQUARE, OTHER, SQUARE)})
    manifest = import_ddti(tmp_path / "ddti", masks_out=tmp_path / "masks")
    manifest.write(tmp_path / "manifest.csv")
    read = read_manifest(tmp_path / "manifest.csv")
    with Image.open(read.root / read.frame["mask_path"][0]) as image:
        mask = np.asarray(image)
    assert mask.shape == (360, 560)
    assert mask[120, 230] == mask[205, 325] == 255
    assert mask[120, 190] == mask[225, 302] == 0
    assert (mask == 255).sum() == pytest.approx(61 * 41 + 31 * 31 / 2, rel=0.05)
    with pytest.raises(UsageError, match="is not empty"):
        import_ddti(tmp_path / "ddti", masks_out=tmp_path / "masks")
    inside = import_ddti(tmp_path / "ddti", masks_out=tmp_path / "ddti" / "drawn")
    assert inside.frame["mask_path"].tolist() == ["drawn/1_1.png"]


def test_empty_elements_are_not_assessed_and_shape_never_is(tmp_path: Path) -> None:
    case(tmp_path, "1", composition="", echogenicity="", margins="", calcifications="", age="", sex="")
    manifest = import_ddti(tmp_path)
    assert assessed(manifest) == set()
    assert np.isnan(manifest.frame["age"][0])
    case(tmp_path, "2", composition="", margins="")
    assert assessed(import_ddti(tmp_path), 1) == {"echogenicity", "foci"}


@pytest.mark.parametrize(
    ("element", "word", "label"),
    [
        ("composition", "spongiform appareance", "comp_spongiform"),
        ("composition", "predominantly solid", "comp_mixed"),
        ("composition", "Predominantly Cystic", "comp_mixed"),
        ("echogenicity", "hypoechogenecity", "echo_hypo"),
        ("echogenicity", "marked hypoechogenicity", "echo_very_hypo"),
        ("echogenicity", "isoechogenicity ", "echo_iso"),
        ("margins", "ill- defined", "margin_ill_defined"),
        ("margins", "wellDefinedSmooth", "margin_smooth"),
        ("margins", "spiculated", "margin_irregular"),
        ("margins", "extra-thyroidal extension", "margin_ete"),
        ("calcifications", "non", "foci_none"),
        ("calcifications", "macrocalcification", "foci_macro"),
        ("calcifications", "rim-calcifications", "foci_rim"),
    ],
)
def test_spellings_that_circulate_are_understood(tmp_path: Path, element: str, word: str, label: str) -> None:
    case(tmp_path, "1", **{element: word})
    assert label in present(import_ddti(tmp_path))


def test_every_known_spelling_leads_to_a_label_of_its_group() -> None:
    for group, words in (
        ("composition", COMPOSITION),
        ("echogenicity", ECHOGENICITY),
        ("margin", MARGINS),
        ("foci", CALCIFICATIONS),
    ):
        assert set(words.values()) - {"undetermined"} <= set(GROUPS[group])


def test_foci_combine_and_dense_decides_nothing(tmp_path: Path) -> None:
    case(tmp_path, "1", calcifications="macrocalcifications, microcalcifications", composition="dense")
    manifest = import_ddti(tmp_path)
    assert {"foci_macro", "foci_punctate"} <= present(manifest)
    assert "composition" not in assessed(manifest)
    assert manifest.frame["meta_undetermined"].tolist() == ["composition"]


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    case(tmp_path, "1", margins="ill defind", composition="cystic; solid")
    case(tmp_path, "2", calcifications="non, microcalcification", age="old", sex="x")
    case(tmp_path, "3")
    (tmp_path / "3_1.jpg").unlink()
    (tmp_path / "4.xml").write_text("<case><number>4</number>")
    case(tmp_path, "5", {"1": "not json"})
    case(tmp_path, "6", {"1": svg([(1, 1), (2, 2)])})
    case(tmp_path, "7", {"1": svg([(900, 900), (950, 900), (950, 950)])})
    case(tmp_path, "8")
    (tmp_path / "8_1.jpg").write_bytes(b"no image")
    (tmp_path / "9.xml").write_text("<case><number>10</number></case>")
    with pytest.raises(MedtailError) as caught:
        import_ddti(tmp_path)
    lines = str(caught.value).splitlines()
    for words in (
        "1.xml, <margins>: found 'ill defind'; did you mean 'illdefined'?",
        "1.xml, <composition>: found 'cystic; solid', that is comp_cystic and comp_solid, which contradict each other",
        "2.xml, <calcifications>: found 'non, microcalcification', that is foci_none and foci_punctate",
        "2.xml, <age>: found 'old'",
        "2.xml, <sex>: found 'x'",
        "3.xml, image 1: no image file '3_1'",
        "4.xml: cannot be read as XML",
        "5.xml, image 1, <svg>: cannot be read (JSONDecodeError",
        "6.xml, image 1, <svg>: a region of 2 points",
        "7.xml, image 1: its polygon lies outside the 560 x 360 pixels of '7_1.jpg'",
        "image '8_1.jpg': cannot be opened",
        "9.xml: <number> is '10'; expected '9'",
    ):
        assert any(words in line for line in lines), (words, lines)
    assert len(lines) == 12


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_two_files_of_one_case_and_hostile_xml_are_refused(tmp_path: Path, encoding: str) -> None:
    case(tmp_path, "1")
    (tmp_path / "copy").mkdir()
    case(tmp_path / "copy", "1", composition="cystic")
    bomb = '<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><case><number>2</number><age>&c;</age></case>'
    (tmp_path / "2.xml").write_text(bomb, encoding=encoding)
    with pytest.raises(MedtailError, match=r"case '1': .*describe it; keep one") as caught:
        import_ddti(tmp_path)
    assert "2.xml: cannot be read as XML (it declares entities" in str(caught.value)


def test_images_without_polygons_are_left_out_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    case(tmp_path, "1", {"1": svg(SQUARE), "2": ""})
    Image.new("L", (560, 360)).save(tmp_path / "1_3.jpg")
    with caplog.at_level(logging.WARNING):
        assert import_ddti(tmp_path).frame["image_id"].tolist() == ["1_1"]
    assert "2 images have no polygon and are left out" in caplog.text
    assert "1_2, 1_3" in caplog.text


def test_nothing_to_import_is_said(tmp_path: Path) -> None:
    with pytest.raises(MedtailError, match=r"ddti: no \.xml file"):
        import_ddti(tmp_path)
    case(tmp_path, "1", {"1": ""})
    with pytest.raises(MedtailError, match=r"no image .* has a polygon"):
        import_ddti(tmp_path)
    with pytest.raises(MedtailError, match="no folder"):
        import_ddti(tmp_path / "nowhere")


def test_cases_come_in_the_order_of_their_numbers_through_the_door(tmp_path: Path) -> None:
    for number in ("10", "2", "1"):
        case(tmp_path, number)
    manifest = import_layout("ddti", tmp_path, options=ImportOptions(masks_out=tmp_path / "m"))
    assert manifest.frame["patient_id"].tolist() == ["1", "2", "10"]
    assert "mask_path" in manifest.frame
