"""What every route shares: headers, origins, pages, keys, and a document that describes them all."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Annotated

import httpx
import pytest
from fastapi import Depends, FastAPI
from sqlalchemy import select
from starlette.types import Message

from himalia.schema import Page
from himalia_services.api.auth import Asking, needs
from himalia_services.api.deps import Deps
from himalia_services.api.idempotency import Idempotent
from himalia_services.api.paging import Pages
from himalia_services.app import API, create_app
from himalia_services.control.idempotency import KEPT, remember, replay
from himalia_services.model.caller import Caller
from himalia_services.model.page import Cursor
from himalia_services.parts import Parts
from himalia_services.settings import Settings
from himalia_services.store import tables as t
from himalia_services.store.page import page
from service.assertions import assert_problem
from service.conftest import ClientFor
from service.fakehub import FakeHub


@pytest.fixture
def app(parts: Parts) -> FastAPI:
    """The application with a noun of the test: people, listed and made."""
    app = create_app(parts)

    @app.get(f"{API}/people")
    async def list_people(caller: Asking, parts: Deps, paging: Pages) -> Page[str]:
        async with parts.db.read() as session:
            rows, next_token = await page(
                session, select(t.Person).where(t.Person.name != caller.name), t.Person, paging
            )
        return Page(items=[row.id for row in rows], next_token=next_token)

    @app.post(f"{API}/people", status_code=202)
    async def make(
        caller: Annotated[Caller, Depends(needs("jobs:write"))], parts: Deps, key: Idempotent, body: dict[str, str]
    ) -> str:
        async with parts.db.write() as session:
            if (before := await replay(session, caller, key)) is not None:
                return before
            person = t.Person(id=f"p-{body['name']}-{await count(parts)}", name=body["name"], hub_created="now")
            session.add(person)
            await remember(session, caller, key, person.id)
            return person.id

    return app


async def count(parts: Parts) -> int:
    async with parts.db.read() as session:
        return len((await session.scalars(select(t.Person))).all())


# Headers and origins


async def test_every_answer_says_how_browsers_must_treat_it(client_for: ClientFor) -> None:
    ada = client_for("ada")
    for answer in (await ada.get("/me"), await ada.get("/nowhere"), await ada.get("/openapi.json")):
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Request-ID"]
        assert "server" not in answer.headers


@pytest.mark.parametrize(
    "origin",
    ["http://ada.himalia.localhost:18000", "https://ada.himalia.localhost", "http://a-1--b.himalia.localhost:18000"],
)
async def test_pages_on_people_s_origins_may_ask_with_a_token(client_for: ClientFor, origin: str) -> None:
    ada = client_for("ada")
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,idempotency-key,last-event-id",
    }
    before = await ada.options("/jobs", headers=asked)
    assert before.status_code == 200
    assert before.headers["Access-Control-Allow-Origin"] == origin
    answer = await ada.get("/me", headers={"Origin": origin})
    assert answer.headers["Access-Control-Allow-Origin"] == origin
    assert "X-Request-ID" in answer.headers["Access-Control-Expose-Headers"]
    for each in (before, answer):
        assert "Access-Control-Allow-Credentials" not in each.headers


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "http://himalia.localhost:18000",
        "http://ada.himalia.localhost.evil.example",
        "http://ada.himalia.localhost:18001",
        "http://a.b.himalia.localhost:18000",
        "http://adaXhimalia.localhost:18000",
        "null",
        "http://ada.himalia.localhost:18000\n",
    ],
)
async def test_other_origins_are_told_nothing(client_for: ClientFor, origin: str) -> None:
    answer = await client_for("ada").get(
        "/me", headers=[(b"Origin", origin.strip("\n").encode() + (b"x" if origin.endswith("\n") else b""))]
    )
    assert "Access-Control-Allow-Origin" not in answer.headers


async def test_an_error_can_be_read_by_the_page_that_asked(client_for: ClientFor) -> None:
    origin = "http://ada.himalia.localhost:18000"
    answer = await client_for("ada").get("/nowhere", headers={"Origin": origin})
    assert answer.headers["Access-Control-Allow-Origin"] == origin


# The document


async def test_the_document_describes_every_route(app: FastAPI, visitor: httpx.AsyncClient) -> None:
    answer = await visitor.get(f"{API}/openapi.json")
    document = answer.json()
    assert document["openapi"].startswith("3.")
    for path in ("/me", "/machines", "/workspaces", "/environments", "/events", "/jobs"):
        assert f"{API}{path}" in document["paths"], path
    assert "token" in document["components"]["securitySchemes"]
    problem = document["paths"][f"{API}/me"]["get"]["responses"]["4XX"]["content"]
    assert list(problem) == ["application/problem+json"]
    assert "Problem" in document["components"]["schemas"]


async def test_no_route_of_the_api_answers_without_a_login(app: FastAPI, visitor: httpx.AsyncClient) -> None:
    asked = 0
    for path, verbs in app.openapi()["paths"].items():
        for method in verbs:
            real = path.replace("{digest}", "sha256:" + "0" * 64).replace("{", "").replace("}", "")
            answer = await visitor.request(method, real, json={} if method in ("post", "put", "patch") else None)
            assert answer.status_code == 401, (method, path, answer.status_code)
            asked += 1
    assert asked > 10


async def test_no_route_upgrades_to_a_websocket(app: FastAPI, hub: FakeHub) -> None:
    sent: list[Message] = []
    waiting = iter([{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}])

    async def receive() -> Message:
        return next(waiting)

    async def send(message: Message) -> None:
        sent.append(message)

    for path in app.openapi()["paths"]:
        scope = {
            "type": "websocket",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [],
            "subprotocols": [],
        }
        waiting = iter([{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}])
        await app({**scope, "asgi": {"version": "3.0"}, "scheme": "ws", "extensions": {}}, receive, send)
    assert {message["type"] for message in sent} <= {
        "websocket.close",
        "websocket.http.response.start",
        "websocket.http.response.body",
    }
    assert len(sent) >= len(app.openapi()["paths"])


# Pages


async def fill(parts: Parts, number: int) -> list[str]:
    """People, some of them made at the same moment; their ids, newest first."""
    moment = datetime(2026, 11, 1, tzinfo=UTC)
    rows = [(f"p-{i:03}", moment + timedelta(seconds=i // 3)) for i in range(number)]
    async with parts.db.write() as session:
        session.add_all(t.Person(id=id, name=f"x{id}", hub_created="", created_at=at) for id, at in rows)
    return [id for id, at in sorted(rows, key=lambda row: (row[1], row[0]), reverse=True)]


@pytest.mark.parametrize(("number", "limit"), [(0, 5), (5, 5), (10, 5), (11, 5), (7, 1)])
async def test_pages_show_everything_once_and_in_order(
    client_for: ClientFor, parts: Parts, number: int, limit: int
) -> None:
    expected = await fill(parts, number)
    ada, found, query = client_for("ada"), [], {"limit": limit}
    while True:
        body = (await ada.get("/people", params=query)).json()
        assert len(body["items"]) <= limit
        found += body["items"]
        if body["next_token"] is None:
            break
        query["page_token"] = body["next_token"]
    assert found == expected


async def test_rows_that_come_meanwhile_neither_repeat_nor_hide_others(client_for: ClientFor, parts: Parts) -> None:
    expected = await fill(parts, 6)
    ada = client_for("ada")
    first = (await ada.get("/people", params={"limit": 3})).json()
    async with parts.db.write() as session:
        session.add(t.Person(id="p-new", name="new", hub_created=""))
    second = (await ada.get("/people", params={"limit": 3, "page_token": first["next_token"]})).json()
    assert first["items"] + second["items"] == expected


@pytest.mark.parametrize(
    "token", ["x", "bm90IGpzb24", "W10", "WyIyMDI2Il0", Cursor(datetime(2026, 1, 1), "a").token()[:-4], "💥"]
)
async def test_a_page_token_that_is_not_ours_is_invalid(client_for: ClientFor, token: str) -> None:
    assert_problem(await client_for("ada").get("/people", params={"page_token": token}), 422, "page_token")


@pytest.mark.parametrize("limit", [0, 201, -1, "x"])
async def test_a_limit_beyond_reason_is_invalid(client_for: ClientFor, limit: object) -> None:
    assert_problem(await client_for("ada").get("/people", params={"limit": str(limit)}), 422, "invalid")


# Idempotency


async def test_the_same_key_and_body_make_one_thing(client_for: ClientFor, parts: Parts) -> None:
    ada = client_for("ada")
    answers = [
        (await ada.post("/people", json={"name": "x"}, headers={"Idempotency-Key": "k1"})).json() for _ in range(3)
    ]
    assert len(set(answers)) == 1
    assert await count(parts) == 2  # ada and the one she made


async def test_without_a_key_each_request_makes_one(client_for: ClientFor) -> None:
    ada = client_for("ada")
    first = await ada.post("/people", json={"name": "x"})
    second = await ada.post("/people", json={"name": "y"})
    assert first.json() != second.json()


async def test_the_same_key_for_another_body_is_invalid(client_for: ClientFor, parts: Parts) -> None:
    ada = client_for("ada")
    await ada.post("/people", json={"name": "x"}, headers={"Idempotency-Key": "k1"})
    answer = await ada.post("/people", json={"name": "y"}, headers={"Idempotency-Key": "k1"})
    assert_problem(answer, 422, "idempotency_key_reused")
    assert await count(parts) == 2


async def test_keys_are_each_person_s_own(client_for: ClientFor) -> None:
    made = set()
    for name in ("ada", "ben"):
        made.add(
            (await client_for(name).post("/people", json={"name": name}, headers={"Idempotency-Key": "k1"})).json()
        )
    assert len(made) == 2


async def test_a_creation_that_failed_keeps_no_key(client_for: ClientFor, parts: Parts) -> None:
    ada = client_for("ada")
    async with parts.db.write() as session:
        session.add(t.Person(id="p-x-2", name="x", hub_created="now"))
    headers = {"Idempotency-Key": "k1"}
    assert (await ada.post("/people", json={"name": "x"}, headers=headers)).status_code == 500
    async with parts.db.write() as session:
        person = await session.get(t.Person, "p-x-2")
        await session.delete(person)
    assert (await ada.post("/people", json={"name": "x"}, headers=headers)).status_code == 202


async def test_old_keys_are_forgotten(client_for: ClientFor, parts: Parts) -> None:
    ada = client_for("ada")
    await ada.post("/people", json={"name": "x"}, headers={"Idempotency-Key": "old"})
    async with parts.db.write() as session:
        for row in await session.scalars(select(t.Idempotency)):
            row.created_at = t.now() - KEPT - timedelta(hours=1)
    await ada.post("/people", json={"name": "y"}, headers={"Idempotency-Key": "new"})
    async with parts.db.read() as session:
        assert list(await session.scalars(select(t.Idempotency.key))) == ["new"]


@pytest.mark.parametrize("key", ["a b", "x" * 256, "\xe4"])
async def test_a_key_that_is_none_is_invalid(client_for: ClientFor, key: str) -> None:
    headers = [(b"Idempotency-Key", key.encode("latin-1")), (b"Content-Type", b"application/json")]
    answer = await client_for("ada").post("/people", content=json.dumps({"name": "x"}), headers=headers)
    assert_problem(answer, 422, "idempotency_key")


# Machines


async def test_machines_are_those_of_the_catalog(client_for: ClientFor, settings: Settings) -> None:
    machines = (await client_for("ada").get("/machines")).json()["items"]
    assert [machine["name"] for machine in machines] == ["small", "medium", "large"]
    assert [machine["name"] for machine in machines if machine["default"]] == ["small"]
