"""One installation for these tests, and two people who use it by the SDK alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from himalia import Himalia
from himalia.login import sign_in
from himalia.workspace import Workspace
from platform_fixture import Person, Platform

ENVIRONMENT = "himalia/base"


@dataclass
class Somebody:
    """A person, logged in from outside, and their running workspace."""

    person: Person
    himalia: Himalia
    workspace: Workspace

    def sh(self, line: str, *, code: int = 0, cwd: str = "~") -> str:
        """Run a line of bash in the workspace; the output."""
        finished = self.workspace.run(line, check=False, cwd=cwd, timeout=600)
        assert finished.exit_code == code, f"{line} ended with {finished.exit_code}: {finished.output}"
        return finished.output


@pytest.fixture(scope="session")
def ada(platform: Platform) -> Iterator[Somebody]:
    person = platform.person("inputs-ada")
    platform.group("inputs-vision", person)
    with Himalia(sign_in(platform.url, person.name, person.password)) as himalia:
        yield Somebody(person, himalia, himalia.workspaces.start(timeout=900))
