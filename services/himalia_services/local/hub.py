"""The hub's REST API as this machine's operator uses it: people, groups, running servers."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

import httpx

from himalia_services.local.home import Home, Trouble

STOP_SECONDS = 60.0
SLOW_SECONDS = 60.0  # stopping a server may take the ten seconds its processes are given, and more


class Hub:
    """One session with the operator's token. Every trouble is a sentence."""

    def __init__(self, home: Home) -> None:
        place = home.place
        self._client = httpx.Client(
            base_url=f"http://{place.gateway}:{place.hub_port}/hub/api",
            headers={"Authorization": f"token {home.secret('operator-token')}"},
            timeout=SLOW_SECONDS,
            trust_env=False,  # no proxy between us and our own hub
        )

    def __enter__(self) -> Hub:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def people(self) -> list[dict[str, Any]]:
        return self._all("/users")

    def person(self, name: str) -> dict[str, Any] | None:
        answer = self._ask("GET", f"/users/{quote(name, safe='')}", missing=True)
        return answer.json() if answer is not None else None

    def add(self, name: str) -> None:
        self._ask("POST", "/users", json={"usernames": [name]}, exists=True)

    def remove(self, name: str) -> None:
        """Delete a person: their servers are stopped and deleted first, since the hub refuses over a running named one."""
        person = self.person(name)
        if person is None:
            raise Trouble(f"There is nobody called {name}.")
        path = f"/users/{quote(name, safe='')}"
        for server in person.get("servers") or {}:
            self.stop(name, server)
            if server:
                self._ask("DELETE", f"{path}/servers/{server}", json={"remove": True}, missing=True)
        self._ask("DELETE", path)

    def stop(self, name: str, server: str) -> None:
        """Ask for the stop of one server and wait until the hub says it is."""
        path = (
            f"/users/{quote(name, safe='')}/server" if not server else f"/users/{quote(name, safe='')}/servers/{server}"
        )
        answer = self._ask("DELETE", path, missing=True)
        deadline = time.monotonic() + STOP_SECONDS
        while answer is not None and answer.status_code == 202 and time.monotonic() < deadline:
            time.sleep(0.2)
            state = (self.person(name) or {}).get("servers", {}).get(server)
            if state is None or (state.get("stopped", True) and not state.get("pending")):
                return

    def groups(self) -> list[dict[str, Any]]:
        return self._all("/groups")

    def add_group(self, group: str) -> None:
        self._ask("POST", f"/groups/{quote(group, safe='')}")

    def remove_group(self, group: str) -> None:
        self._ask("DELETE", f"/groups/{quote(group, safe='')}")

    def join(self, group: str, people: list[str]) -> None:
        self._ask("POST", f"/groups/{quote(group, safe='')}/users", json={"users": people})

    def leave(self, group: str, people: list[str]) -> None:
        self._ask("DELETE", f"/groups/{quote(group, safe='')}/users", json={"users": people})

    def _all(self, path: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            page = self._ask("GET", path, params={"offset": len(found), "limit": 200})
            items = page.json() if page is not None else []
            found += items
            if len(items) < 200:
                return found

    def _ask(
        self, method: str, path: str, *, missing: bool = False, exists: bool = False, **body: Any
    ) -> httpx.Response | None:
        try:
            answer = self._client.request(method, path, **body)
        except httpx.HTTPError as error:
            raise Trouble(
                "The hub does not answer. `himalia status` says what runs; `himalia up` starts it."
            ) from error
        if (missing and answer.status_code == 404) or (exists and answer.status_code == 409):
            return None
        if answer.status_code >= 400:
            try:
                message = answer.json().get("message") or answer.reason_phrase
            except ValueError:
                message = answer.reason_phrase
            raise Trouble(f"The hub refused: {message} ({answer.status_code})")
        return answer
