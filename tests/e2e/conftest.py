"""A browser for tests: one Chromium for the suite, one context (cookies, storage) per person, a fresh lab per test.

Every test runs in one event loop, the browser's.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect

from e2e.lab import Hub, Lab, Picture, Visitor
from platform_fixture import Person, Platform

#: Without these Chromium looks for hosts of its own makers at every start.
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

STILL = 20  # looks at a page until it stands still

GROUP = "optics"
#: What the lab draws its terminal on is a picture; with this its text is in the page as well.
READABLE_TERMINAL = """
mkdir -p ~/.jupyter/lab/user-settings/@jupyterlab/terminal-extension
echo '{"screenReaderMode": true}' > ~/.jupyter/lab/user-settings/@jupyterlab/terminal-extension/plugin.jupyterlab-settings
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The browser lives in the session's loop, and so does what drives it."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """Where pictures go: `HIMALIA_SCREENSHOTS` (to renew those of the docs), else a folder git ignores."""
    folder = Path(os.environ.get("HIMALIA_SCREENSHOTS") or Path(__file__).parent / "screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def picture(screenshots: Path) -> Picture:
    async def take(page: Page, name: str, *, moving: bool = False) -> None:
        shot = await page.screenshot(animations="disabled", caret="hide")
        for _ in range(0 if moving else STILL):
            former, shot = shot, await page.screenshot(animations="disabled", caret="hide")
            if former == shot:
                break
            await asyncio.sleep(0.5)
        (screenshots / f"{name}.png").write_bytes(shot)

    return take


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(platform: Platform) -> AsyncGenerator[Browser]:
    found = os.environ.get("HIMALIA_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    env = os.environ | {"HIMALIA_BROWSER": str(found), "HIMALIA_BROWSER_PORT": str(platform.home.port)}
    async with async_playwright() as playwright:
        alone = Path(__file__).parent / "alone.py"
        browser = await playwright.chromium.launch(executable_path=alone, args=QUIET, env={**env})
        yield browser
        await browser.close()


async def _visitor(browser: Browser, platform: Platform, name: str) -> Visitor:
    context = await browser.new_context(viewport={"width": 1280, "height": 800}, locale="en-GB")
    context.set_default_timeout(60_000)
    return Visitor(platform.person(name), context)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def mia(browser: Browser, platform: Platform) -> AsyncGenerator[Visitor]:
    visitor = await _visitor(browser, platform, "mia")
    platform.group(GROUP, visitor.person)
    yield visitor
    await visitor.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def ole(browser: Browser, platform: Platform) -> AsyncGenerator[Visitor]:
    """In a group with mia."""
    visitor = await _visitor(browser, platform, "ole")
    platform.himalia("groups", "join", GROUP, "ole")
    yield visitor
    await visitor.close()


@pytest.fixture
def running(mia: Visitor) -> Person:
    """Mia, with her workspace running."""
    if not mia.person.server().get("ready"):
        mia.person.start()
    return mia.person


@pytest_asyncio.fixture(loop_scope="session")
async def lab(mia: Visitor, running: Person) -> AsyncGenerator[Lab]:
    """Mia's JupyterLab with nothing open in it."""
    running.run("bash", "-c", READABLE_TERMINAL)
    page = await mia.context.new_page()
    hub = Hub(page, running.platform)
    await page.goto(f"{hub.url}/hub/home")
    if "/hub/login" in page.url:
        await hub.login(running.name, running.password)
        await expect(page.get_by_role("heading", name="Your workspaces")).to_be_visible()
    yield await Lab.open(page, running)
    for opened in mia.context.pages:
        await opened.close()
