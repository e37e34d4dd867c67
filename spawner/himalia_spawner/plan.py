"""The hub's side of the internal API: launch plans, private saves, phases and what the spawn page offers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

Json = dict[str, Any]

#: A control plane that is there takes a connection at once.
CONNECT_SECONDS = 2.0
#: Everything is answered from rows. Only a plan may take longer: volumes it names are made before it is answered.
PATIENCE_SECONDS = 3.0
PLAN_SECONDS = 30.0


class Away(Exception):
    """The control plane did not answer."""


class Refused(Exception):
    """The control plane said no: `status`, a stable `code`, the sentence, and the whole problem document."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.code = str(problem.get("code") or "refused")
        self.problem = problem
        super().__init__(str(problem.get("detail") or problem.get("title") or "The control plane refused."))


class PlanService:
    """Speaks to the control plane over its unix socket. Raises `Away` or `Refused`, nothing else."""

    def __init__(self, socket: Path, token: Path) -> None:
        self.socket = socket
        self.token = token

    async def plan(self, request: Json) -> Json:
        """The launch plan of one server; the same question gives the same workspace."""
        return await self._ask("POST", "/internal/launch-plan", body=request, patience=PLAN_SECONDS)

    async def preserve(self, workspace: str) -> Json:
        """Begin a private save of the workspace; a save that is already under way is the answer as well."""
        return await self._ask("POST", "/internal/preserve", body={"workspace_id": workspace})

    async def version(self, id: str) -> Json:
        return await self._ask("GET", f"/internal/versions/{id}")

    async def adopted(self, workspace: str) -> None:
        """Say that the container was made anew from the preserved version."""
        await self._ask("POST", "/internal/adopted", body={"workspace_id": workspace})

    async def phase(self, workspace: str, status: str, code: str = "", message: str = "") -> None:
        """Say what the hub sees of a workspace."""
        body = {"workspace_id": workspace, "status": status, "reason_code": code, "reason_message": message}
        await self._ask("POST", "/internal/phase", body=body)

    async def options(self, person: Mapping[str, str]) -> Json:
        """What the spawn page offers this person for this server."""
        return await self._ask("GET", "/internal/options", query=person)

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        body: Json | None = None,
        query: Mapping[str, str] | None = None,
        patience: float = PATIENCE_SECONDS,
    ) -> Json:
        timeout = aiohttp.ClientTimeout(total=patience, sock_connect=CONNECT_SECONDS)
        try:
            headers = {"Authorization": f"Bearer {self.token.read_text().strip()}"}
            async with aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(str(self.socket)), timeout=timeout
            ) as session:
                url = f"http://control{path}"
                async with session.request(method, url, json=body, params=query, headers=headers) as answer:
                    return await self._read(answer)
        except (TimeoutError, aiohttp.ClientError, OSError, asyncio.IncompleteReadError) as error:
            raise Away(f"the control plane does not answer ({type(error).__name__})") from error

    @staticmethod
    async def _read(answer: aiohttp.ClientResponse) -> Json:
        if answer.status == 204:
            return {}
        try:
            document = await answer.json(content_type=None)
        except ValueError:
            document = None
        problem = document if isinstance(document, dict) else {}
        if answer.status < 400:
            return problem
        # "starting" or broken: without a code of ours nobody decided anything, so the last plan may still be right
        if answer.status >= 500 and problem.get("code") in (None, "internal", "unavailable"):
            raise Away(str(problem.get("detail") or f"the control plane answered {answer.status}"))
        raise Refused(answer.status, problem)
