"""Himalia in JupyterLab: the server half, and where the front end lies."""

from __future__ import annotations

from typing import Any


def _jupyter_labextension_paths() -> list[dict[str, str]]:
    return [{"src": "labextension", "dest": "himalia-lab"}]


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "himalia_lab"}]


def _load_jupyter_server_extension(server_app: Any) -> None:
    # Here, since without a server (a test, a tool that lists extensions) there may be no jupyter_server to import.
    from himalia_lab.extension import load

    load(server_app.web_app, server_app.log)
