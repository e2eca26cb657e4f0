"""The pictures of the pages in docs/gallery.md, of drawn images alone.

python docs/draw_gallery.py
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageEnhance
from playwright.sync_api import sync_playwright

from medclf.demo_images import draw_endoscopy
from medclf.inference.bundle import load_bundle
from medclf.serving.app import create_app, running

LAPTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
PROBE = ("--modality", "endoscopy", "--arch", "efficientnet_lite0", "--split", "stratified", "--recipe", "probe")


def medclf(*words: str) -> None:
    """Run a command, in this folder."""
    subprocess.run([sys.executable, "-m", "medclf", *words], check=True, stdout=subprocess.DEVNULL)


def prepare() -> None:
    """Two runs, the pages that stand on them, and a detector, in this folder."""
    draw_endoscopy("drawn", n_per_class=50, size=(320, 288))
    draw_endoscopy("pool", n_per_class=50, size=(320, 288), seed=7)
    medclf("train", "drawn", *PROBE, "--size", "160", "--out", "RUN")
    medclf("train", "drawn", *PROBE, "--size", "128", "--out", "OTHER")
    medclf("compare", "RUN", "OTHER", "--out", "compare.html")
    medclf("shortcuts", "RUN")
    medclf("label-next", "pool", "--run", "RUN", "--n", "12", "--out", "next.html")
    medclf("review", "export", "RUN", "--images", "12", "--out", "sheet.csv")
    detector = ("--arch", "efficientnet_lite0", "--size", "128", "--epochs", "8", "--unlisted", "negative")
    medclf("train", "drawn", "--boxes", "drawn/boxes.csv", *detector, "--out", "BOXES")


def darkened(path: Path) -> bytes:
    """A drawn image as another lamp would show it."""
    file = io.BytesIO()
    ImageEnhance.Brightness(Image.open(path)).enhance(0.5).save(file, "JPEG")
    return file.getvalue()


def ask(url: str) -> None:
    """Ask a service about the pool, and then about the same images in worse light."""
    pool = sorted(Path("pool").rglob("*.jpg"), key=lambda path: path.name[::-1])
    for body in [*(path.read_bytes() for path in pool[:100]), *map(darkened, pool[100:])]:
        urllib.request.urlopen(urllib.request.Request(f"{url}/v1/predict", body, {"Content-Type": "image/jpeg"}))


def drop(page: Any) -> None:
    """Three images of the pool, answered."""
    page.get_by_label("Show where the model looked").check()
    page.set_input_files("#files", sorted(Path("pool").rglob("*-0001.jpg"))[1:])
    page.get_by_text("3 of 3 answered.").wait_for()
    page.wait_for_timeout(3000)  # for the maps


def open_error(page: Any) -> None:
    """The first error, with where the model looked."""
    page.click("[data-group=wrong]")
    page.click("#gallery li:first-child button")
    page.locator("dialog").get_by_label("where the model looked").check()


def clicks(*selectors: str) -> Callable[[Any], None]:
    """What clicks on each of these."""
    return lambda page: [page.click(one) for one in selectors]


SHOTS: dict[str, tuple[str, dict[str, Any], Callable[[Any], object]]] = {
    "report": ("RUN/report.html", {}, clicks("[data-cell='2,3']")),
    "image": ("RUN/report.html", {}, open_error),
    "labels": ("RUN/report.html", {}, clicks("[data-tab=labels]", "#review")),
    "trust": ("RUN/report.html", {"color_scheme": "dark"}, clicks("[data-tab=trust]")),
    "phone": ("RUN/report.html", {"viewport": PHONE, "has_touch": True}, clicks()),
    "compare": ("compare.html", {}, clicks()),
    "shortcuts": ("RUN/shortcuts.html", {}, clicks()),
    "label-next": ("next.html", {}, clicks()),
    "second-read": ("sheet.html", {}, clicks()),
    "boxes": ("BOXES/report.html", {}, clicks()),
}


def main() -> None:
    """Make the runs, and write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "images", help="folder")
    out = parser.parse_args().out.resolve()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        os.chdir(folder)
        prepare()
        chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])

        def shoot(name: str, address: str, act: Callable[[Any], object], **options: Any) -> None:
            page = browser.new_context(**{"viewport": LAPTOP, **options}).new_page()
            page.goto(address)
            act(page)
            page.wait_for_timeout(1000)  # pictures are decoded when they are shown
            picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(256)
            picture.save(out / f"{name}.png", optimize=True)
            page.context.close()
            print(f"{name}.png: {(out / f'{name}.png').stat().st_size / 1000:.0f} kB")

        for name, (file, options, act) in SHOTS.items():
            shoot(name, Path(file).resolve().as_uri(), act, **options)
        with running(create_app(load_bundle("RUN/bundle"), watch="RUN/watch")) as url:
            ask(url)
            shoot("service", url, drop, viewport={"width": 1100, "height": 1250})
        medclf("watch", "RUN")
        shoot("watch", Path("RUN/watch/watch.html").resolve().as_uri(), clicks())
        os.chdir(out)


if __name__ == "__main__":
    main()
