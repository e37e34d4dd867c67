"""The registry's client against a scripted registry: what it asks, and the sentences when the answer is not the right one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import httpx
import pytest

from himalia_services.errors import EngineError, EngineUnavailable
from himalia_services.snapshot import image
from himalia_services.snapshot.image import Manifest
from himalia_services.snapshot.registry import Registry

URL = "http://127.0.0.1:8050"


@dataclass
class Scripted(httpx.AsyncBaseTransport):
    """Answers in the order of its script and keeps what it was asked."""

    script: list[httpx.Response | Exception]
    asked: list[httpx.Request] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        self.bodies.append(await request.aread())
        answer = self.script.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def registry(*script: httpx.Response | Exception) -> tuple[Registry, Scripted]:
    scripted = Scripted(list(script))
    return Registry(URL, ("himalia", "password"), transport=scripted), scripted


def refusal(status: int, message: str = "not today") -> httpx.Response:
    return httpx.Response(status, json={"errors": [{"code": "DENIED", "message": message}]})


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_an_upload_is_begun_sent_and_finished_where_the_registry_says() -> None:
    client, scripted = registry(
        httpx.Response(202, headers={"Location": "/v2/env/a/blobs/uploads/1?_state=x"}),
        httpx.Response(202, headers={"Location": "https://registry.internal/v2/env/a/blobs/uploads/1?_state=y"}),
        httpx.Response(201),
    )
    async with client:
        upload = await client.start("env/a")
        await client.send(upload, chunks(b"one", b"two"))
        await client.finish(upload, "sha256:abc")
    assert [(asked.method, str(asked.url)) for asked in scripted.asked] == [
        ("POST", f"{URL}/v2/env/a/blobs/uploads/"),
        ("PATCH", f"{URL}/v2/env/a/blobs/uploads/1?_state=x"),
        ("PUT", f"{URL}/v2/env/a/blobs/uploads/1?_state=y&digest=sha256%3Aabc"),
    ]
    assert scripted.bodies == [b"", b"onetwo", b""]
    assert all(asked.headers["Authorization"].startswith("Basic ") for asked in scripted.asked)


async def test_a_mount_that_the_registry_turns_into_an_upload_is_an_error_and_no_upload() -> None:
    client, scripted = registry(
        httpx.Response(202, headers={"Location": "/v2/env/a/blobs/uploads/1"}), httpx.Response(204)
    )
    async with client:
        with pytest.raises(EngineError, match="does not have sha256:abc of the base image himalia/base any more"):
            await client.mount("env/a", "sha256:abc", "himalia/base")
    assert [asked.method for asked in scripted.asked] == ["POST", "DELETE"]
    assert dict(scripted.asked[0].url.params) == {"mount": "sha256:abc", "from": "himalia/base"}


async def test_no_answer_is_unavailable() -> None:
    client, _ = registry(httpx.ConnectError("connection refused"))
    async with client:
        with pytest.raises(EngineUnavailable, match="does not answer: connection refused"):
            await client.tag_digest("env/a", "1")


@pytest.mark.parametrize(("status", "error"), [(500, EngineUnavailable), (429, EngineUnavailable), (403, EngineError)])
async def test_a_refusal_says_what_was_tried_and_why_not(status: int, error: type[EngineError]) -> None:
    client, _ = registry(refusal(status))
    async with client:
        with pytest.raises(EngineError, match=f"refused to begin an upload to env/a: {status} not today") as raised:
            await client.start("env/a")
    assert type(raised.value) is error


async def test_an_answer_that_is_no_json_is_told_by_its_status() -> None:
    client, _ = registry(httpx.Response(418, text="<html>"))
    async with client:
        with pytest.raises(EngineError, match="418\\."):
            await client.start("env/a")


async def test_bytes_that_do_not_have_their_digest_are_refused() -> None:
    client, _ = registry(httpx.Response(200, content=b"other"), httpx.Response(200, content=b"other"))
    async with client:
        with pytest.raises(EngineError, match="with other bytes"):
            await client.blob("env/a", image.digest(b"mine"))
        with pytest.raises(EngineError, match="with other bytes"):
            await client.manifest("env/a", image.digest(b"mine"))


async def test_a_small_blob_that_is_there_is_not_sent_again() -> None:
    client, scripted = registry(httpx.Response(200))
    async with client:
        assert await client.push("env/a", b"config") == image.digest(b"config")
    assert [asked.method for asked in scripted.asked] == ["HEAD"]


async def test_absent_tags_blobs_and_manifests_are_answers() -> None:
    client, _ = registry(httpx.Response(404), httpx.Response(404), refusal(404))
    async with client:
        assert await client.tag_digest("env/a", "1") is None
        assert not await client.has_blob("env/a", "sha256:abc")
        assert not await client.delete_manifest("env/a", "sha256:abc")


async def test_a_manifest_is_put_as_the_bytes_it_is() -> None:
    manifest = Manifest(image.OCI_MANIFEST, json.dumps({"layers": []}).encode())
    client, scripted = registry(httpx.Response(201))
    async with client:
        assert await client.put_manifest("env/a", "1", manifest) == manifest.digest
    (asked,) = scripted.asked
    assert (str(asked.url), asked.headers["Content-Type"]) == (f"{URL}/v2/env/a/manifests/1", image.OCI_MANIFEST)
    assert scripted.bodies == [manifest.body]
