"""What follows for a version from its row and its boot check, case by case."""

from __future__ import annotations

from datetime import timedelta
from itertools import product

import pytest

from himalia_services.model.decide_version import (
    ATTEMPTS,
    TRIES,
    VERIFY_PATIENCE,
    Boot,
    Conclude,
    Decision,
    Facts,
    Rest,
    Save,
    Wait,
    decide,
)
from himalia_services.model.phases import VERSION
from himalia_services.model.workload import WorkerObserved

RUNNING = WorkerObserved(state="running")
CREATED = WorkerObserved(state="created")
ABSENT = WorkerObserved(state="absent")
EXITED = WorkerObserved(state="exited", exit_code=0)
CRASHED = WorkerObserved(state="exited", exit_code=137)
KILLED = WorkerObserved(state="exited", exit_code=137, oom_killed=True)
LATE = VERIFY_PATIENCE + timedelta(seconds=1)

GOOD = {"ok": True, "warnings": ["kernel_broken: no module named traitlets"], "packages": {"pip": [["numpy", "2.3.0"]]}}
BAD = {"ok": False, "message": "The server did not answer.", "log_tail": "ImportError: tornado"}


@pytest.mark.parametrize(
    ("facts", "decision"),
    [
        (Facts(phase="Committing"), Save()),
        (Facts(phase="Committing", attempt=ATTEMPTS - 1), Save()),
        (Facts(phase="Committing", behind=True), Wait()),
        (Facts(phase="Pushing", attempt=1), Save()),
        (Facts(phase="Verifying"), Boot()),
        (Facts(phase="Verifying", worker=ABSENT), Boot()),
        (Facts(phase="Verifying", worker=CREATED), Wait()),
        (Facts(phase="Verifying", worker=RUNNING), Wait()),
        (Facts(phase="Verifying", worker=RUNNING, tries=TRIES - 1), Wait()),
        (Facts(phase="Saved"), Rest()),
        (Facts(phase="Failed"), Rest()),
        (Facts(phase="Failed", worker=EXITED, result=GOOD), Rest()),
        (
            Facts(phase="Verifying", worker=EXITED, result=GOOD),
            Conclude(
                status="Saved",
                warnings=("kernel_broken: no module named traitlets",),
                packages={"pip": [["numpy", "2.3.0"]]},
            ),
        ),
        (
            Facts(phase="Verifying", worker=EXITED, result=BAD),
            Conclude(
                status="Failed",
                reason_code="boot_check",
                reason_message="The server did not answer.\nImportError: tornado",
            ),
        ),
        (
            Facts(phase="Verifying", worker=CRASHED),
            Conclude(
                status="Failed",
                reason_code="boot_check",
                reason_message="The environment's trial start ended with exit code 137 before it could report.",
            ),
        ),
        (
            Facts(phase="Verifying", worker=KILLED),
            Conclude(
                status="Failed",
                reason_code="boot_check",
                reason_message="The environment's trial start ran out of memory before it could report.",
            ),
        ),
    ],
)
def test_a_version_goes_on_as_its_facts_say(facts: Facts, decision: Decision) -> None:
    assert decide(facts) == decision


@pytest.mark.parametrize("phase", ["Committing", "Pushing"])
def test_a_save_cut_off_too_often_is_given_up(phase: str) -> None:
    end = decide(Facts(phase=phase, attempt=ATTEMPTS))
    assert isinstance(end, Conclude)
    assert (end.status, end.reason_code) == ("Failed", "interrupted")


@pytest.mark.parametrize("phase", ["Committing", "Pushing", "Verifying"])
def test_a_save_nobody_answers_is_given_up(phase: str) -> None:
    end = decide(Facts(phase=phase, tries=TRIES))
    assert isinstance(end, Conclude)
    assert (end.status, end.reason_code) == ("Failed", "interrupted")


@pytest.mark.parametrize("worker", [None, CREATED, RUNNING, ABSENT])
def test_a_trial_start_that_never_ends_is_given_up(worker: WorkerObserved | None) -> None:
    end = decide(Facts(phase="Verifying", worker=worker, verifying=LATE))
    assert isinstance(end, Conclude)
    assert (end.status, end.reason_code) == ("Failed", "boot_check")


def test_a_trial_start_that_ended_late_counts_all_the_same() -> None:
    end = decide(Facts(phase="Verifying", worker=EXITED, result=GOOD, verifying=LATE))
    assert isinstance(end, Conclude)
    assert end.status == "Saved"


def test_every_decision_about_every_state_is_a_legal_move() -> None:
    workers = [None, CREATED, RUNNING, ABSENT, EXITED, CRASHED, KILLED]
    results = [None, {}, GOOD, BAD]
    ages = [timedelta(), LATE]
    for phase, attempt, tries, behind, worker, result, age in product(
        VERSION, (0, 3), (0, TRIES), (False, True), workers, results, ages
    ):
        end = decide(
            Facts(phase=phase, attempt=attempt, tries=tries, behind=behind, worker=worker, result=result, verifying=age)
        )
        if isinstance(end, Conclude):
            assert end.status in VERSION[phase]
            assert (end.status == "Failed") == bool(end.reason_code and end.reason_message)
        else:
            assert isinstance(end, Rest) == (phase in ("Saved", "Failed"))
