"""The system's Chromium."""

import contextlib
import json
import subprocess
from typing import TYPE_CHECKING

from tests.support.run_dir import forget_pid, note_pid, run_dir
from tests.support.tools import require

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from playwright.async_api import Browser


@contextlib.contextmanager
def browser_server() -> "Iterator[str]":
    """Run Chromium without a window. Yield the URL for `connected`."""
    from playwright._impl._driver import compute_driver_executable, get_driver_env  # noqa: PLC0415 - slow to import

    config = run_dir() / "chromium.json"
    config.write_text(json.dumps({"executablePath": str(require("chromium")), "args": ["--no-sandbox"]}))
    command = [*compute_driver_executable(), "launch-server", "--browser", "chromium", "--config", str(config)]
    with subprocess.Popen(command, env=get_driver_env(), stdout=subprocess.PIPE, text=True) as process:
        note_pid(process.pid)
        try:
            assert process.stdout
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
            process.wait()
            forget_pid(process.pid)


@contextlib.asynccontextmanager
async def connected(url: str) -> "AsyncIterator[Browser]":
    """Connect to a running Chromium. Its pages and profiles end with the connection."""
    from playwright.async_api import async_playwright  # noqa: PLC0415 - slow to import

    async with async_playwright() as playwright:
        browser = await playwright.chromium.connect(url)
        yield browser
        await browser.close()
