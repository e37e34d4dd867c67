"""A client of the distribution API, as much of it as a save needs: blobs by mount and upload, manifests, tags."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

from himalia_services.errors import EngineError, EngineUnavailable
from himalia_services.snapshot.image import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Manifest,
    digest,
)

_ACCEPT = ", ".join((DOCKER_MANIFEST, OCI_MANIFEST, DOCKER_LIST, OCI_INDEX))
_TIMEOUT = httpx.Timeout(30.0, read=120.0)


@dataclass
class Upload:
    """A blob on its way: nothing of it is seen before `Registry.finish`."""

    repository: str
    location: str


class Registry:
    """One registry. `EngineUnavailable` when it does not answer, `EngineError` when it says no.

    `auth` is whatever httpx takes: name and password here, a flow that answers a token challenge on clusters.
    """

    def __init__(
        self,
        url: str,
        auth: httpx.Auth | tuple[str, str] | None = None,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        # no proxy of the environment: it is ours, mostly on loopback
        self._client = httpx.AsyncClient(auth=auth, timeout=_TIMEOUT, transport=transport, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._client.aclose()

    async def tag_digest(self, repository: str, tag: str) -> str | None:
        """The digest of the manifest that a tag (or a digest) names, None when there is none."""
        answer = await self._ask("HEAD", f"{repository}/manifests/{tag}", headers={"Accept": _ACCEPT})
        if answer.status_code == 404:
            return None
        self._expect(answer, 200, f"look up {repository}:{tag}")
        return answer.headers.get("Docker-Content-Digest")

    async def manifest(self, repository: str, reference: str) -> Manifest:
        """By digest the bytes are checked against it."""
        answer = await self._ask("GET", f"{repository}/manifests/{reference}", headers={"Accept": _ACCEPT})
        self._expect(answer, 200, f"read the image {repository} ({reference})")
        found = Manifest(answer.headers.get("Content-Type", "").partition(";")[0].strip(), answer.content)
        self._check(reference, answer.content)
        return found

    async def blob(self, repository: str, blob: str) -> bytes:
        """A small blob, whole."""
        answer = await self._ask("GET", f"{repository}/blobs/{blob}", follow_redirects=True)
        self._expect(answer, 200, f"read {blob} of {repository}")
        self._check(blob, answer.content)
        return answer.content

    async def has_blob(self, repository: str, blob: str) -> bool:
        answer = await self._ask("HEAD", f"{repository}/blobs/{blob}", follow_redirects=True)
        if answer.status_code == 404:
            return False
        self._expect(answer, 200, f"look for {blob} in {repository}")
        return True

    async def mount(self, repository: str, blob: str, source: str) -> None:
        """Make a blob of the repository `source` one of this repository; it is never uploaded again."""
        answer = await self._ask("POST", f"{repository}/blobs/uploads/", params={"mount": blob, "from": source})
        if answer.status_code == 202:
            await self.cancel(Upload(repository, self._location(answer)))
            raise EngineError(
                f"The registry does not have {blob} of the base image {source} any more. Push the base image again, then save."
            )
        self._expect(answer, 201, f"take {blob} over from {source}")

    async def start(self, repository: str) -> Upload:
        answer = await self._ask("POST", f"{repository}/blobs/uploads/")
        self._expect(answer, 202, f"begin an upload to {repository}")
        return Upload(repository, self._location(answer))

    async def send(self, upload: Upload, data: AsyncIterator[bytes]) -> None:
        """Appends, chunk by chunk as it comes."""
        answer = await self._ask(
            "PATCH", upload.location, content=data, headers={"Content-Type": "application/octet-stream"}
        )
        self._expect(answer, 202, f"upload to {upload.repository}")
        upload.location = self._location(answer)

    async def finish(self, upload: Upload, blob: str) -> None:
        """The upload becomes the blob; refused when its bytes have another digest."""
        answer = await self._ask("PUT", upload.location, params={"digest": blob}, headers={"Content-Length": "0"})
        self._expect(answer, 201, f"finish the upload to {upload.repository}")

    async def cancel(self, upload: Upload) -> None:
        """Best effort: an upload that is left is purged by the registry."""
        with contextlib.suppress(EngineError):
            await self._ask("DELETE", upload.location)

    async def push(self, repository: str, data: bytes) -> str:
        """A small blob, whole; returns its digest."""
        blob = digest(data)
        if await self.has_blob(repository, blob):
            return blob
        upload = await self.start(repository)
        answer = await self._ask(
            "PUT",
            upload.location,
            params={"digest": blob},
            content=data,
            headers={"Content-Type": "application/octet-stream"},
        )
        self._expect(answer, 201, f"upload to {repository}")
        return blob

    async def put_manifest(self, repository: str, reference: str, manifest: Manifest) -> str:
        """From here on the image is there, whole; returns its digest."""
        answer = await self._ask(
            "PUT",
            f"{repository}/manifests/{reference}",
            content=manifest.body,
            headers={"Content-Type": manifest.media_type},
        )
        self._expect(answer, 201, f"name the image {repository}:{reference}")
        return manifest.digest

    async def delete_manifest(self, repository: str, digest: str) -> bool:
        """Takes the image out, with every tag on it; False when it was not there."""
        answer = await self._ask("DELETE", f"{repository}/manifests/{digest}")
        if answer.status_code == 404:
            return False
        self._expect(answer, 202, f"delete {digest} of {repository}")
        return True

    async def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        url = path if path.startswith(("http://", "https://")) else f"{self.url}/v2/{path}"
        params = options.pop("params", None)
        if params:
            # an upload's address has parameters of its own, which must stay
            url = str(httpx.URL(url).copy_merge_params(params))
        try:
            return await self._client.request(method, url, **options)
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise EngineUnavailable(f"The registry at {self.url} does not answer: {reason}.") from error

    def _location(self, answer: httpx.Response) -> str:
        """An address at the registry as we reach it: what it calls itself may be another name, and gets no credentials."""
        told = httpx.URL(answer.headers["Location"])
        own = httpx.URL(self.url)
        return str(told.copy_with(scheme=own.scheme, host=own.host, port=own.port))

    def _expect(self, answer: httpx.Response, status: int, action: str) -> None:
        if answer.status_code == status:
            return
        sentence = f"The registry refused to {action}: {_reason(answer)}."
        if answer.status_code >= 500 or answer.status_code == 429:
            raise EngineUnavailable(sentence)
        raise EngineError(sentence)

    def _check(self, reference: str, data: bytes) -> None:
        if reference.startswith("sha256:") and digest(data) != reference:
            raise EngineError(
                f"The registry at {self.url} answered {reference} with other bytes. Its storage is damaged."
            )


def _reason(answer: httpx.Response) -> str:
    try:
        errors = json.loads(answer.content)["errors"]
        told = "; ".join(str(error.get("message") or error.get("code")) for error in errors)
    except (ValueError, KeyError, TypeError, AttributeError):
        told = ""
    return f"{answer.status_code} {told}".strip()
