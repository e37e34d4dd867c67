"""The tables. Rows that people own carry `owner_id` (a key never given twice), `owner` (the name shown) and `group`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


def now() -> datetime:
    return datetime.now(UTC)


class Time(TypeDecorator[datetime]):
    """A moment in UTC. SQLite keeps no zone, so it is put back on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: Time, dict[str, Any]: JSON, list[Any]: JSON}


class Owned:
    owner_id: Mapped[str] = mapped_column(ForeignKey("people.id"), index=True)
    owner: Mapped[str] = mapped_column(String(255))
    group: Mapped[str | None] = mapped_column(String(255))


class Leased:
    """A reconciler holds a row by lease: `lease` names the holder and is void after `leased_until`."""

    lease: Mapped[str | None] = mapped_column(String(64))
    leased_until: Mapped[datetime | None]
    wake_at: Mapped[datetime] = mapped_column(default=now, index=True)
    #: Passes in a row that ended because something did not answer; the pause grows with it.
    tries: Mapped[int] = mapped_column(default=0)


class Phased:
    status: Mapped[str] = mapped_column(String(32), index=True)
    reason_code: Mapped[str] = mapped_column(String(64), default="")
    reason_message: Mapped[str] = mapped_column(Text, default="")


class Person(Base):
    """One person as the hub knew them: a name given again after a deletion is another person, with another key."""

    __tablename__ = "people"
    __table_args__ = (UniqueConstraint("name", "hub_created"),)
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(255), index=True)
    hub_created: Mapped[str] = mapped_column(String(40))
    created_at: Mapped[datetime] = mapped_column(default=now)


class Workspace(Base, Owned, Phased, Leased):
    __tablename__ = "workspaces"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(30), default="")
    display_name: Mapped[str] = mapped_column(String(255), default="")
    machine: Mapped[str] = mapped_column(String(64))
    #: What the reconciler still has to ask of the hub: start, stop, delete; empty once it has.
    wanted: Mapped[str] = mapped_column(String(16), default="")
    #: What a start should use; None: what the container has, else the default preset.
    wanted_version_id: Mapped[str | None] = mapped_column(ForeignKey("versions.id"))
    #: What the container was made from.
    version_id: Mapped[str | None] = mapped_column(ForeignKey("versions.id"))
    #: Set when the container was made anew from a private save: that version, while `version_id` stays what people chose.
    preserved_version_id: Mapped[str | None] = mapped_column(ForeignKey("versions.id"))
    created_at: Mapped[datetime] = mapped_column(default=now)
    started_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]


class Environment(Base, Owned):
    __tablename__ = "environments"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    description: Mapped[str] = mapped_column(Text, default="")
    visibility: Mapped[str] = mapped_column(String(16), default="private")
    people: Mapped[list[Any]] = mapped_column(default=list)
    #: Private saves the platform makes for itself (a workspace recreated with other mounts) are in no list.
    hidden: Mapped[bool] = mapped_column(default=False)
    next_number: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[datetime] = mapped_column(default=now)
    deleted_at: Mapped[datetime | None]


class Version(Base, Phased, Leased):
    """`status` is the phase of the save. A number is never given twice, also after a deletion."""

    __tablename__ = "versions"
    __table_args__ = (UniqueConstraint("environment_id", "number"),)
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    environment_id: Mapped[str] = mapped_column(ForeignKey("environments.id"), index=True)
    number: Mapped[int]
    note: Mapped[str] = mapped_column(Text, default="")
    repository: Mapped[str] = mapped_column(String(255))
    digest: Mapped[str | None] = mapped_column(String(80), index=True)
    config_digest: Mapped[str | None] = mapped_column(String(80))
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    layers: Mapped[int | None]
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("versions.id"))
    workspace_id: Mapped[str | None] = mapped_column(ForeignKey("workspaces.id"), index=True)
    packages: Mapped[dict[str, Any]] = mapped_column(default=dict)
    warnings: Mapped[list[Any]] = mapped_column(default=list)
    progress_bytes: Mapped[int | None] = mapped_column(BigInteger)
    #: Saves begun; one that a crash cut off is begun anew, a few times.
    attempt: Mapped[int] = mapped_column(default=0)
    #: Manifest and image are gone, after a deletion or a failure.
    purged: Mapped[bool] = mapped_column(default=False)
    created_by: Mapped[str] = mapped_column(String(255))
    created_at: Mapped[datetime] = mapped_column(default=now)
    saved_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]


class Input(Base):
    """A pack somebody uploaded. The bytes are stored once; a row says who may use them."""

    __tablename__ = "inputs"
    digest: Mapped[str] = mapped_column(String(80), primary_key=True)
    owner_id: Mapped[str] = mapped_column(ForeignKey("people.id"), primary_key=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    files: Mapped[int]
    #: {path: sha256 of a regular file}, so that outputs can be told from what came in.
    listing: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[datetime] = mapped_column(default=now)


class Job(Base, Owned, Phased, Leased):
    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    display_name: Mapped[str] = mapped_column(String(255), default="")
    kind: Mapped[str] = mapped_column(String(16))
    command: Mapped[list[Any]] = mapped_column(default=list)
    env: Mapped[dict[str, Any]] = mapped_column(default=dict)
    version_id: Mapped[str] = mapped_column(ForeignKey("versions.id"), index=True)
    environment_ref: Mapped[str] = mapped_column(String(320))
    digest: Mapped[str] = mapped_column(String(80))
    machine: Mapped[dict[str, Any]] = mapped_column(default=dict)
    working_dir: Mapped[str] = mapped_column(Text, default="")
    input: Mapped[dict[str, Any]] = mapped_column(default=dict)
    mounts: Mapped[list[Any]] = mapped_column(default=list)
    max_run_seconds: Mapped[int | None]
    attempt: Mapped[int] = mapped_column(default=1)
    #: Why it is to stop: `stopped_by_user` or `max_duration_exceeded`; set once.
    stop_reason: Mapped[str] = mapped_column(String(64), default="")
    stop_sent_at: Mapped[datetime | None]
    delete_wanted: Mapped[bool] = mapped_column(default=False)
    exit_code: Mapped[int | None]
    log_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    collected: Mapped[bool] = mapped_column(default=False)  # log and outputs are ours; the container may go
    created_at: Mapped[datetime] = mapped_column(default=now)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class Output(Base):
    __tablename__ = "outputs"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    worker: Mapped[int] = mapped_column(primary_key=True)
    path: Mapped[str] = mapped_column(Text, primary_key=True)
    digest: Mapped[str] = mapped_column(String(80))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    mode: Mapped[int] = mapped_column(default=0o644)
    change: Mapped[str] = mapped_column(String(8))


class Event(Base):
    """History, audit and the live feed. Written in the transaction that made it true."""

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_target", "target_kind", "target"),)
    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    time: Mapped[datetime] = mapped_column(default=now)
    actor: Mapped[str] = mapped_column(String(255))
    target_kind: Mapped[str] = mapped_column(String(16))
    target: Mapped[str] = mapped_column(String(64))
    owner_id: Mapped[str] = mapped_column(String(32), index=True)
    owner: Mapped[str] = mapped_column(String(255))
    group: Mapped[str | None] = mapped_column(String(255))
    attempt: Mapped[int | None]
    worker: Mapped[int | None]
    status: Mapped[str] = mapped_column(String(32), default="")
    reason_code: Mapped[str] = mapped_column(String(64), default="")
    reason_message: Mapped[str] = mapped_column(Text, default="")


class Idempotency(Base):
    """An answered creation: the same key with the same body gets the same answer, with another body 422."""

    __tablename__ = "idempotency"
    owner_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    request: Mapped[str] = mapped_column(String(80))  # sha256 of method, path and body
    target: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(default=now)
