from __future__ import annotations

import pandas as pd
import pytest

from medtail.errors import MedtailError
from medtail.tables.domains import UNKNOWN_DOMAIN, domain_numbers
from medtail.tables.manifest import Manifest, manifest_from_frame


def table(**columns: list[object]) -> Manifest:
    ids = list("abcd")
    frame = pd.DataFrame({"image_id": ids, "path": ids, "patient_id": ids, **columns, "Hernia": [1, 0, 0, 1]})
    return manifest_from_frame(frame, name="t.csv")


def test_sites_are_numbered_by_name_and_empty_cells_are_unknown() -> None:
    manifest = table(site=["Oslo", None, "Kyiv", "Oslo"])
    assert domain_numbers(manifest, column="site").tolist() == [1, UNKNOWN_DOMAIN, 0, 1]


def test_any_metadata_column_can_be_the_domain() -> None:
    manifest = table(age=[40, None, 9, 40], meta_scanner=["B", "A", "", "B"])
    assert domain_numbers(manifest, column="meta_scanner").tolist() == [1, 0, UNKNOWN_DOMAIN, 1]
    assert domain_numbers(manifest, column="age").tolist() == [0, UNKNOWN_DOMAIN, 1, 0]


def test_only_the_column_site_may_be_missing() -> None:
    manifest = table(meta_scanner=["B", "A", "", "B"])
    assert domain_numbers(manifest, column="site").tolist() == [UNKNOWN_DOMAIN] * 4
    assert domain_numbers(manifest, column=None).tolist() == [UNKNOWN_DOMAIN] * 4
    with pytest.raises(MedtailError, match=r"t.csv, column 'meta_scaner': is not there; .*did you mean 'meta_scanner'"):
        domain_numbers(manifest, column="meta_scaner")


def test_a_class_is_no_domain() -> None:
    with pytest.raises(MedtailError, match=r"t.csv, column 'Hernia': is a class; expected a metadata column"):
        domain_numbers(table(), column="Hernia")
