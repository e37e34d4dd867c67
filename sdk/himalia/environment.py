"""Environments: named lines of saved images, to list, share, look into and delete."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from himalia import schema
from himalia._wait import PATIENCE, until
from himalia.errors import Invalid
from himalia.schema import Packages, ShareRequest, Version, from_wire
from himalia.workspace import Progress, failed_save, is_live

if TYPE_CHECKING:
    from himalia.client import Himalia


def split_ref(ref: str) -> tuple[str, str, int | None]:
    """`ada/vision:3` as ("ada", "vision", 3); without a version None. Invalid with a sentence when it is no such name."""
    owner, slash, rest = ref.partition("/")
    name, colon, number = rest.partition(":")
    if not (owner and slash and name) or "/" in name or (colon and not number.isdigit()):
        raise Invalid(
            f"{ref!r} names no environment. Write owner/name or owner/name:version, as in ada/vision:3.", code="invalid"
        )
    return owner, name, int(number) if colon else None


class Environment:
    """One environment. `info` is what the platform last said about it."""

    def __init__(self, himalia: Himalia, info: schema.Environment) -> None:
        self._himalia = himalia
        self.info = info

    def __repr__(self) -> str:
        return f"<Environment {self.ref}: {self.info.visibility}>"

    @property
    def ref(self) -> str:
        return self.info.ref

    @property
    def latest(self) -> Version | None:
        return self.info.latest

    @property
    def versions(self) -> list[Version]:
        return self.info.versions

    @property
    def _path(self) -> str:
        return f"/environments/{self.info.owner}/{self.info.name}"

    def refresh(self) -> Environment:
        self.info = self._himalia.environments.get(self.ref).info
        return self

    def share(
        self,
        *,
        group: str | None = None,
        people: Sequence[str] = (),
        everyone: bool = False,
        description: str | None = None,
    ) -> Environment:
        """Let a group, some people or everyone use it. Programs in it will run as whoever starts it."""
        if bool(group) + bool(people) + everyone != 1:
            raise Invalid("Share with one of: group=NAME, people=[NAMES], everyone=True.", code="invalid")
        request = ShareRequest(
            visibility="group" if group else "people" if people else "everyone",
            people=list(people),
            group=group,
            description=description,
        )
        return self._patch(request)

    def unshare(self) -> Environment:
        """Make it private again; what runs in it already goes on."""
        return self._patch(ShareRequest(visibility="private"))

    def _patch(self, request: ShareRequest) -> Environment:
        from himalia._connection import to_wire

        answer = self._himalia.connection.call("PATCH", self._path, body=to_wire(request)).json()
        self.info = from_wire(schema.Environment, answer)
        return self

    def version(self, number: int) -> Version:
        return from_wire(Version, self._himalia.connection.get(f"{self._path}/versions/{number}"))

    def packages(self, number: int | None = None) -> Packages:
        """What is installed in a version, the latest without a number."""
        if number is None:
            if self.latest is None:
                raise Invalid(f"{self.ref} has no saved version yet.", code="no_version")
            number = self.latest.number
        return from_wire(Packages, self._himalia.connection.get(f"{self._path}/versions/{number}/packages"))

    def delete(self, number: int | None = None) -> None:
        """Delete a version, or without a number the whole environment. Refused while something uses it."""
        path = self._path if number is None else f"{self._path}/versions/{number}"
        self._himalia.connection.call("DELETE", path)


class Environments:
    """Everything that can be done with environments: `himalia.connect().environments`."""

    def __init__(self, himalia: Himalia) -> None:
        self._himalia = himalia

    def resolve(self, ref: str) -> str:
        """The full name of what a person wrote: `vision` is theirs; `ada/vision:3` and digests stay as they are."""
        if "/" in ref or ref.startswith("sha256:"):
            return ref
        return f"{self._himalia.name}/{ref}"

    def list(self) -> list[Environment]:
        """What I may use: mine, what is shared with me, what the operator offers."""
        return [
            Environment(self._himalia, from_wire(schema.Environment, item))
            for item in self._himalia.connection.items("/environments")
        ]

    def get(self, ref: str) -> Environment:
        owner, name, _ = split_ref(self.resolve(ref))
        return Environment(
            self._himalia, from_wire(schema.Environment, self._himalia.connection.get(f"/environments/{owner}/{name}"))
        )

    def version(self, ref: str) -> Version:
        """One version by its name, as in `ada/vision:3`."""
        owner, name, number = split_ref(self.resolve(ref))
        if number is None:
            raise Invalid(f"Say which version of {owner}/{name}, as in {owner}/{name}:1.", code="invalid")
        return from_wire(
            Version, self._himalia.connection.get(f"/environments/{owner}/{name}/versions/{number}", patience=PATIENCE)
        )

    def wait(self, version: Version | str, *, timeout: float = 3600, progress: Progress | None = None) -> Version:
        """Wait until a version is Saved; SaveFailed when it will not be."""
        ref = version if isinstance(version, str) else version.ref
        done = until(
            lambda: self.version(ref),
            lambda v: not is_live(v),
            timeout=timeout,
            changed=progress,
            key=lambda v: (v.phase, v.progress_bytes, v.progress_message),
            complaint=lambda v: f"{ref} is still {v.phase} after {timeout:.0f} s; the save goes on.",
        )
        if done.phase != "Saved":
            raise failed_save(done)
        return done
