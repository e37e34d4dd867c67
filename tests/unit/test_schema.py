"""The wire schema: what goes out comes back, and a client stands a newer server."""

from __future__ import annotations

import dataclasses
import json
import typing
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from himalia import schema
from himalia._connection import to_wire
from himalia.cli.output import plain
from himalia.schema import from_wire

NOUNS = [
    kind
    for kind in vars(schema).values()
    if dataclasses.is_dataclass(kind) and isinstance(kind, type) and kind is not schema.Page
]


def _of(hint: Any) -> st.SearchStrategy[Any]:
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        return st.builds(hint, **{f.name: _of(hints[f.name]) for f in dataclasses.fields(hint)})
    if hint is datetime:
        return st.datetimes(timezones=st.just(UTC))
    if hint is float:
        return st.floats(allow_nan=False)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is list:
        return st.lists(_of(inner[0]), max_size=2)
    if origin is dict:
        values = (
            st.text(max_size=3)
            if inner[1] is str
            else st.recursive(
                st.none() | st.booleans() | st.integers() | st.text(max_size=3), lambda x: st.lists(x, max_size=2)
            )
        )
        return st.dictionaries(st.text(max_size=3), values, max_size=2)
    if type(None) in inner:
        return st.none() | _of(next(i for i in inner if i is not type(None)))
    return st.from_type(hint)


@pytest.mark.parametrize("kind", NOUNS, ids=lambda kind: kind.__name__)
def test_what_goes_out_as_json_comes_back_equal(kind: type) -> None:
    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(value=_of(kind))
    def roundtrip(value: Any) -> None:
        assert from_wire(kind, json.loads(json.dumps(plain(value)))) == value

    roundtrip()


def test_fields_of_a_newer_server_are_ignored() -> None:
    machine = from_wire(
        schema.Machine, {"name": "s", "display_name": "S", "cpu": 1, "memory_bytes": 1, "shm_bytes": 1, "gpus": 8}
    )
    assert machine == schema.Machine(name="s", display_name="S", cpu=1, memory_bytes=1, shm_bytes=1)


def test_a_required_field_that_is_missing_is_named() -> None:
    with pytest.raises(KeyError, match="display_name"):
        from_wire(schema.Machine, {"name": "s"})


def test_times_with_a_z_are_utc() -> None:
    entry = from_wire(schema.StatusEntry, {"status": "Running", "start_time": "2026-01-02T03:04:05Z"})
    assert entry.start_time == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_a_request_tells_an_older_server_only_what_was_asked_for() -> None:
    request = schema.JobRequest(
        kind="script",
        environment="ada/vision",
        script="train.py",
        input=schema.JobInput(digest="sha256:0", path="/job/x"),
    )
    assert to_wire(request) == {
        "kind": "script",
        "environment": "ada/vision",
        "script": "train.py",
        "input": {"digest": "sha256:0", "path": "/job/x"},
    }
