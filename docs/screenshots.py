"""Pictures of every view of the page, on a desk and on a phone, light and dark.

    python docs/screenshots.py STUDY_FOLDER OUT [--whole] [--only light|dark]

Needs Debian's chromium, and playwright and pillow in the environment (the extras dev and plots).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from nightlab.place import find

SCREENS = {"desk": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}
VIEWS = ("overview", "experiments", "experiment", "tree", "frontier", "insights", "control", "report")
LARGEST = 120_000


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a study's page while a server of its own runs."""
    command = [sys.executable, "-m", "nightlab", "-C", str(folder), "web", "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["url"].partition("?")[0].rstrip("/")
        finally:
            process.send_signal(signal.SIGINT)


def addresses(folder: Path) -> dict[str, str]:
    """Where each view is; the experiment that is shown is the one that stands now."""
    place = find(folder)
    with closing(place.read()) as ledger:
        best = ledger.incumbent()
    base = f"/s/{place.name}/"
    return {
        view: base + {"overview": "", "experiment": f"e/{best.id if best else 0}"}.get(view, view) for view in VIEWS
    }


def small(picture: bytes) -> bytes:
    """The same picture in as many colours as fit the size that a README bears."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    for colours in (128, 64, 32, 16):
        packed = io.BytesIO()
        image.quantize(colours, dither=Image.Dither.NONE).save(packed, "PNG", optimize=True)
        if packed.tell() <= LARGEST:
            break
    return packed.getvalue()


def take(browser: Browser, url: str, views: dict[str, str], out: Path, scheme: str, is_whole: bool) -> None:
    """Every view in one colour scheme, on every screen."""
    for screen, size in SCREENS.items():
        context = browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
        page = context.new_page()
        for view, address in views.items():
            page.goto(url + address, wait_until="load")
            page.wait_for_timeout(700)  # the charts are drawn after the first message has come
            shot = page.screenshot(full_page=is_whole)
            (out / f"{view}-{screen}-{scheme}.png").write_bytes(small(shot))
        context.close()


def main() -> None:
    """The command."""
    words = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    words.add_argument("folder", type=Path, help="the repository of a study")
    words.add_argument("out", type=Path, help="where the pictures go")
    words.add_argument("--whole", action="store_true", help="the whole page, not the first screen")
    words.add_argument("--only", choices=("light", "dark"), help="one colour scheme")
    asked = words.parse_args()
    program = shutil.which("chromium")
    if program is None:
        sys.exit("chromium is not installed; sudo apt-get install chromium")
    asked.out.mkdir(parents=True, exist_ok=True)
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's own jail does not work for root
    with served(asked.folder) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        for scheme in [asked.only] if asked.only else ["light", "dark"]:
            take(browser, url, addresses(asked.folder), asked.out, scheme, asked.whole)
        browser.close()


if __name__ == "__main__":
    main()
