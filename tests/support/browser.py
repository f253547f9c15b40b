"""The system's Chromium."""

import contextlib
from typing import TYPE_CHECKING

from tests.support.tools import require

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import Browser


@contextlib.asynccontextmanager
async def chromium() -> "AsyncIterator[Browser]":
    """Run Chromium without a window."""
    from playwright.async_api import async_playwright  # noqa: PLC0415 - slow to import

    executable = require("chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        await browser.close()
