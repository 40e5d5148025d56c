"""From tissue to a B-mode frame: scatter, point spread, loss in depth, gain, log compression, and the scanner's look.

Speckle is the envelope of a complex Gaussian field that the scanner's point spread has blurred (Rayleigh where nothing
else is); calcifications and capsules add a coherent part. Loss is summed along depth, so shadows and enhancement come
from what lies above, not from a label. Scanners differ in resolution, gain, dynamic range and finishing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
from scipy import fft, ndimage

from medtail.sources.phantom_nodule import Tissue
from medtail.sources.phantom_scene import Frame

WIDEST_PX = 1.6
"""Points at 128 pixels are spread no wider than this, or a small nodule would drown in its own speckle."""


@final
@dataclass(frozen=True, kw_only=True)
class Scanner:
    """How a machine at a site sees and shows.

    Attributes:
        device: Name, for the manifest.
        axial_mm: Standard deviation of the point spread in depth.
        lateral_mm: The same across.
        looks: Frames averaged (compounding): more make smoother speckle.
        range_db: Dynamic range of the display.
        gland_gray: Gray of normal thyroid, in [0, 1].
        slope_db: What the gain in depth leaves uncorrected, over the frame.
        noise_db: Electronic noise at the skin against thyroid echo; it grows with the gain in depth.
        sharpen: Edge enhancement; 0 is none.
        gamma: Of the gray curve; above 1 darkens.
    """

    device: str
    axial_mm: float
    lateral_mm: float
    looks: int
    range_db: float
    gland_gray: float
    slope_db: float
    noise_db: float
    sharpen: float
    gamma: float


SCANNERS: Mapping[str, Scanner] = {
    "north": Scanner(
        device="phantom-A", axial_mm=0.13, lateral_mm=0.22, looks=3, range_db=62.0, gland_gray=0.55, slope_db=-1.0,
        noise_db=-42.0, sharpen=0.0, gamma=1.0,
    ),
    "east": Scanner(
        device="phantom-B", axial_mm=0.16, lateral_mm=0.30, looks=2, range_db=56.0, gland_gray=0.50, slope_db=-5.0,
        noise_db=-40.0, sharpen=0.5, gamma=1.0,
    ),
    "south": Scanner(
        device="phantom-C", axial_mm=0.20, lateral_mm=0.38, looks=2, range_db=70.0, gland_gray=0.62, slope_db=2.0,
        noise_db=-38.0, sharpen=0.0, gamma=0.9,
    ),
    "west": Scanner(
        device="phantom-D", axial_mm=0.22, lateral_mm=0.42, looks=2, range_db=50.0, gland_gray=0.45, slope_db=-3.0,
        noise_db=-35.0, sharpen=0.7, gamma=1.1,
    ),
}  # fmt: skip
"""Site → its scanner."""
SITE_SHARES: Mapping[str, float] = {"north": 0.4, "east": 0.3, "south": 0.2, "west": 0.1}


def acquire(
    random: np.random.Generator, tissue: Tissue, *, grid: Frame, scanner: Scanner, spacing_mm: float
) -> np.ndarray:
    """Scan tissue.

    Args:
        random: Source of chance: speckle, noise, the operator's hand on the gain.
        tissue: What is there.
        grid: Its pixels.
        scanner: The machine.
        spacing_mm: Side of a pixel.

    Returns:
        uint8 [size, size].

    References:
        wagner1983: the envelope of many scatterers is Rayleigh distributed.
    """
    gain = float(random.uniform(-2.0, 2.0))
    slope = scanner.slope_db + float(random.uniform(-1.5, 1.5))
    widest = WIDEST_PX * grid.size_px / 128
    axial, lateral = (
        float(np.clip(np.hypot(0.45, mm / spacing_mm), 0.5, max(widest * part, 0.6)))
        for mm, part in ((scanner.axial_mm, 0.6), (scanner.lateral_mm, 1.0))
    )
    level = tissue.echo_db - _loss(tissue.extra_loss, grid) + slope * np.clip(grid.z, 0, 1)
    noise = scanner.noise_db + 10.0 * grid.z
    # both parts are Gaussian before the envelope is taken, so their powers add
    amplitude = np.sqrt(_power(level) + _power(noise))
    coherent = tissue.coherent * np.sqrt(_power(level - tissue.echo_db))
    intensity = _speckle(random, amplitude, coherent, looks=scanner.looks, axial=axial, lateral=lateral)
    shown = 10.0 * np.log10(grid.cut(intensity) + 1e-7)
    # the mean of a log of averaged intensities lies below the log of their mean
    shown += np.float32({1: 2.5, 2: 1.2, 3: 0.8}.get(scanner.looks, 0.0))
    gray = scanner.gland_gray + (shown + gain) / scanner.range_db
    if scanner.sharpen:
        gray += scanner.sharpen * (gray - ndimage.gaussian_filter(gray, 1.2 * grid.size_px / 128, truncate=2.5))
    gray = np.clip(gray, 0.0, 1.0) ** scanner.gamma
    return np.asarray((gray * 255.0 + 0.5).astype(np.uint8))


def _power(level_db: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(level_db.astype(np.float32) * np.float32(np.log(10) / 10)))


def _loss(extra_loss: np.ndarray, grid: Frame) -> np.ndarray:
    """Sum the loss down each column; a beam has width, so shadows have soft sides."""
    summed = np.cumsum(extra_loss, axis=0, dtype=np.float32) / np.float32(grid.size_px)
    summed[1:] = summed[:-1].copy()  # what lies at a point weakens what is behind it, not itself
    summed[0] = 0.0
    return np.asarray(ndimage.gaussian_filter1d(summed, 0.007 * grid.size_px, axis=1, truncate=2.5))


def _speckle(
    random: np.random.Generator,
    amplitude: np.ndarray,
    coherent: np.ndarray,
    *,
    looks: int,
    axial: float,
    lateral: float,
) -> np.ndarray:
    """Return the mean intensity of some looks at a field of scatterers, float32 [H, W], of mean amplitude² + coherent².

    Every look has its own scatterers (as a beam from another angle would see) and the same mirrors.
    """
    height, width = amplitude.shape
    down = np.exp(-2 * (np.pi * axial * fft.fftfreq(height)) ** 2)
    across = np.exp(-2 * (np.pi * lateral * fft.fftfreq(width)) ** 2)
    spread = np.outer(down, across).astype(np.float32)
    # a blur of unit sum shrinks the power of white noise by the mean square of its spectrum
    scatter = amplitude * np.float32(1 / np.sqrt(2 * np.mean(down**2) * np.mean(across**2)))
    total = np.zeros(amplitude.shape, dtype=np.float32)
    noise = np.empty((2, height, width), dtype=np.float32)
    field = np.empty(amplitude.shape, dtype=np.complex64)
    for _ in range(looks):
        random.standard_normal(out=noise, dtype=np.float32)
        noise *= scatter
        np.add(noise[0], coherent, out=field.real)
        field.imag = noise[1]
        spectrum = fft.fft2(field)
        spectrum *= spread
        blurred = fft.ifft2(spectrum, overwrite_x=True)
        total += np.square(blurred.real)
        total += np.square(blurred.imag)
    return np.asarray(total / np.float32(looks))
