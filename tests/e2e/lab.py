"""The pages a person meets, as a test speaks of them: the hub's, JupyterLab, and what Himalia adds to it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from playwright.async_api import BrowserContext, Locator, Page, expect

from platform_fixture import Person, Platform

START = 180_000  # ms: the first start of a workspace
SAVE = 240_000
JOB = 180_000
ONCE = 60_000

expect.set_options(timeout=ONCE)  # the machine may be busy with containers


class Picture(Protocol):
    """Takes a picture of a page: when it stands still, or, with `moving`, as it is."""

    async def __call__(self, page: Page, name: str, *, moving: bool = False) -> None: ...


@dataclass
class Visitor:
    """Somebody in front of a browser of their own."""

    person: Person
    context: BrowserContext

    async def close(self) -> None:
        await self.context.close()
        self.person.session.close()


class Hub:
    """Login, home and spawn page."""

    def __init__(self, page: Page, platform: Platform) -> None:
        self.page, self.url = page, platform.url

    async def login(self, name: str, password: str) -> None:
        await self.page.goto(f"{self.url}/hub/login")
        await self.page.get_by_label("Name").fill(name)
        await self.page.get_by_label("Password").fill(password)
        await self.page.get_by_role("button", name="Log in").click()

    async def choices(self) -> None:
        """Open the spawn page."""
        await self.page.goto(f"{self.url}/hub/spawn")
        await expect(self.page.get_by_role("group", name="Environment")).to_be_visible()

    def choice(self, title: str) -> Locator:
        """An environment or a machine on the spawn page."""
        return self.page.locator(".choice").filter(has_text=title)

    async def start(self) -> None:
        await self.page.get_by_role("button", name="Start workspace").click()


class Sheet:
    """A dialog of Himalia."""

    def __init__(self, page: Page, title: str) -> None:
        self.node = page.locator(".himalia-Sheet").filter(has_text=title)

    def button(self, name: str) -> Locator:
        return self.node.get_by_role("button", name=name, exact=True)

    @property
    def state(self) -> Locator:
        return self.node.locator(".himalia-State")

    @property
    def log(self) -> Locator:
        return self.node.locator(".himalia-Log-text")


class Lab:
    """JupyterLab with nothing open but the launcher."""

    def __init__(self, page: Page, person: Person) -> None:
        self.page, self.person = page, person

    @staticmethod
    def origin(person: Person) -> str:
        home = person.platform.home
        return f"http://{person.name}.{home.domain}:{home.port}"

    @classmethod
    async def open(cls, page: Page, person: Person) -> Lab:
        await page.goto(f"{cls.origin(person)}/user/{person.name}/lab?reset")
        lab = cls(page, person)
        await lab.ready()
        return lab

    async def ready(self) -> None:
        await expect(self.page.locator(".jp-Launcher")).to_be_visible(timeout=ONCE)
        await expect(self.page.locator("#main .jp-LauncherCard").first).to_be_visible()
        await expect(self.save_button).to_be_visible(timeout=ONCE)

    @property
    def save_button(self) -> Locator:
        """Save environment, on top of everything."""
        return self.page.locator("#jp-top-bar").get_by_role("button", name="Save environment")

    def card(self, title: str) -> Locator:
        """A card of the launcher."""
        return self.page.locator(".jp-LauncherCard").filter(has_text=title)

    async def elsewhere(self, title: str) -> Page:
        """Open what the launcher opens in a tab of its own."""
        async with self.page.expect_popup() as popup:
            await self.card(title).click()
        return await popup.value

    async def command(self, label: str) -> None:
        """Run a command from the palette."""
        await self.page.keyboard.press("Control+Shift+C")
        palette = self.page.locator(".lm-CommandPalette:visible")
        await palette.locator("input").fill(label)
        await palette.locator(".lm-CommandPalette-item").filter(has_text=label).first.click()

    # --- files ---

    def write(self, path: str, text: str) -> None:
        """Put a file into the home folder."""
        self.person.run("bash", "-c", 'mkdir -p "$(dirname "$1")" && printf %s "$2" > "$1"', "bash", path, text)

    def file(self, name: str) -> Locator:
        return self.page.locator(".jp-DirListing-item").filter(has=self.page.get_by_text(name, exact=True))

    async def listed(self, name: str) -> Locator:
        """A file in the file browser, also when it is new."""
        refresh = self.page.locator("#filebrowser").get_by_role("button", name=re.compile("^Refresh"))
        await refresh.click()
        await expect(self.file(name)).to_be_visible()
        return self.file(name)

    async def open_file(self, name: str) -> None:
        await (await self.listed(name)).dblclick()

    # --- terminal and notebook ---

    async def terminal(self) -> Terminal:
        await self.card("Terminal").click()
        terminal = Terminal(self.page)
        await terminal.shows("$")
        return terminal

    async def notebook(self) -> Notebook:
        await self.page.locator('.jp-LauncherCard[data-category="Notebook"]').filter(has_text="Python 3").click()
        notebook = Notebook(self.page)
        await notebook.idle()
        return notebook

    # --- Himalia ---

    async def save(self) -> Sheet:
        await self.save_button.click()
        return Sheet(self.page, "Save environment")

    async def run_from_toolbar(self, name: str) -> Sheet:
        """Run the notebook in view as a job."""
        await self.page.locator(".jp-NotebookPanel-toolbar:visible").get_by_text("Run as job").click()
        return Sheet(self.page, f"Run {name} as a job")

    async def run_from_menu(self, name: str) -> Sheet:
        """Run a file from the file browser's menu as a job."""
        await (await self.listed(name)).click(button="right")
        await self.page.locator(".lm-Menu-item").filter(has_text="Run as job…").click()
        return Sheet(self.page, f"Run {name} as a job")

    async def jobs(self) -> Locator:
        """The side panel; the newest job is first."""
        await self.page.locator('.jp-SideBar [data-id="himalia-jobs"]').click()
        return self.page.locator(".himalia-Panel .himalia-Row")

    def toast(self, text: str) -> Locator:
        return self.page.locator(".Toastify__toast").filter(has_text=text)


class Terminal:
    """The terminal in view."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.node = page.locator(".jp-Terminal:visible")

    async def type(self, line: str) -> None:
        await self.node.click()
        await self.page.keyboard.type(line)
        await self.page.keyboard.press("Enter")

    async def shows(self, text: str, timeout: int = ONCE) -> None:
        await expect(self.node.locator(".xterm-accessibility-tree")).to_contain_text(text, timeout=timeout)


class Notebook:
    """The notebook in view."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.node = page.locator(".jp-NotebookPanel:visible")

    async def idle(self) -> None:
        # The notebook's own sign says idle also before it has a kernel, when what is typed may still be lost.
        await expect(self.page.locator("#jp-main-statusbar")).to_contain_text("Python 3 | Idle")

    async def run(self, code: str) -> None:
        """Write into the last cell and run it."""
        editor = self.node.locator(".jp-CodeCell").last.locator(".cm-content")
        await editor.fill(code)
        await expect(editor).to_have_text(code)
        await editor.press("Shift+Enter")

    async def shows(self, text: str) -> None:
        await expect(self.node.locator(".jp-OutputArea-output").last).to_contain_text(text, timeout=ONCE)
