"""What this extension adds to a Jupyter server: settings of the page, and the routes that need the workspace's files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from logging import Logger

from jupyter_server.utils import url_path_join
from tornado.web import Application

from himalia.login import service_url
from himalia_lab.handlers import JobsHandler, OutputsHandler


def page_config(env: Mapping[str, str]) -> dict[str, str]:
    """What the page has to know; empty outside Himalia, where the front end adds nothing."""
    public = env.get("HIMALIA_PUBLIC_URL", "")
    if not public:
        return {}
    return {
        "himaliaUrl": service_url(public, env),
        "himaliaWorkspace": env.get("HIMALIA_WORKSPACE", ""),
        "himaliaEnvironment": env.get("HIMALIA_ENVIRONMENT", ""),
    }


def load(web_app: Application, log: Logger) -> None:
    config = page_config(os.environ)
    if not config:
        log.info(
            "himalia_lab: HIMALIA_PUBLIC_URL is not set, so this server is not one of Himalia's; nothing is added."
        )
        return
    web_app.settings.setdefault("page_config_data", {}).update(config)
    prefix = url_path_join(web_app.settings["base_url"], "himalia")
    web_app.add_handlers(
        ".*$",
        [
            (url_path_join(prefix, "jobs"), JobsHandler),
            (url_path_join(prefix, r"jobs/([A-Za-z0-9-]+)/outputs"), OutputsHandler),
        ],
    )
