"""A live figure in JupyterLab: the slider moves the drawing, and Python observes the value."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import nbformat
import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
CELLS = (
    "from d2lmini import widgets\nlive = widgets.smooth_l1()\nlive",
    "print('sigma', round(live.figure.sigma, 2), round(live.controls['sigma'].value, 2))",
)

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium found; to run this test on Debian: apt-get install chromium"
)


@pytest.fixture
def lab(tmp_path) -> Iterator[str]:
    """The address of a JupyterLab whose folder holds one notebook with one figure."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    notebook.metadata.kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(notebook, tmp_path / "figure.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--no-browser", "--allow-root", f"--port={port}", "--port-retries=0"]
    options += ["--IdentityProvider.token=", f"--ServerApp.root_dir={tmp_path}"]
    environment = {**os.environ, "JUPYTER_CONFIG_DIR": str(tmp_path / "config"), "HOME": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *options],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield _wait_for(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(address: str) -> str:
    for _ in range(240):
        try:
            urllib.request.urlopen(f"{address}/api", timeout=5).close()
            return address
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.25)
    raise TimeoutError("JupyterLab did not start within a minute")


def test_slider_moves_the_figure_and_python_knows(lab):
    from playwright.sync_api import sync_playwright

    options = ["--disable-gpu", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        tab = chromium.new_page(viewport={"width": 1280, "height": 900})
        tab.set_default_timeout(60_000)
        tab.goto(f"{lab}/lab/tree/figure.ipynb?reset")
        cells = tab.locator(".jp-Notebook .jp-CodeCell")
        cells.first.wait_for()
        tab.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()
        cells.first.click()
        tab.locator(".lm-MenuBar-itemLabel", has_text="Run").first.click()
        tab.get_by_text("Run All Cells", exact=True).first.click()
        tab.locator(".d2l-figure .readout:not(:empty)").wait_for()
        figure = tab.locator(".d2l-figure")
        assert figure.get_attribute("data-state").startswith("σ = 1.00")
        tab.locator(".noUi-handle").first.focus()
        # One step at a time: the kernel answers each, and a late answer moves the handle back.
        for _ in range(100):
            sigma = float(re.search(r"[\d.]+", figure.get_attribute("data-state"))[0])
            if sigma == 1.5:
                break
            tab.keyboard.press("ArrowRight" if sigma < 1.5 else "ArrowLeft")
            tab.wait_for_timeout(300)
        tab.locator(".d2l-figure[data-state^='σ = 1.50']").wait_for()
        cells.nth(1).locator(".cm-content").click()
        tab.keyboard.press("Shift+Enter")
        tab.get_by_text("sigma 1.5 1.5").wait_for()
        chromium.close()
