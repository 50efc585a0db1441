"""Remake the pictures of docs/report.md: ``python scripts/report_images.py [RESULTS]``.

It writes the report of a results folder (default: the committed reference results), opens it in headless Chromium and
takes pictures. It needs the extra ``browser`` and Debian's packages ``chromium`` and ``chromium-driver``.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

from PIL import Image
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from pvdr_bench.results.collect import collect
from pvdr_bench.results.report import build_report

ROOT = Path(__file__).resolve().parent.parent
WIDTH, HEIGHT = 1120, 860


def open_browser() -> Chrome:
    """Headless Chromium, two device pixels a pixel."""
    options = ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                 "--force-device-scale-factor=2", f"--window-size={WIDTH},{HEIGHT}"):
        options.add_argument(word)
    return Chrome(options=options, service=Service("/usr/bin/chromedriver"))


def picture(browser: Chrome, out: Path, *, height: int = HEIGHT, colors: int = 128) -> None:
    """What stands in the window, with few colours, so that the file is small."""
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": WIDTH, "height": height, "deviceScaleFactor": 2, "mobile": False})
    image = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    out.parent.mkdir(parents=True, exist_ok=True)
    image.quantize(colors, dither=Image.Dither.NONE).save(out, optimize=True)
    print(f"{out} {out.stat().st_size / 1000:.0f} kB")


def set_theme(browser: Chrome, theme: str) -> None:
    """Choose light or dark as a reader does."""
    browser.find_element(By.CSS_SELECTOR, f"#theme option[value={theme}]").click()


def main(results: Path, folder: Path) -> None:
    """Three pictures: overview and table, curves with a reading, and a run in the dark."""
    found = collect(results)
    with tempfile.TemporaryDirectory() as place:
        page = Path(place) / "report.html"
        page.write_text(build_report(found).html, encoding="utf-8")
        browser = open_browser()
        try:
            browser.get(page.as_uri())
            set_theme(browser, "light")
            browser.execute_script("document.activeElement.blur()")
            picture(browser, folder / "report-overview.png", height=1060)
            browser.execute_script("document.getElementById('curves-title').scrollIntoView({behavior: 'instant'})")
            plot = browser.find_element(By.CSS_SELECTOR, ".plot")
            browser.execute_script("arguments[0].focus({preventScroll: true, focusVisible: true})", plot)
            plot.send_keys(Keys.HOME, *[Keys.ARROW_RIGHT] * 3)
            picture(browser, folder / "report-curves.png", height=770)
            longest = max(found.runs["path"], key=lambda path: len((found.places[path] / "train.jsonl").read_bytes()))
            browser.execute_script("location.hash = arguments[0]", f"#run={quote(longest, safe='/')}")
            set_theme(browser, "dark")
            browser.execute_script("document.activeElement.blur(); scrollTo({top: 0, behavior: 'instant'})")
            picture(browser, folder / "report-run.png", height=1500)
        finally:
            browser.quit()


if __name__ == "__main__":
    reference = ROOT / "results" / "reference" / "reach-cpu"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else reference, ROOT / "docs" / "images")
