from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from medtail.errors import MedtailError
from medtail.lexicons.breast_words import breast_row


def test_margins_are_split_and_circumscribed_stays() -> None:
    assert breast_row({"margin": "not circumscribed - angular&indistinct"}).reading.margin == {"angular", "indistinct"}
    assert breast_row({"margin": "circumscribed"}).reading.margin == {"circumscribed"}
    assert breast_row({"margin": "not circumscribed"}).reading.margin == frozenset()


@pytest.mark.parametrize("word", ["not applicable", "not available", ""])
def test_nothing_said_is_empty(word: str) -> None:
    columns = ("shape", "margin", "echogenicity", "posterior_features", "halo", "calcifications", "skin_thickening",
               "tissue_composition", "birads")  # fmt: skip
    found = breast_row(dict.fromkeys(columns, word))
    assert not found.reading.has_mass
    assert (found.category, found.halo, found.has_calcifications) == ("", None, None)


def test_the_tables_own_words() -> None:
    found = breast_row(
        {"Echogenicity": "complex cystic/solid", "Posterior_features": "no", "Calcifications": "in a mass",
         "Halo": "yes", "Skin_thickening": "yes", "BIRADS": "4a", "Shape": "irregular",
         "Tissue_composition": "lactating&heterogeneous: predominantly fat"}
    )  # fmt: skip
    reading = found.reading
    assert (reading.echo, reading.posterior, reading.shape, reading.tissue) == (
        "complex",
        "none",
        "irregular",
        "heterogeneous",
    )
    assert reading.calcifications == {"in_mass"}
    assert reading.associated == {"skin_thickening"}
    assert (found.category, found.is_lactating, found.halo, found.has_calcifications) == ("4A", True, True, True)
    assert reading.orientation == ""


@pytest.mark.parametrize(("word", "has"), [("no", False), ("indefinable", None), ("intraductal", True)])
def test_calcifications(word: str, has: bool | None) -> None:
    found = breast_row({"calcifications": word})
    assert found.has_calcifications is has
    assert found.reading.calcifications == ({"intraductal"} if word == "intraductal" else frozenset())


def test_unknown_words_are_named_together() -> None:
    with pytest.raises(MedtailError) as caught:
        breast_row({"shape": "ovoid", "halo": "perhaps", "birads": "4d", "tissue_composition": "homogenous: fat"},
                   where="labels.csv, row 9")  # fmt: skip
    text = str(caught.value)
    for words in ("labels.csv, row 9, shape: found 'ovoid', unknown", "halo: found 'perhaps'; expected yes or no",
                  "BI-RADS category '4d'", "did you mean 'homogeneous: fat'?"):  # fmt: skip
        assert words in text, words


def test_the_real_table_is_read_whole(shared_data: Path) -> None:
    frame = pd.read_csv(shared_data / "breast_usg" / "labels.csv", dtype=str, keep_default_na=False)
    rows = [breast_row(row) for row in frame.to_dict("records")]  # type: ignore[arg-type]
    assert len(rows) == 256
    assert sum(row.reading.has_mass for row in rows) == 252
    assert sum(row.is_lactating for row in rows) == 7
    assert sum(bool(row.halo) for row in rows) == 55
    assert sum("angular" in row.reading.margin for row in rows) == 42
    assert sum("spiculated" in row.reading.margin for row in rows) == 33
    assert sum("in_mass" in row.reading.calcifications for row in rows) == 23
    assert {row.category for row in rows} == {"1", "2", "3", "4A", "4B", "4C", "5"}
