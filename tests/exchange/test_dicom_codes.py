from __future__ import annotations

import pytest

from medtail.exchange import dicom_codes
from medtail.exchange.dicom_codes import STANDARD, Concept, class_concept, level_concept, share_concept, shortened
from medtail.lexicons.systems import LEXICONS

OURS = [value for value in vars(dicom_codes).values() if isinstance(value, Concept)]
OURS += [*dicom_codes.FREQUENCIES.values(), *dicom_codes.ADVICES.values(), *dicom_codes.PROCEDURES.values()]
OURS = list(dict.fromkeys([*OURS, *STANDARD.values()]))


@pytest.mark.parametrize("concept", OURS, ids=lambda concept: f"{concept.scheme}-{concept.value}")
def test_codes_fit_into_dicom_and_standard_ones_are_those_pydicom_knows(concept):
    from pydicom.sr._concepts_dict import concepts

    assert len(concept.value) <= 16
    assert len(concept.meaning) <= 64
    if concept.scheme in ("UCUM", "99MEDTAIL"):
        return
    entries = concepts[concept.scheme].values()
    meanings = {entry[0].lower() for codes in entries for value, entry in codes.items() if value == concept.value}
    assert meanings, f"{concept.scheme} has no code {concept.value}"
    known = {word for meaning in meanings for word in meaning.split()}
    assert known & set(concept.meaning.lower().split()), meanings


def test_private_codes_are_one_a_meaning():
    private = {(c.value, c.meaning) for c in OURS if c.scheme == "99MEDTAIL"}
    assert len({value for value, _ in private}) == len(private)


def test_class_codes_are_stable_and_differ():
    names = ["malignant", "histology=cyst", "shape=oval", "comp_solid", "Größe>4", "a" * 200]
    found = [class_concept(name) for name in names]
    assert len({concept.value for concept in found}) == len(names)
    assert found[0] == Concept("CBCA4B6A028E4", "99MEDTAIL", "malignant"), "codes of released reports never change"
    assert all(len(c.value) == 13 and len(c.meaning) <= 64 and c.scheme == "99MEDTAIL" for c in found)


@pytest.mark.parametrize("name", ["Pneumothorax", "finding=pneumothorax", "PNEUMOTHORAX "])
def test_a_name_that_means_one_thing_anywhere_has_the_standard_code(name):
    assert class_concept(name) == STANDARD["pneumothorax"]


@pytest.mark.parametrize("name", ["mass", "cyst", "nodule", "effusion", "tension pneumothorax"])
def test_a_name_of_many_meanings_has_a_code_of_our_own(name):
    assert class_concept(name).scheme == "99MEDTAIL"


def test_every_level_of_every_system_has_its_codes():
    for rules in LEXICONS.values():
        for level in (*rules.names, ""):
            for concept in (level_concept(rules.label, level), share_concept(rules.label, level)):
                assert len(concept.value) <= 16
                assert len(concept.meaning) <= 64


def test_texts_are_cut_without_control_letters():
    assert shortened("a\nb\\c") == "a b/c"
    assert len(shortened("é" * 100)) == 64
