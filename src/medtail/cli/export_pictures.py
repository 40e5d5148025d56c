"""Heat maps for `medtail export --format sr --heat-maps`: the model explained, laid over the image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from medtail.exchange.dicom_export import Pictures
    from medtail.exchange.findings import ImageFindings
    from medtail.tables.manifest import Manifest


def heat_pictures(run: Path, manifest: Manifest, *, most: int) -> Pictures:
    """Return what makes the pictures of one image: the heat of its likeliest findings, averaged over the members.

    Args:
        run: A run folder.
        manifest: Of the images.
        most: Findings an image.
    """
    import torch

    from medtail.exchange.torch_engine import TorchDiagnoser
    from medtail.explain.maps import heat_maps, methods_for
    from medtail.explain.overlay import overlay, to_image
    from medtail.pixels.dataset import content_masks, to_float
    from medtail.pixels.decode import read_image
    from medtail.pixels.letterbox import letterbox

    engine = TorchDiagnoser(run)
    labels, config = engine.card.labels, engine.card.parts.pixels
    method = methods_for(engine.diagnosers[0])[0]

    def pictures(row: int, findings: ImageFindings) -> Iterator[tuple[str, np.ndarray]]:
        shown = findings.findings[:most]
        classes = [labels.index(finding.name) for finding in shown]
        pixels = read_image(manifest.image_path(row))
        roi = manifest.roi(row) if config.crop == "roi" else None
        square, box = letterbox(pixels, config=config, roi=roi)
        images = to_float(torch.from_numpy(square[None]))
        content = content_masks(torch.tensor([box]), size_px=config.size_px)
        found = [
            heat_maps(diagnoser, images, classes=classes, method=method, content=content).numpy()[0]
            for diagnoser in engine.diagnosers
        ]
        base = np.rint(255 * pixels).astype(np.uint8)
        for finding, heat in zip(shown, np.mean(found, axis=0), strict=True):
            whole = to_image(heat, height=base.shape[0], width=base.shape[1], config=config, roi=roi)
            yield f"{finding.name} {finding.probability:.2f}, {method.replace('_', ' ')}", overlay(base, whole)

    return pictures
