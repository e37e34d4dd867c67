"""What JupyterLab's launcher offers: each opens, and works."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from e2e.lab import Lab, Picture
from platform_fixture import Person, until
from platform_fixture import browser as client_of

pytestmark = [pytest.mark.docker, pytest.mark.browser, pytest.mark.timeout(600)]

#: A short run, written by the TensorBoard that shows it.
EVENTS = """
from tensorboard.summary import Writer
writer = Writer("runs/first")
for step in range(40):
    writer.add_scalar("loss", 1 / (1 + step / 4), step)
writer.close()
"""


async def test_the_terminal_runs_what_is_typed_and_apt_installs_with_sudo(lab: Lab):
    terminal = await lab.terminal()
    await terminal.type("echo $((6 * 7)) moons")
    await terminal.shows("42 moons")
    await terminal.type(
        "sudo apt-get update -q > /tmp/apt.log && sudo apt-get install -qy tree >> /tmp/apt.log; echo over $?"
    )
    await terminal.shows("over 0", timeout=180_000)
    assert lab.person.run("tree", "--version").startswith("tree v")


async def test_a_notebook_runs_in_the_persons_own_python(lab: Lab):
    notebook = await lab.notebook()
    await notebook.run("import sys; sys.prefix")
    await notebook.shows("/opt/venv")


async def test_vs_code_opens_edits_a_file_and_saves_it(lab: Lab, picture: Picture):
    lab.write("moon/hello.py", 'print("hello")\n')
    code = await lab.elsewhere("VS Code")
    await expect(code.locator(".monaco-workbench")).to_be_visible(timeout=120_000)
    await code.locator(".explorer-folders-view").get_by_text("moon", exact=True).click()
    await code.locator(".explorer-folders-view").get_by_text("hello.py", exact=True).dblclick()
    editor = code.locator(".monaco-editor .view-lines")
    await expect(editor).to_contain_text('print("hello")')
    await editor.click()
    await code.keyboard.press("Control+End")
    await code.keyboard.type('print("moon")')
    await picture(code, "vscode")
    await code.keyboard.press("Control+S")
    until(lambda: "moon" in lab.person.run("cat", "moon/hello.py"), "VS Code saved the file")


async def test_tensorboard_opens_and_shows_a_run(lab: Lab, picture: Picture):
    lab.person.run("/opt/himalia/bin/python", "-c", EVENTS)
    board = await lab.elsewhere("TensorBoard")
    await expect(board.get_by_text("loss").first).to_be_visible(timeout=120_000)
    await expect(board.get_by_text("runs/first").first).to_be_visible()
    await expect(board.locator("line-chart canvas").first).to_be_visible()
    await picture(board, "tensorboard")


def test_an_open_tensorboard_that_asks_for_new_data_is_no_activity(running: Person):
    base = f"{Lab.origin(running)}/user/{running.name}"
    with client_of(headers={"Authorization": f"token {running.token}"}) as client:

        def last() -> str:
            return client.get(f"{base}/api/status").json()["last_activity"]

        assert client.get(f"{base}/tensorboard/").status_code == 200
        before = last()
        assert client.get(f"{base}/tensorboard/data/runs").status_code == 200
        assert client.get(f"{base}/vscode/healthz").status_code == 200
        assert last() == before
        assert client.get(f"{base}/tensorboard/").status_code == 200
        assert last() > before
