"""Run as job: from a notebook's toolbar, from a file's menu; the log while it runs and after."""

from __future__ import annotations

import json

import pytest
from playwright.async_api import expect

from e2e.lab import JOB, Lab, Picture

pytestmark = [pytest.mark.docker, pytest.mark.browser, pytest.mark.timeout(600)]

NOTEBOOK = json.dumps(
    {
        "cells": [
            {"cell_type": "code", "id": "a", "metadata": {}, "outputs": [], "execution_count": None, "source": source}
            for source in ("import sys", "print('cell says', sys.prefix)")
        ],
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
)

#: It goes on when the test has seen what it wrote: what is shown before was shown live.
SCRIPT = """
import time
from pathlib import Path

print("epoch 1: loss 0.9", flush=True)
go = Path.home() / "go"
until = time.monotonic() + 240
while not go.exists() and time.monotonic() < until:
    time.sleep(0.1)
for epoch in range(2, 13):
    print(f"epoch {epoch}: loss {0.9 / epoch:.3f}", flush=True)
Path("model.txt").write_text("trained")
"""


async def test_a_notebook_runs_as_a_job_from_its_toolbar(lab: Lab):
    lab.write("digits/first.ipynb", NOTEBOOK)
    await lab.open_file("digits")
    await lab.open_file("first.ipynb")
    sheet = await lab.run_from_toolbar("first.ipynb")
    await expect(sheet.node.get_by_label("Parameters")).to_be_visible()
    await sheet.button("Run as job").click()
    await expect(sheet.node.locator(".himalia-Packed")).to_contain_text("packed", timeout=JOB)
    await expect(sheet.state).to_have_text("Succeeded", timeout=JOB)
    await expect(sheet.log).to_contain_text("cell says /opt/venv")


async def test_a_script_runs_as_a_job_from_its_menu_and_its_log_is_live(lab: Lab, picture: Picture):
    lab.person.run("rm", "-f", "go")
    lab.write("digits/train.py", SCRIPT)
    await lab.open_file("digits")
    sheet = await lab.run_from_menu("train.py")
    await expect(sheet.node.get_by_label("Arguments")).to_be_visible()
    await picture(lab.page, "run")
    await sheet.button("Run as job").click()
    await expect(sheet.log).to_contain_text("epoch 1: loss 0.9", timeout=JOB)
    await expect(sheet.state).to_have_text("Running")
    await sheet.button("Open in a tab").click()
    rows = await lab.jobs()
    await expect(rows.first).to_contain_text("Running")
    lab.person.run("touch", "go")
    tab = lab.page.locator(".himalia-Job")
    await expect(tab.locator(".himalia-Log-text")).to_contain_text("epoch 12: loss 0.075", timeout=JOB)
    await expect(tab.locator(".himalia-State")).to_have_text("Succeeded", timeout=JOB)
    await expect(rows.first).to_contain_text("Succeeded")
    await expect(rows.first).to_contain_text("train.py")
    await picture(lab.page, "job")
