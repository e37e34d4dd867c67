"""What an operator offers: machines and preset environments. Parsing only; who reads the file is somebody else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from himalia import schema
from himalia_services.errors import Invalid
from himalia_services.model.workload import Resources

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|KiB|MiB|GiB|TiB)")
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_MACHINE = frozenset({"name", "display_name", "cpu", "memory", "shm", "default"})
_PRESET = frozenset({"name", "description", "image"})


class CatalogError(ValueError):
    """The catalog is not right; the sentence says where."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """An environment of the platform: `image` names what the builder made of it."""

    name: str
    description: str
    image: str


@dataclass(frozen=True)
class Catalog:
    """Machines and presets in the operator's order."""

    machines: tuple[schema.Machine, ...]
    presets: tuple[Preset, ...]

    @property
    def default_machine(self) -> schema.Machine:
        return next(m for m in self.machines if m.default)

    @property
    def default_preset(self) -> Preset:
        return self.presets[0]

    def machine(self, name: str | None) -> schema.Machine:
        """The machine of that name, or the default one for None and an empty name."""
        if not name:
            return self.default_machine
        for machine in self.machines:
            if machine.name == name:
                return machine
        offered = ", ".join(m.name for m in self.machines)
        raise Invalid(f"There is no machine “{name[:80]}” here. Choose one of: {offered}.", code="machine_unknown")


def resources(machine: schema.Machine) -> Resources:
    return Resources(cpu=machine.cpu, memory_bytes=machine.memory_bytes, shm_bytes=machine.shm_bytes)


def parse(document: Any) -> Catalog:
    """The catalog of a decoded YAML document. CatalogError with a sentence when it is not one."""
    if not isinstance(document, Mapping) or not set(document) <= {"machines", "presets"}:
        raise CatalogError("The catalog has two lists, `machines` and `presets`, and nothing else.")
    machines = tuple(_machine(m) for m in _list(document, "machines"))
    presets = tuple(_preset(p) for p in _list(document, "presets"))
    _unique("machines", [m.name for m in machines])
    _unique("presets", [p.name for p in presets])
    if sum(m.default for m in machines) != 1:
        raise CatalogError("Exactly one machine of the catalog has `default: true`.")
    return Catalog(machines=machines, presets=presets)


def _list(document: Mapping[str, Any], key: str) -> list[Any]:
    value = document.get(key)
    if not isinstance(value, list) or not value:
        raise CatalogError(f"The catalog's `{key}` is a list with at least one entry.")
    return value


def _machine(entry: Any) -> schema.Machine:
    name = _name("machine", entry, _MACHINE)
    cpu = entry.get("cpu")
    if isinstance(cpu, bool) or not isinstance(cpu, int | float) or not 0 < cpu <= 1024:
        raise CatalogError(f"Machine {name}: `cpu` is a number of cores above 0.")
    memory = _size(name, "memory", entry.get("memory"))
    return schema.Machine(
        name=name,
        display_name=str(entry.get("display_name") or name),
        cpu=float(cpu),
        memory_bytes=memory,
        shm_bytes=_size(name, "shm", entry.get("shm", "64 MiB")),
        default=entry.get("default", False) is True,
    )


def _preset(entry: Any) -> Preset:
    name = _name("preset", entry, _PRESET)
    return Preset(name=name, description=str(entry.get("description") or ""), image=str(entry.get("image") or name))


def _name(kind: str, entry: Any, known: frozenset[str]) -> str:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str) or not _NAME.fullmatch(entry["name"]):
        raise CatalogError(
            f"Each {kind} of the catalog has a `name` of small letters, digits and dashes; this has not: {entry!r}"
        )
    if odd := sorted(str(k) for k in set(entry) - known):
        raise CatalogError(
            f"{kind.capitalize()} {entry['name']}: nobody knows `{odd[0]}`. It takes {', '.join(sorted(known))}."
        )
    return entry["name"]


def _size(name: str, key: str, value: Any) -> int:
    found = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None or (size := int(float(found[1]) * _UNITS[found[2]])) < 1 << 20:
        raise CatalogError(f"Machine {name}: `{key}` is a size of 1 MiB or more, as in `2 GiB`; this is not: {value!r}")
    return size


def _unique(key: str, names: list[str]) -> None:
    if len(set(names)) < len(names):
        raise CatalogError(f"The names of the catalog's `{key}` differ from each other.")
