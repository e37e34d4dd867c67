"""What a command finds around it: environment variables, folders it may write, the settings a fresh home starts with."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from himalia.runner.process import JOVYAN, User

OURS = Path("/opt/himalia")
VENV = Path("/opt/venv")
#: Sockets, keys of running kernels, state of the editor: nothing below /run is in a save.
RUNTIME = Path("/run/user/1000")
JUPYTER_RUNTIME = RUNTIME / "jupyter"
BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
#: Our programs run without these: what people set for theirs must not load into ours. Kernels and terminals get them back
#: under their own names (kernel.json, /etc/profile.d).
WITHHELD = ("PYTHONPATH", "LD_LIBRARY_PATH")

DEFAULTS = {
    # What people install goes outside home, and is therefore saved with the environment.
    "JUPYTER_PATH": f"{OURS}/share/himalia:{VENV}/share/jupyter",
    "JUPYTER_DATA_DIR": "/opt/jupyter",
    "CONDA_ENVS_PATH": "/opt/conda-envs",
    "CONDA_PKGS_DIRS": "/opt/conda-pkgs",
    "NPM_CONFIG_PREFIX": "/opt/npm",
    "R_LIBS_USER": "/opt/R/library",
    # Programs that bring certificates of their own trust what this system trusts.
    "SSL_CERT_FILE": BUNDLE,
    "REQUESTS_CA_BUNDLE": BUNDLE,
    "NODE_EXTRA_CA_CERTS": BUNDLE,
}


def environment(extra: Mapping[str, str], user: User = JOVYAN) -> dict[str, str]:
    """The container's own variables, ours, then `extra`: later ones win, but never over who the user is."""
    env = {**os.environ, **DEFAULTS, **extra}
    env.update(HOME=str(user.home), USER=user.name, LOGNAME=user.name, SHELL="/bin/bash")
    env.update(XDG_RUNTIME_DIR=str(RUNTIME), JUPYTER_RUNTIME_DIR=str(JUPYTER_RUNTIME))
    return env


def server_environment(env: Mapping[str, str]) -> dict[str, str]:
    """For programs of ours: without what must not load into them, which travels on under another name."""
    kept = {name: value for name, value in env.items() if name not in WITHHELD}
    kept.update({f"HIMALIA_{name}": env.get(name, "") for name in WITHHELD})
    kept["HIMALIA_PATH"] = env.get("PATH", "")
    return kept


def make_runtime(user: User = JOVYAN, folders: Iterable[Path] = (RUNTIME, JUPYTER_RUNTIME)) -> None:
    """Folders of this run, empty: what an earlier run of the container left there is stale."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        folder.chmod(0o700)
        _give(folder, user)


def adopt(user: User = JOVYAN, roots: Iterable[Path] = (JOVYAN.home, Path("/run/himalia/live"), Path("/job"))) -> None:
    """Make mounted folders the user's: an engine makes new volumes, and folders that lead to mounts, as root's.

    Only the folders themselves: what lies inside keeps its owners.
    """
    for root in roots:
        for mount in mounts_below(root, Path("/proc/self/mountinfo").read_text()):
            for folder in (*reversed(leading(mount, root)), mount):
                if folder.is_dir() and not folder.is_symlink():
                    _give(folder, user)


def seed(home: Path, skeleton: Mapping[str, str | Path], user: User = JOVYAN) -> None:
    """Put each file there that home lacks: text, or the copy of a file."""
    for name, content in skeleton.items():
        target = home / name
        if os.path.lexists(target):
            continue
        text = content if isinstance(content, str) else content.read_text() if content.is_file() else None
        if text is None:
            continue
        for folder in reversed([folder for folder in target.parents if home in folder.parents]):
            if not folder.exists():
                folder.mkdir()
                _give(folder, user)
        target.write_text(text)
        _give(target, user)


def _give(path: Path, user: User) -> None:
    try:
        if path.stat(follow_symlinks=False).st_uid != user.uid:
            os.chown(path, user.uid, user.gid, follow_symlinks=False)
    except OSError:
        pass  # read-only, or a store without owners: the user may have to do without writing


def mounts_below(root: Path, mountinfo: str) -> Iterator[Path]:
    for line in mountinfo.splitlines():
        target = Path(
            line.split(" ")[4].encode().decode("unicode_escape").encode("latin-1").decode(errors="surrogateescape")
        )
        if target == root or root in target.parents:
            yield target


def leading(mount: Path, root: Path) -> list[Path]:
    """The folders between `root` and the mount, nearest first."""
    return [folder for folder in mount.parents if folder == root or root in folder.parents]
