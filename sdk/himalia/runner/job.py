"""`himalia-run job`: one attempt of a job, its whole log, and how it ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from himalia.runner import UNUSABLE, process, surroundings
from himalia.runner.process import JOVYAN, Ending, User

FOLDER = Path("/run/himalia/workload")
SCRATCH = Path("/run/himalia/job")
#: Whose unmet requirements explain a kernel that does not start.
KERNEL_PACKAGES = ("comm", "ipykernel", "ipython", "jupyter_client", "jupyter-client", "jupyter_core", "jupyter-core")


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What the control plane wants run."""

    argv: list[str]
    cwd: Path
    kind: str = "command"
    env: dict[str, str] = field(default_factory=dict)
    notebook: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)


def run(folder: Path = FOLDER) -> int:
    """Run the attempt in `folder`; the exit code of its command."""
    began = _now()
    if not folder.is_dir():
        print(
            f"himalia-run: {folder} is not mounted; a job's specification, log and result live there.", file=sys.stderr
        )
        return UNUSABLE
    if (folder / "result.json").exists():  # the container was started again, and an attempt runs once
        return int(json.loads((folder / "result.json").read_text())["exit_code"])
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        ending = _attempt(read(folder / "spec.json"), log)
    except (OSError, ValueError, KeyError, TypeError) as error:
        ending = Ending(exit_code=UNUSABLE, error=f"The job could not be prepared: {error}.")
    if ending.error:
        os.write(log, f"himalia: {ending.error}\n".encode())
    os.close(log)
    result = {
        "exit_code": ending.exit_code,
        "signal": ending.signal,
        "started_at": began,
        "ended_at": _now(),
        "error": ending.error,
    }
    write(folder / "result.json", result)
    return ending.exit_code


def read(path: Path) -> Spec:
    """The specification, from its file."""
    spec = json.loads(path.read_text())
    return Spec(
        argv=[str(word) for word in spec.get("argv") or []],
        cwd=Path(spec["cwd"]),
        kind=spec.get("kind", "command"),
        env={str(name): str(value) for name, value in (spec.get("env") or {}).items()},
        notebook=spec.get("notebook") or "",
        parameters=spec.get("parameters") or {},
    )


def write(path: Path, result: Mapping[str, object]) -> None:
    """Write a result so that a reader sees all of it or nothing."""
    unfinished = path.with_name(f".{path.name}")
    with open(unfinished, "w") as file:
        json.dump(result, file)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def environment(spec: Spec) -> dict[str, str]:
    """What the command finds: without a person's start-up files, and without a terminal."""
    env = surroundings.environment(
        {
            "IPYTHONDIR": str(SCRATCH / "ipython"),
            "JUPYTER_CONFIG_DIR": str(SCRATCH / "jupyter"),
            "PYTHONNOUSERSITE": "1",
            "PYTHONUNBUFFERED": "1",
            **spec.env,
        }
    )
    env.pop("TERM", None)
    return env


def notebook_command(spec: Spec, parameters: Path) -> list[str]:
    """papermill in place: the job's folder is a copy, and the executed notebook one of its outputs."""
    notebook = spec.notebook
    return [
        str(surroundings.OURS / "bin/papermill"),
        *("--kernel", "python3", "--language", "python", "--cwd", str(spec.cwd)),
        *("--log-output", "--no-progress-bar", "--parameters_file", str(parameters)),
        *(notebook, notebook),
    ]


def kernel_fault(env: Mapping[str, str], user: User = JOVYAN) -> str:
    """Why the default kernel cannot start: the last line of its complaint and what pip says of it; empty when it can."""
    code, output = _venv_python(["-c", "import ipykernel.kernelapp"], env, user)
    if code == 0:
        return ""
    lines = output.strip().splitlines()
    fault = lines[-1].strip() if lines else f"it ended with {code}"
    _, conflicts = _venv_python(["-m", "pip", "check"], env, user)
    named = [line.rstrip(".") for line in conflicts.splitlines() if line.split(" ")[0] in KERNEL_PACKAGES]
    return f"{fault} ({'; '.join(named)})" if named else fault


def _venv_python(arguments: list[str], env: Mapping[str, str], user: User) -> tuple[int, str]:
    as_user = os.geteuid() == 0
    try:
        done = subprocess.run(
            [str(surroundings.VENV / "bin/python"), *arguments],
            env={**env, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
            user=user.uid if as_user else None,
            group=user.gid if as_user else None,
            extra_groups=[user.gid] if as_user else None,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return done.returncode, done.stdout.decode(errors="replace")


def repair(fault: str) -> str:
    """The sentence people read about a broken kernel, with the command that repairs it."""
    return f"The default kernel cannot start: {fault}. Repair it in a terminal with: pip install --upgrade ipykernel"


def _attempt(spec: Spec, log: int) -> Ending:
    surroundings.make_runtime(folders=(surroundings.RUNTIME, surroundings.JUPYTER_RUNTIME, SCRATCH))
    surroundings.adopt()
    env = environment(spec)
    if spec.kind == "notebook":
        return _notebook(spec, env, log)
    if not spec.argv:
        return Ending(exit_code=UNUSABLE, error="The job has no command.")
    return process.run(spec.argv, env=env, cwd=spec.cwd, output=log)


def _notebook(spec: Spec, env: dict[str, str], log: int) -> Ending:
    parameters = SCRATCH / "parameters.yaml"
    parameters.write_text(json.dumps(spec.parameters))  # JSON is YAML
    os.chown(parameters, JOVYAN.uid, JOVYAN.gid)
    parameters.chmod(0o600)
    ending = process.run(
        notebook_command(spec, parameters), env=surroundings.server_environment(env), cwd=spec.cwd, output=log
    )
    if ending.exit_code and not ending.error and ending.signal is None:
        fault = kernel_fault(env)
        if fault:
            return Ending(exit_code=ending.exit_code, error=repair(fault))
    return ending


def _now() -> str:
    return datetime.now(UTC).isoformat()
