"""A headless Chromium for tests; they skip where playwright or the browser is absent."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no Chromium; install it (apt-get install chromium) or name it with CHROMIUM")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])  # containers run as root
        try:
            yield started
        finally:
            started.close()


class Watched:
    """A page from disk; `problems` lists what its console says, its errors and its requests beyond files."""

    def __init__(self, started: Any, **settings: Any):
        self.context = started.new_context(accept_downloads=True, **settings)
        self.page = self.context.new_page()
        self.problems: list[str] = []
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.problems.append(f"dialog {dialog.message}"), dialog.dismiss()))
        self.page.on("request", lambda request: self._note(request.url))

    def _note(self, url: str) -> None:
        if not url.startswith(("file:", "blob:", "data:")):
            self.problems.append(url)

    def open(self, path: Path, address: str = "") -> Any:
        self.page.goto(f"{path.resolve().as_uri()}{address}")
        self.page.wait_for_selector("html[data-ready]")
        self.page.wait_for_selector("#picture svg")
        return self.page

    def saved(self, click: Any) -> str:
        with self.page.expect_download() as waiting:
            click()
        return Path(waiting.value.path()).read_text(encoding="utf-8")
