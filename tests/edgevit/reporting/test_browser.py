"""The report in a real browser: the figures are drawn, nothing is refused, and a phone needs no sideways scrolling."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edgevit.reporting.collect import report
from tests.edgevit.reporting.report_shelf import build_shelf

PHONE_PX = 390
# Headless windows are at least 500 px wide, so the phone is a frame in one.
PHONE = f"""<!doctype html>
<iframe id="phone" src="report.html" style="border:0;width:{PHONE_PX}px;height:800px"></iframe>
<script>
phone.onload = () => setTimeout(() => {{
  const page = phone.contentDocument.documentElement;
  document.body.dataset.widths = `${{page.clientWidth}} ${{page.scrollWidth}}`;
}}, 500);
</script>"""


@pytest.fixture(scope="module")
def browser() -> str:
    """Path of a Chromium; its absence skips, or fails where EDGEVIT_REQUIRE names chromium."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        refuse = pytest.fail if "chromium" in os.environ.get("EDGEVIT_REQUIRE", "").split(",") else pytest.skip
        refuse("no chromium on PATH: apt-get install chromium")
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shelf = build_shelf(tmp_path_factory.mktemp("browser") / "shelf")
    (path,) = report(shelf, formats=["html"])
    return path


def _dump(browser: str, page: Path, profile: Path) -> tuple[str, str]:
    """The page's DOM after its scripts ran, and the browser's log."""
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--allow-file-access-from-files", "--hide-scrollbars",
        f"--user-data-dir={profile}", "--virtual-time-budget=10000",
        "--enable-logging=stderr", "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout, done.stderr


def test_every_figure_is_drawn_without_a_complaint(browser: str, page: Path, tmp_path: Path) -> None:
    dom, log = _dump(browser, page, tmp_path / "profile")
    places = re.findall(r'<div id="figure-([\w-]+)"', dom)
    assert len(places) == 8
    assert dom.count('class="plot-container plotly"') == len(places)
    assert dom.count('class="point"') >= 120  # the raw samples of two profiles
    assert "CONSOLE" not in log, [line for line in log.splitlines() if "CONSOLE" in line]


def test_phone_needs_no_sideways_scrolling(browser: str, page: Path, tmp_path: Path) -> None:
    frame = page.with_name("phone.html")
    frame.write_text(PHONE)
    dom, _ = _dump(browser, frame, tmp_path / "profile")
    visible_px, content_px = map(int, re.search(r'data-widths="(\d+) (\d+)"', dom).groups())
    assert visible_px == PHONE_PX
    assert content_px <= visible_px
