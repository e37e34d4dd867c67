"""The routes of the server half. They act as the visitor whose page calls them, never as the workspace's owner."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from tornado.web import authenticated

from himalia.client import Himalia
from himalia.errors import HimaliaError, Invalid, NotFound, NotLoggedIn, Unavailable
from himalia.login import Login
from himalia_lab.jobs import Submission, put_back, submit

T = TypeVar("T")


class HimaliaHandler(APIHandler):
    """Calls the control plane with the token that came with the request, and answers its errors as problem documents."""

    auth_resource = "himalia"

    def visitor(self) -> Login:
        """The login of whoever sits before the page. The container's own token is the owner's and is not used here."""
        scheme, _, token = self.request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() not in ("token", "bearer") or not token.strip():
            raise NotLoggedIn("This page sent no token of yours. Reload it to log in again.")
        url = os.environ.get("HIMALIA_URL", "").rstrip("/")
        if not url:
            raise Unavailable("HIMALIA_URL is not set in this workspace. Stop the workspace and start it again.")
        return Login(url=url, token=token.strip(), source="page")

    async def answer(self, act: Callable[[Himalia], T], show: Callable[[T], dict[str, Any]], status: int) -> None:
        """Run blocking `act` in a thread and answer what `show` makes of its result."""
        try:
            login = self.visitor()

            def work() -> T:
                with Himalia(login) as himalia:
                    return act(himalia)

            result = await asyncio.to_thread(work)
        except HimaliaError as error:
            self.refuse(error)
            return
        self.set_status(status)
        self.finish(json.dumps(show(result), default=_wire))

    def refuse(self, error: HimaliaError) -> None:
        detail = error.detail
        if isinstance(error, NotLoggedIn):
            detail = "Your login has ended. Reload the page to log in again."
        status = error.status or _status(error)
        problem = {"type": "about:blank", "title": type(error).__name__, "status": status, "code": error.code}
        problem |= {"detail": detail, "request_id": error.request_id, "link": error.link}
        self.set_status(status)
        self.finish(json.dumps(problem), set_content_type="application/problem+json")

    def body(self) -> Any:
        try:
            return json.loads(self.request.body or b"{}")
        except ValueError:
            raise Invalid("The request is no JSON.") from None


class JobsHandler(HimaliaHandler):
    @authenticated
    @authorized
    async def post(self) -> None:
        root = self.settings["server_root_dir"]
        await self.answer(
            lambda himalia: submit(himalia, Path(root).expanduser(), Submission.read(self.body())),
            lambda made: {"job": asdict(made[0]), "packed": made[1]},
            202,
        )


class OutputsHandler(HimaliaHandler):
    @authenticated
    @authorized
    async def post(self, job_id: str) -> None:
        await self.answer(
            lambda himalia: put_back(himalia, job_id),
            lambda done: {"written": len(done[0].written), "sentence": done[1]},
            200,
        )


def _wire(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{value!r} has no form on the wire")


def _status(error: HimaliaError) -> int:
    """For errors that arose here and not in an answer of the API."""
    statuses = {Invalid: 422, NotFound: 404, NotLoggedIn: 401, Unavailable: 503}
    return next((status for kind, status in statuses.items() if isinstance(error, kind)), 500)
