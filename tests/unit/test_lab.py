"""What the lab extension relies on elsewhere: the wire schema, the routes, and a build that finds its packages anywhere."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from himalia import schema

LAB = Path(__file__).parents[2] / "extensions" / "lab"
INTERFACE = re.compile(r"^export interface (\w+)(?:<T>)? \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
FIELD = re.compile(r"^  (\w+): ", re.MULTILINE)
#: What the extension's server half takes and gives; the control plane does not know it.
OWN = {"RunRequest", "Submitted", "PutBack"}


def interfaces() -> dict[str, list[str]]:
    source = (LAB / "src" / "schema.ts").read_text()
    return {name: FIELD.findall(body) for name, body in INTERFACE.findall(source) if name not in OWN}


def constant(name: str) -> set[str]:
    source = (LAB / "src" / "schema.ts").read_text()
    found = re.search(rf"{name}[^=]*= (?:new Set\()?\[(.*?)\]", source, re.DOTALL)
    assert found, name
    return set(re.findall(r"'(\w+)'", found[1]))


@pytest.mark.parametrize("name", sorted(interfaces()))
def test_every_field_the_lab_reads_is_one_of_the_wire_schema(name: str):
    mine = interfaces()[name]
    assert mine, f"no fields of {name} were found"
    assert set(mine) <= {f.name for f in fields(getattr(schema, name))}


def test_the_lab_tells_what_lives_as_the_schema_does():
    assert constant("LIVE_JOB_STATES") == schema.LIVE_JOB_STATES
    assert constant("SAVE_PHASES") - {"Saved"} == schema.LIVE_VERSION_PHASES


def test_both_halves_of_the_lab_run_the_same_files():
    front = re.search(r"const KINDS[^=]*= \{ (.*?) \}", (LAB / "src" / "inputs.ts").read_text())
    back = re.search(r"^KINDS = \{(.*?)\}", (LAB / "himalia_lab" / "jobs.py").read_text(), re.MULTILINE)
    assert front
    assert back
    assert dict(re.findall(r"(\w+): '(\w+)'", front[1])) == dict(re.findall(r'"\.(\w+)": "(\w+)"', back[1]))


def test_the_lock_file_names_no_registry():
    packages = json.loads((LAB / "package-lock.json").read_text())["packages"]
    assert len(packages) > 100
    assert [name for name, package in packages.items() if "resolved" in package] == []
    assert [name for name, package in packages.items() if name and "integrity" not in package] == []


def test_every_command_of_the_settings_exists():
    schema_file = (LAB / "schema" / "plugin.json").read_text()
    commands = (LAB / "src" / "commands.ts").read_text()
    used = set(re.findall(r'"command": "(himalia:[\w-]+)"', schema_file))
    assert used
    assert used <= set(re.findall(r"'(himalia:[\w-]+)'", commands))
