"""Take the pictures of the example that the documents show: docs/pictures/demo.png and demo-dark.png.

Run by `make pictures`. The times in the strip differ from run to run; all else is the same.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

import httpx
from PIL import Image
from playwright.sync_api import Browser, ViewportSize, expect, sync_playwright
from test_browser import OPTIONS, sign_in
from test_example import BACKUP, GIB, REPORT, Demo, start, stop

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "pictures"
VIEWPORT: ViewportSize = {"width": 1160, "height": 850}
CONTENT = 12.0  # seconds into the video, where the picture shows it
LARGEST = 150_000  # bytes


def take(browser: Browser, demo: Demo, scheme: Literal["light", "dark"], target: Path) -> None:
    """One picture of the shelf, after files have been sent with nginx and without."""
    context = browser.new_context(
        base_url=demo.address, viewport=VIEWPORT, device_scale_factor=2, color_scheme=scheme, reduced_motion="reduce"
    )
    page = context.new_page()
    page.goto("/")
    sign_in(page)
    page.evaluate(
        """seconds => new Promise(resolve => {
            const video = document.querySelector("video");
            video.addEventListener("canplaythrough", () => requestIdleCallback(resolve), {once: true});
            video.currentTime = seconds;
        })""",
        CONTENT,
    )
    page.request.get(f"/files/{REPORT}")
    cookies = {cookie["name"]: cookie["value"] for cookie in context.cookies()}
    for address in (demo.app_address, demo.address):
        with httpx.stream("GET", f"{address}/files/{BACKUP}/download", cookies=cookies, trust_env=False) as answer:
            assert sum(map(len, answer.iter_raw())) == GIB
    rows = page.locator("#transfers tbody tr")
    for sender in ("Python", "nginx"):
        expect(rows.filter(has_text="Backup").filter(has_text=sender)).to_be_visible()
    expect(rows.filter(has_text="still sending")).to_have_count(0)
    page.evaluate("document.activeElement.blur()")
    page.screenshot(path=target)
    context.close()
    with Image.open(target) as image:
        image.convert("RGB").quantize(256, kmeans=2, dither=Image.Dither.NONE).save(target, optimize=True)
    size = target.stat().st_size
    print(f"{target.relative_to(Path.cwd())}: {size:,} bytes")
    assert size < LARGEST, f"more than {LARGEST:,} bytes"


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        for scheme, name in (("light", "demo.png"), ("dark", "demo-dark.png")):
            own = Path(temporary) / scheme
            own.mkdir()
            demo = start(own)
            try:
                with playwright.chromium.launch(executable_path="/usr/bin/chromium", args=OPTIONS) as browser:
                    take(browser, demo, "light" if scheme == "light" else "dark", PICTURES / name)
            finally:
                stop(demo)


if __name__ == "__main__":
    main()
