"""How an image file becomes a square of pixels: the settings, and where the results are kept.

`PixelConfig` is part of a run's config and of a model's card: whoever predicts with a model must prepare images
exactly as they were prepared for training. `letterbox` does what it says, `store` keeps the result.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, final

from medtail.config import CLOSED, config_to_dict
from medtail.errors import MedtailError

CACHE_VARIABLE = "MEDTAIL_CACHE"


@final
@dataclass(frozen=True, kw_only=True)
class PixelConfig:
    """What is cut out of an image, and the square it is fitted into without stretching.

    Attributes:
        size_px: Side of the square, 8 to 4096.
        channels: 1 turns colour to luminance; 3 repeats gray.
        crop: `none` takes the whole image, `roi` the region of interest of the manifest.
        margin: Tissue kept around the region on each side, as a fraction of its longer side, 0 to 4; clipped at
            the image's border. Only for `crop="roi"`.
        square_roi: Grow the region's shorter side to the longer one with tissue from the image, moving inwards at
            a border, so that bars appear only where the image ends. Only for `crop="roi"`.
        missing_roi: A row without a region is an `error`, or its `whole` image is taken. Only for `crop="roi"`.
        fill: What the bars of the letterbox hold: `black`, or the `mirror` image of the content (repeated where
            needed), which puts no edge there for a transform or a convolution to find.

    Raises:
        MedtailError: A number is outside its range.

    Example:
        >>> PixelConfig(size_px=64, crop="roi").margin
        0.15
        >>> PixelConfig(size_px=0)
        Traceback (most recent call last):
        medtail.errors.MedtailError: size_px: found 0; expected 8 to 4096.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = CLOSED

    size_px: int = 128
    channels: Literal[1, 3] = 1
    crop: Literal["none", "roi"] = "none"
    margin: float = 0.15
    square_roi: bool = True
    missing_roi: Literal["error", "whole"] = "error"
    fill: Literal["black", "mirror"] = "black"

    def __post_init__(self) -> None:
        if not 8 <= self.size_px <= 4096:
            raise MedtailError(f"size_px: found {self.size_px!r}; expected 8 to 4096.")
        if not 0 <= self.margin <= 4:
            raise MedtailError(f"margin: found {self.margin!r}; expected 0 to 4 (fraction of the longer side).")
        for name, allowed in (("channels", (1, 3)), ("crop", ("none", "roi")), ("missing_roi", ("error", "whole")),
                              ("fill", ("black", "mirror"))):  # fmt: skip
            value = getattr(self, name)
            if value not in allowed:
                expected = " or ".join(repr(item) for item in allowed)
                raise MedtailError(f"{name}: found {value!r}; expected {expected}.")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one prepared image: (channels, size, size)."""
        return (self.channels, self.size_px, self.size_px)

    def identity(self) -> dict[str, Any]:
        """Return the settings that decide the pixels; those without effect here are left out.

        Example:
            >>> PixelConfig(margin=0.1).identity() == PixelConfig(margin=0.2).identity()
            True
        """
        values = config_to_dict(self)
        if self.crop == "none":
            for name in ("margin", "square_roi", "missing_roi"):
                del values[name]
        return values


def default_cache() -> Path:
    """Return the folder for prepared pixels: `$MEDTAIL_CACHE`, or `~/.cache/medtail/pixels`."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "medtail" / "pixels"
