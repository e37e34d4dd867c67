"""Every error has one shape, whatever went wrong and wherever, and tells nobody's secrets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import httpx
import pytest
import structlog
from fastapi import FastAPI, Query

from himalia_services import errors
from himalia_services.app import BODY_MOST, create_app
from himalia_services.parts import Parts
from service.assertions import assert_problem

BASE = "http://himalia--service.himalia.localhost:18000"


@dataclass
class Thing:
    name: str
    size: int = 1


@pytest.fixture
def app(parts: Parts) -> FastAPI:
    """The application with a few routes that go wrong."""
    app = create_app(parts)

    @app.get("/boom")
    async def boom() -> None:
        raise RuntimeError("the password is hunter2")

    @app.get("/late")
    async def late() -> None:
        raise errors.Conflict("It is being saved.", code="save_running", link="/versions/3", waiting=2)

    @app.post("/things")
    async def things(thing: Thing, limit: Annotated[int, Query(le=10)] = 1) -> Thing:
        return thing

    return app


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/services/himalia/api/v1/nowhere", 404, "not_found"),
        ("PUT", "/services/himalia/api/v1/me", 405, "method_not_allowed"),
        ("GET", "/services/himalia/api/v1/me", 401, "unauthorized"),
        ("GET", "/late", 409, "save_running"),
        ("GET", "/boom", 500, "internal"),
    ],
)
async def test_every_error_is_a_problem_document(
    visitor: httpx.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    assert_problem(await visitor.request(method, path), status, code)


async def test_a_problem_carries_its_link_and_more(visitor: httpx.AsyncClient) -> None:
    problem = assert_problem(await visitor.get("/late"), 409, "save_running")
    assert (problem["link"], problem["waiting"], problem["detail"]) == ("/versions/3", 2, "It is being saved.")


async def test_a_bug_is_in_the_log_and_not_in_the_answer(visitor: httpx.AsyncClient) -> None:
    with structlog.testing.capture_logs() as lines:
        answer = await visitor.get("/boom?token=secret", headers={"X-Request-ID": "find-me"})
    assert "hunter2" not in answer.text
    assert answer.headers["X-Request-ID"] == "find-me"
    (line,) = [line for line in lines if line["event"] == "request_failed"]
    assert line["exc_info"]
    assert line["path"] == "/boom"


@pytest.mark.parametrize("status", sorted({e.status for e in errors.HimaliaError.__subclasses__()}))
async def test_a_503_says_when_to_ask_again_and_nothing_else_does(
    visitor: httpx.AsyncClient, app: FastAPI, status: int
) -> None:
    kind = next(e for e in errors.HimaliaError.__subclasses__() if e.status == status)

    @app.get("/wrong")
    async def wrong() -> None:
        raise kind("So it is.")

    answer = await visitor.get("/wrong")
    assert_problem(answer, status, kind.code)
    assert ("Retry-After" in answer.headers) is (status == 503)


@pytest.mark.parametrize(
    ("body", "query", "named"),
    [
        ({"size": 1}, "", "`name`"),
        ({"name": "a", "size": "many"}, "", "`size`"),
        ({"name": "a"}, "?limit=11", "`limit` in the query"),
        (["a"], "", "The body"),
    ],
)
async def test_what_is_wrong_with_a_request_is_named(
    visitor: httpx.AsyncClient, body: object, query: str, named: str
) -> None:
    problem = assert_problem(await visitor.post(f"/things{query}", json=body), 422, "invalid")
    assert named in str(problem["detail"])
    assert problem["errors"]


@pytest.mark.parametrize("body", [b"{", b"", b"\xff\xfe", b'{"name": ' + b"[" * 2000])
async def test_a_body_that_is_no_json_is_the_client_s_fault(visitor: httpx.AsyncClient, body: bytes) -> None:
    answer = await visitor.post("/things", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert_problem(answer, answer.status_code, answer.json()["code"])


async def test_a_secret_in_a_refused_body_is_not_repeated(visitor: httpx.AsyncClient) -> None:
    answer = await visitor.post("/things", json={"name": 5, "size": "s3cret-value"})
    assert "s3cret-value" not in answer.text


# Request ids


@pytest.mark.parametrize("asked", ["abc", "1a2b-3c", "A.b_c:1"])
async def test_a_sane_request_id_is_kept(visitor: httpx.AsyncClient, asked: str) -> None:
    assert (await visitor.get("/nowhere", headers={"X-Request-ID": asked})).headers["X-Request-ID"] == asked


@pytest.mark.parametrize("asked", ["", "a" * 65, "a b", '"', "a;b"])
async def test_any_other_is_replaced(visitor: httpx.AsyncClient, asked: str) -> None:
    given = (await visitor.get("/nowhere", headers={"X-Request-ID": asked})).headers["X-Request-ID"]
    assert given != asked
    assert len(given) == 32


# Size


async def test_a_body_that_says_it_is_too_large_is_refused_unread(visitor: httpx.AsyncClient) -> None:
    problem = assert_problem(await visitor.post("/things", content=b"x" * (BODY_MOST + 1)), 413, "too_large")
    assert problem["limit"] == BODY_MOST


async def test_a_body_that_does_not_say_is_refused_on_the_way(visitor: httpx.AsyncClient) -> None:
    sent = 0

    async def chunks():
        nonlocal sent
        for _ in range(64):
            sent += 1
            yield b"x" * 65536

    answer = await visitor.post("/things", content=chunks(), headers={"Content-Type": "application/json"})
    assert_problem(answer, 413, "too_large")


@pytest.mark.parametrize("told", ["-1", "many", "1e3"])
async def test_a_length_that_is_no_length_is_refused(visitor: httpx.AsyncClient, told: str) -> None:
    answer = await visitor.post("/things", content=b"{}", headers={"Content-Length": told})
    assert_problem(answer, 413, "too_large")
