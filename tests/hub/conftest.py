"""One installation for all of these tests: real hub, proxy, control plane, registry and containers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import pytest

from platform_fixture import Person, Platform

_numbers = count(1)


@pytest.fixture
def person(platform: Platform) -> Iterator[Callable[..., Person]]:
    """Makes people with names of their own; what they started is stopped afterwards, so that the next test has the machine."""
    made: list[Person] = []

    def make(name: str = "ada", **options: bool) -> Person:
        somebody = platform.person(f"{name}{next(_numbers)}", **options)
        made.append(somebody)
        return somebody

    yield make
    for somebody in made:
        somebody.session.close()
        for container in platform.docker.containers.list(
            filters={"label": f"himalia.instance={platform.home.instance}"}
        ):
            if container.labels.get("himalia.kind") == "workspace":
                container.stop(timeout=5)
