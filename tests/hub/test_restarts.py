"""kill -9 of hub, control plane and proxy in turn, under an open terminal: what has to survive survives, the rest comes back."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from platform_fixture import Person, Platform, browser, until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]


class Loopback(AbstractResolver):
    """*.localhost is this machine."""

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_INET) -> list[ResolveResult]:
        return [ResolveResult(hostname=host, host="127.0.0.1", port=port, family=socket.AF_INET, proto=0, flags=0)]

    async def close(self) -> None:
        pass


class Terminal:
    """A terminal's websocket through the proxy, as the lab opens it."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws
        self._count = 0

    async def echo(self) -> None:
        """Ask the shell something only it can answer; a dead websocket fails the test."""
        self._count += 1
        answer = f"moon-{self._count * 7}"
        await self.ws.send_str(json.dumps(["stdin", f"echo moon-$(({self._count} * 7))\r"]))
        async with asyncio.timeout(30):
            seen = ""
            while answer not in seen:
                message = await self.ws.receive()
                assert message.type is aiohttp.WSMsgType.TEXT, f"the websocket ended: {message}"
                kind, *rest = json.loads(message.data)
                seen += rest[0] if kind == "stdout" else ""


@asynccontextmanager
async def terminal(ada: Person) -> AsyncIterator[Terminal]:
    base = f"http://{ada.name}.{ada.platform.home.domain}:{ada.platform.home.port}/user/{ada.name}"
    headers = {"Authorization": f"token {ada.token}"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(resolver=Loopback()), headers=headers) as session:
        async with session.post(f"{base}/api/terminals") as answer:
            assert answer.status == 200, await answer.text()
            name = (await answer.json())["name"]
        async with session.ws_connect(f"{base}/terminals/websocket/{name}") as ws:
            opened = Terminal(ws)
            await opened.echo()
            yield opened
    await asyncio.sleep(0)  # the connector closes its transports on the next turn of the loop


def answers(platform: Platform, url: str, ok: Callable[[Any], bool]) -> bool:
    with browser() as client:
        try:
            return ok(client.get(url))
        except Exception:
            return False


def login_page(platform: Platform) -> bool:
    return answers(platform, f"{platform.url}/hub/login", lambda r: r.status_code == 200 and "password_input" in r.text)


async def test_a_terminal_survives_the_death_of_hub_and_control_plane(
    platform: Platform, person: Callable[..., Person]
):
    ada = await asyncio.to_thread(person)
    await asyncio.to_thread(ada.start)
    started = ada.container().attrs["State"]["StartedAt"]
    async with terminal(ada) as shell:
        for name in ("hub", "control"):
            await asyncio.to_thread(platform.kill, name)
            await shell.echo()
            await asyncio.to_thread(until, lambda: login_page(platform), f"log-in page after the death of {name}", 60)
            await shell.echo()
    await asyncio.to_thread(until, lambda: ada.server().get("ready"), "the hub knows the workspace again", 60)
    assert ada.container().attrs["State"]["StartedAt"] == started


async def test_after_the_death_of_the_proxy_login_and_the_workspace_answer_again(
    platform: Platform, person: Callable[..., Person], record_property: Callable[[str, object], None]
):
    ada = await asyncio.to_thread(person)
    await asyncio.to_thread(ada.start)
    status = f"http://{ada.name}.{platform.home.domain}:{platform.home.port}/user/{ada.name}/api"
    began = time.monotonic()
    await asyncio.to_thread(platform.kill, "proxy")
    await asyncio.to_thread(until, lambda: login_page(platform), "log-in page", 60)
    await asyncio.to_thread(
        until, lambda: answers(platform, status, lambda r: r.status_code == 200), "the workspace", 60
    )
    took = time.monotonic() - began
    record_property("seconds", took)
    print(f"login and workspace answered {took:.1f} s after the proxy's death (the promise: 5 s)")
    async with terminal(ada) as shell:
        await shell.echo()


def test_a_supervisor_started_anew_takes_over_and_restarts_nothing(platform: Platform):
    before = {name: platform.running(name) for name in ("proxy", "control", "hub")}
    platform.running("supervisor").end(grace=10)
    assert {name: platform.running(name) for name in before} == before
    platform.himalia("up")
    assert {name: platform.running(name) for name in before} == before
    assert platform.running("supervisor")


def test_up_again_changes_nothing(platform: Platform):
    before = {name: platform.running(name) for name in ("supervisor", "proxy", "control", "hub")}
    networks = {n.id for n in platform.docker.networks.list()}
    platform.himalia("up")
    assert {name: platform.running(name) for name in before} == before
    assert {n.id for n in platform.docker.networks.list()} == networks


def test_status_names_what_is_missing_and_ends_with_1(platform: Platform):
    found = json.loads(platform.himalia("status", "--json"))
    assert found["problems"] == []
    assert {part["name"]: part["running"] for part in found["processes"]} == dict.fromkeys(
        ("supervisor", "proxy", "control", "hub"), True
    )
    platform.running("supervisor").end(grace=10)
    platform.running("control").end(grace=10)
    try:
        found = json.loads(platform.himalia("status", "--json", code=1))
        assert any("control plane does not run" in problem for problem in found["problems"])
        assert any("supervisor does not run" in problem for problem in found["problems"])
    finally:
        platform.himalia("up")
    until(lambda: not json.loads(_status(platform))["problems"], "all is well again", 60)


def _status(platform: Platform) -> str:
    try:
        return platform.himalia("status", "--json")
    except AssertionError:
        return '{"problems": ["not yet"]}'


def test_down_and_up_keep_people_workspaces_and_what_was_installed(platform: Platform, person: Callable[..., Person]):
    ada = person()
    ada.start()
    ada.run("sudo", "touch", "/opt/here")
    container = ada.container().id
    platform.himalia("down")
    assert not [c for c in platform.labelled("workspace") if c.status == "running"]
    assert json.loads(platform.himalia("status", "--json", code=1))["problems"] == [
        "Himalia is down. `himalia up` starts it."
    ]
    platform.up()
    ada.start()
    assert ada.container().id == container
    assert ada.run("ls", "/opt/here").strip() == "/opt/here"
