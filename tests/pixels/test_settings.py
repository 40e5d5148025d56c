from __future__ import annotations

from pathlib import Path

import pytest

from medtail.config import build_config
from medtail.errors import MedtailError, UsageError
from medtail.pixels.settings import PixelConfig, default_cache


def test_settings_are_built_from_a_mapping_and_unknown_keys_are_refused() -> None:
    assert build_config(PixelConfig, {"size_px": 64, "crop": "roi"}, where="a.yaml") == PixelConfig(
        size_px=64, crop="roi"
    )
    with pytest.raises(UsageError, match="sizepx: unknown key; did you mean 'size_px'"):
        build_config(PixelConfig, {"sizepx": 64}, where="a.yaml")
    with pytest.raises(UsageError, match=r"level\): margin: found -1\.0; expected 0 to 4"):
        build_config(PixelConfig, {"margin": -1}, where="a.yaml")


def test_settings_outside_their_range_are_refused() -> None:
    with pytest.raises(MedtailError, match=r"size_px: found 0; expected 8 to 4096"):
        PixelConfig(size_px=0)
    with pytest.raises(MedtailError, match=r"channels: found 2; expected 1 or 3"):
        PixelConfig(channels=2)  # type: ignore[arg-type]


def test_settings_without_effect_do_not_count() -> None:
    assert PixelConfig(margin=0.5).identity() == PixelConfig(margin=0.1).identity()
    assert PixelConfig(crop="roi", margin=0.5).identity() != PixelConfig(crop="roi", margin=0.1).identity()


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MEDTAIL_CACHE", str(tmp_path / "here"))
    assert default_cache() == tmp_path / "here"
    monkeypatch.delenv("MEDTAIL_CACHE")
    assert default_cache().parts[-3:] == (".cache", "medtail", "pixels")
