"""Make the pictures of the docs: the report and the page of `medtail serve`, in a headless Chromium.

    python tools/screenshots.py --out docs                        # runs `medtail quickstart` first, in minutes
    python tools/screenshots.py --quickstart quickstart --out docs   # uses one that was run before
    python tools/screenshots.py --run RUN --image a.png --image b.dcm --size-mm 12 --out /tmp/pictures

Writes report.png, serve.png, serve_dark.png, serve_phone.png and serve_print.png. Needs Chromium and the extras
`serve` and `explain`; downloads nothing.
"""

from __future__ import annotations

import argparse
import csv
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent))
from chromium import Chromium

COLOURS = 256
"""Of the palette: pictures of text need few, and the repository stays small."""
REPORT = {"width": 764, "height": 1176}
READ = "items.length > 0 && items.every((item) => !['waits', 'reading'].includes(item.state))"


@contextmanager
def serving(run: Path) -> Iterator[str]:
    """Serve a run; yields the page's address."""
    call = "import sys; from medtail.cli.main import call; sys.exit(call(sys.argv[1:]))"
    words = [sys.executable, "-c", call, "serve", str(run), "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if " open http" not in line:
                raise SystemExit(f"{run} cannot be served; try `medtail serve {run}`")
            yield line.split(" open ")[1].strip()
        finally:
            process.send_signal(signal.SIGINT)


def picture(browser: Chromium, path: Path, *, whole: bool = False) -> None:
    """Write a screenshot as a small PNG."""
    browser.evaluate("new Promise((done) => setTimeout(done, 300))")
    browser.screenshot(path, whole=whole)
    with Image.open(path) as image:
        image.convert("RGB").quantize(
            COLOURS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.FLOYDSTEINBERG
        ).save(path, optimize=True)
    sys.stdout.write(f"{path}: {path.stat().st_size / 1000:.0f} kB\n")


def show_page(run: Path, images: list[Path], regions: list[str | None], out: Path, *, size_mm: float | None) -> None:
    """Drop the images on the page, show a heat map, and take the pictures."""
    with serving(run) as address, Chromium(width=1200, height=900) as browser:
        browser.look(width=1200, height=950)
        browser.open(address)
        browser.wait_for("document.body.dataset.ready === 'true'")
        browser.drop("#drop", images)
        browser.wait_for(READ)
        for number, region in enumerate(regions):
            if region is not None and browser.evaluate("model.takes_roi"):
                browser.evaluate(f"select(items[{number}]); current.roi = [{region}]; readAgain()")
                browser.wait_for(READ)
        if size_mm is not None:
            browser.evaluate(f"$('size').value = '{size_mm}'; $('again').click()")
            browser.wait_for(READ)
        browser.evaluate("select(items[0]); document.querySelector('#findings .heat').click()")
        browser.wait_for("items[0].shown !== null")
        picture(browser, out / "serve.png")
        browser.look(width=1200, height=950, scheme="dark")
        picture(browser, out / "serve_dark.png")
        browser.look(width=400, height=800)
        browser.evaluate("$('result').scrollIntoView()")
        picture(browser, out / "serve_phone.png")
        browser.evaluate("scrollTo(0, 0)")
        browser.look(width=794, height=1123, media="print")
        picture(browser, out / "serve_print.png")
        if browser.complaints:
            raise SystemExit(f"the page complained: {browser.complaints}")


def from_quickstart(folder: Path) -> tuple[Path, list[Path], list[str | None]]:
    """Return the run of a quickstart, four of its test images and their regions."""
    with (folder / "split.csv").open(encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["fold"] == "test"][:4]
    sides = ("roi_x", "roi_y", "roi_w", "roi_h")
    regions = [",".join(str(int(float(row[side]))) for side in sides) if row.get("roi_x") else None for row in rows]
    return folder / "run", [folder / row["path"] for row in rows], regions


def main() -> None:
    """Read the options and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quickstart", type=Path, help="a folder made by `medtail quickstart`")
    parser.add_argument("--run", type=Path, help="another run, with --image; no picture of a report is made")
    parser.add_argument("--image", type=Path, action="append", default=[])
    parser.add_argument("--roi", action="append", default=[], help="x,y,width,height of each image")
    parser.add_argument("--size-mm", type=float)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = options.quickstart or Path(name) / "quickstart"
        if options.run is not None:
            regions = [*options.roi, *[None] * (len(options.image) - len(options.roi))]
            show_page(options.run, options.image, regions, options.out, size_mm=options.size_mm)
            return
        if options.quickstart is None:
            from medtail.quickstart import quickstart

            quickstart(folder, quiet=True)
        run, images, regions = from_quickstart(folder)
        with Chromium() as browser:
            browser.look(**REPORT)
            browser.open((folder / "report.html").resolve().as_uri())
            picture(browser, options.out / "report.png")
        show_page(run, images, regions, options.out, size_mm=options.size_mm)


if __name__ == "__main__":
    main()
