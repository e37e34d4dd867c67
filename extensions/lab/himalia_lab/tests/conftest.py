from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from control import Control, Running

pytest_plugins = ["pytest_jupyter.jupyter_server"]


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Running]:
    """A workspace's environment, and the control plane it talks to. The owner's token is one nobody may use here."""
    home = tmp_path / "home"
    home.mkdir()
    with Running(Control(tokens={"the-visitor": "ada"})) as running:
        for name, value in {
            "HOME": str(home),
            "HIMALIA_URL": running.url,
            "HIMALIA_PUBLIC_URL": "http://himalia--service.himalia.localhost:8000/services/himalia",
            "HIMALIA_WORKSPACE": "ws-1",
            "HIMALIA_ENVIRONMENT": "himalia/base:1",
            "JUPYTERHUB_API_TOKEN": "the-owner",
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("HIMALIA_TOKEN", raising=False)
        yield running


@pytest.fixture
def project(platform: Running, tmp_path: Path) -> Path:
    """A project in the home, with a script, a notebook, a sibling module and a marker."""
    folder = tmp_path / "home" / "digits"
    folder.mkdir()
    (folder / ".himaliaignore").write_text("*.bin\n")
    (folder / "train.py").write_text("import model\n")
    (folder / "model.py").write_text("")
    (folder / "eval.ipynb").write_text("{}")
    (folder / "big.bin").write_text("x")
    return folder
