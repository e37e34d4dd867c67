"""Builds the images of this installation, each once per content: `python images/build.py --home HIMALIA_HOME`.

An image's name is a hash over everything that goes into it, so one that is there is right and nothing is built twice.
Stages have images of their own, for the same reason. Works with Docker 20.10 to 29 (the legacy builder, which every engine
has), without an image registry (debootstrap), and behind a gateway that looks into TLS (its certificates alone go in).
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
SUITE = "bookworm"
FIRST_WORD = 6.0  # seconds a registry has to say that it knows the root image
DEBRIS = ("__pycache__", ".ruff_cache", ".pytest_cache")
MADE_IN_LAB = (*DEBRIS, "node_modules", "dist", "build", "lib", "labextension", "tests", "test", "_version.py")
LOG_LINES = 40
#: What a build may need to reach packages: where they are is no part of what they are, so it is not hashed.
NETWORK = (
    *("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
    *(
        "PIP_INDEX_URL",
        "PIP_EXTRA_INDEX_URL",
        "PIP_TRUSTED_HOST",
        "PIP_DEFAULT_TIMEOUT",
        "PIP_RETRIES",
        "npm_config_registry",
    ),
)
MANIFESTS = ", ".join(
    (
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    )
)


class BuildError(Exception):
    """A build that failed: a sentence, and below it the end of the log."""


@dataclass(frozen=True, kw_only=True)
class File:
    """One file of a build context."""

    path: str
    mode: int
    content: bytes


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One image: its context, the stages it stands on (build argument → stage), and its name and hash."""

    name: str
    repository: str
    message: str
    files: tuple[File, ...]
    parents: Mapping[str, Stage] = field(default_factory=dict)
    arguments: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def hash(self) -> str:
        digest = hashlib.sha256()
        for part in (self.name, *(f"{name}={stage.hash}" for name, stage in sorted(self.parents.items()))):
            digest.update(f"{part}\n".encode())
        for name, value in sorted(self.arguments.items()):
            digest.update(f"{name}={value}\n".encode())
        for file in self.files:
            digest.update(f"{file.path} {file.mode:o} {hashlib.sha256(file.content).hexdigest()}\n".encode())
        return digest.hexdigest()[:16]

    @property
    def tag(self) -> str:
        return f"{self.repository}:{self.hash}"

    def context(self) -> bytes:
        """The build context as a tar: the very bytes that were hashed."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for file in self.files:
                entry = tarfile.TarInfo(file.path)
                entry.size, entry.mode = len(file.content), file.mode
                tar.addfile(entry, io.BytesIO(file.content))
        return buffer.getvalue()


def files(folder: Path, prefix: str = "", skip: Iterable[str] = DEBRIS) -> tuple[File, ...]:
    """The files of a folder in a fixed order; modes as git knows them."""
    found: list[File] = []
    ignored = set(skip)
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and not ignored.intersection(relative.parts):
            mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            found.append(File(path=f"{prefix}{relative.as_posix()}", mode=mode, content=path.read_bytes()))
    return tuple(found)


# --- what is built -----------------------------------------------------------------------------------------------------


def stages(environ: Mapping[str, str] = os.environ) -> dict[str, Stage]:
    """Every stage by its name; `registry` and `base` are the images people use."""
    rootfs = Stage(
        name="rootfs", repository="himalia/rootfs", message="Fetching Debian", files=(), arguments={"suite": SUITE}
    )
    root = Stage(
        name="root",
        repository="himalia/root",
        message="Patching Debian",
        files=(*files(HERE / "root"), *_certificates(environ)),
        parents={"SOURCE": rootfs},
        arguments=_mirrors(environ),
    )
    registry = _stage(
        "registry", "Building the registry", HERE / "registry", {"ROOT": root}, repository="himalia/registry"
    )
    system = _stage("system", "Installing the command-line tools", HERE / "base/system", {"ROOT": root})
    python = _stage("python", "Building CPython", HERE / "base/python", {"ROOT": root})
    lab = _stage("lab", "Installing JupyterLab", HERE / "base/lab", {"PYTHON": python})
    code = _stage("code", "Building VS Code", HERE / "base/code", {"ROOT": root})
    venv = _stage("venv", "Making the user's environment", HERE / "base/venv", {"SYSTEM": system})
    extension = Stage(
        name="extension",
        repository="himalia/build-extension",
        message="Building the JupyterLab extension",
        files=_extension(),
        parents={"CODE": code},
    )
    body = _stage(
        "body",
        "Putting the image together",
        HERE / "base/body",
        {"LAB": lab, "CODE": code, "VENV": venv, "SYSTEM": system},
    )
    base = Stage(
        name="base",
        repository="himalia/base",
        message="Adding Himalia",
        files=(*files(HERE / "base/final"), *_sdk()),
        parents={"LAB": lab, "EXTENSION": extension, "BODY": body},
    )
    made = (rootfs, root, registry, system, python, lab, code, venv, extension, body, base)
    return {stage.name: stage for stage in made}


def _stage(name: str, message: str, folder: Path, parents: Mapping[str, Stage], repository: str | None = None) -> Stage:
    return Stage(
        name=name,
        repository=repository or f"himalia/build-{name}",
        message=message,
        files=files(folder),
        parents=parents,
    )


def _sdk() -> tuple[File, ...]:
    """The sources of the SDK's wheel: user images get the SDK, not the services."""
    project = tuple(
        File(path=f"sdk/{name}", mode=0o644, content=(REPOSITORY / name).read_bytes())
        for name in ("pyproject.toml", "README.md")
    )
    return (*project, *files(REPOSITORY / "sdk", "sdk/sdk/"))


def _extension() -> tuple[File, ...]:
    """The sources of himalia-lab, its list of packages apart: those are fetched once and not for every edit."""
    folder = REPOSITORY / "extensions/lab"
    packages = tuple(
        File(path=f"packages/{name}", mode=0o644, content=(folder / name).read_bytes())
        for name in ("package.json", "package-lock.json")
    )
    return (*files(HERE / "base/extension"), *packages, *files(folder, "source/", MADE_IN_LAB))


def _mirrors(environ: Mapping[str, str]) -> dict[str, str]:
    named = {
        "MIRROR": environ.get("HIMALIA_APT_MIRROR", ""),
        "SECURITY_MIRROR": environ.get("HIMALIA_APT_SECURITY_MIRROR", ""),
    }
    return {name: value for name, value in named.items() if value}


# --- certificates of a gateway -----------------------------------------------------------------------------------------

PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
LOCAL_CERTIFICATES = Path("/usr/local/share/ca-certificates")
PUBLIC_CERTIFICATES = Path("/usr/share/ca-certificates")
BUNDLES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")


def added_certificates(environ: Mapping[str, str]) -> list[bytes]:
    """The certificates this host trusts beyond the public ones: HIMALIA_CA_FILE's alone when it is set."""
    named = environ.get("HIMALIA_CA_FILE")
    if named:
        return _unique(_pem(Path(named)))
    local = [pem for path in sorted(LOCAL_CERTIFICATES.rglob("*.crt")) for pem in _pem(path)]
    public = _public_certificates()
    bundles = {Path(environ[name]).resolve() for name in BUNDLES if environ.get(name)}
    added = [pem for path in sorted(bundles) for pem in _pem(path) if public and _der(pem) not in public]
    return _unique([*local, *added])


def _public_certificates() -> set[bytes]:
    bundles = [path for path in PUBLIC_CERTIFICATES.rglob("*.crt")]
    with contextlib.suppress(ImportError):
        import certifi

        bundles.append(Path(certifi.where()))
    return {_der(pem) for path in bundles for pem in _pem(path)}


def _pem(path: Path) -> list[bytes]:
    try:
        return PEM.findall(path.read_bytes())
    except OSError:
        return []


def _der(pem: bytes) -> bytes:
    return base64.b64decode(b"".join(pem.splitlines()[1:-1]))


def _unique(certificates: Iterable[bytes]) -> list[bytes]:
    return list({_der(pem): pem for pem in certificates}.values())


def _certificates(environ: Mapping[str, str]) -> tuple[File, ...]:
    # The folder has to be there for COPY, with certificates or without.
    added = sorted(added_certificates(environ), key=_der)
    named = [
        File(path="certificates/README", mode=0o644, content=b"Certificates this host trusts beyond the public ones.\n")
    ]
    for pem in added:
        name = hashlib.sha256(_der(pem)).hexdigest()[:12]
        named.append(File(path=f"certificates/himalia-{name}.crt", mode=0o644, content=pem + b"\n"))
    return tuple(named)


# --- building ----------------------------------------------------------------------------------------------------------


class Progress:
    """`progress.json`: what is being built, how far it is, what went wrong. Written so that a reader never sees half of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.Lock()
        self.running: list[str] = []
        self.state: dict[str, Any] = {
            "image": "", "step": 0, "steps": 0, "message": "", "started_at": datetime.now(UTC).isoformat(), "error": None,
        }  # fmt: skip

    def begin(self, image: str, steps: int) -> None:
        with self.lock:
            self.state.update(image=image, step=0, steps=steps, message="")
            write(self.path, self.state)

    @contextlib.contextmanager
    def step(self, message: str) -> Iterator[None]:
        """One step while it runs; steps may overlap."""
        print(message, flush=True)
        self._show(message)
        yield
        with self.lock:
            self.running.remove(message)
            self.state["step"] += 1
        self._show()

    def fail(self, error: str) -> None:
        with self.lock:
            self.state["error"] = error
            write(self.path, self.state)

    def end(self) -> None:
        self.path.unlink(missing_ok=True)

    def _show(self, *started: str) -> None:
        with self.lock:
            self.running += started
            self.state["message"] = ", ".join(self.running)
            write(self.path, self.state)


def build(
    home: Path,
    names: Sequence[str],
    progress: Progress,
    environ: Mapping[str, str] = os.environ,
    source: str = "auto",
    push_to: Callable[[str], tuple[str, str]] | None = None,
) -> dict[str, dict[str, str]]:
    """Build the named images and what they stand on, push the base image; their entries for built.json."""
    plan = stages(environ)
    folder = home / "images"
    entries: dict[str, dict[str, str]] = {}
    with _locked(folder / "lock"):
        known = _images()
        for name in names:
            missing = _missing(plan[name], known)
            pushed = push_to is not None and name == "base"
            if missing:
                progress.begin(name, len(missing) + pushed)
                _build_all(missing, folder, progress, environ, source)
                known = _images()
            entries[name] = _entry(plan[name], known[plan[name].tag])
            if push_to is not None and name == "base":
                with progress.step("Storing the image in the registry") if missing else contextlib.nullcontext():
                    digest, config = push_to(plan[name].tag)
                entries[name] |= {"digest": digest, "config_digest": config}
    return entries


def _missing(stage: Stage, known: Collection[str]) -> list[Stage]:
    """The stages that have to be built for this one, parents first; nothing below an image that is there."""
    order: dict[str, Stage] = {}

    def visit(wanted: Stage) -> None:
        if wanted.name in order or wanted.tag in known:
            return
        for parent in wanted.parents.values():
            visit(parent)
        order[wanted.name] = wanted

    visit(stage)
    return list(order.values())


def _build_all(
    missing: Sequence[Stage], folder: Path, progress: Progress, environ: Mapping[str, str], source: str
) -> None:
    """Build stages as soon as what they stand on is there, two at a time."""
    waiting = {stage.name: stage for stage in missing}
    running: dict[Future[None], Stage] = {}

    def one(stage: Stage) -> None:
        with progress.step(stage.message):
            if stage.name == "rootfs":
                make_root(stage, folder, environ, source)
            else:
                build_stage(stage, folder, environ)

    with ThreadPoolExecutor(max_workers=2) as pool:
        while waiting or running:
            busy = {stage.name for stage in running.values()}
            for stage in [s for s in waiting.values() if not _stands_on(s, waiting.keys() | busy)]:
                del waiting[stage.name]
                running[pool.submit(one, stage)] = stage
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                del running[future]
                if future.exception():
                    waiting.clear()
                future.result()


def _stands_on(stage: Stage, names: Iterable[str]) -> bool:
    return any(parent.name in names for parent in stage.parents.values())


def build_stage(stage: Stage, folder: Path, environ: Mapping[str, str]) -> None:
    """`docker build` of one stage; its log is `build-<name>.log`."""
    arguments = {name: parent.tag for name, parent in stage.parents.items()} | dict(stage.arguments)
    command = ["docker", "build", "--network", "host", "--tag", stage.tag]
    for name, value in arguments.items():
        command += ["--build-arg", f"{name}={value}"]
    dockerfile = next(file.content for file in stage.files if file.path == "Dockerfile").decode()
    for name in NETWORK:
        # Without a value: docker takes it from the environment, and an index's password is in no argv.
        if environ.get(name) and (name.lower().endswith("_proxy") or f"ARG {name}\n" in dockerfile):
            command += ["--build-arg", name]
    log = folder / f"build-{stage.name}.log"
    code = _run([*command, "-"], log, environ, stage.context())
    if code:
        raise BuildError(
            _failure(f"{stage.message} failed: docker build ended with {code}. The whole log is {log}.", log)
        )


def make_root(stage: Stage, folder: Path, environ: Mapping[str, str], source: str) -> None:
    """Debian's root file system: from a registry that answers quickly, else made with debootstrap."""
    log = folder / "build-rootfs.log"
    log.write_text("")
    if source != "debootstrap" and _pull(f"debian:{SUITE}-slim", log, environ):
        _docker("tag", f"debian:{SUITE}-slim", stage.tag)
        return
    if source == "registry":
        raise BuildError(_failure(f"The registry did not give debian:{SUITE}-slim; try --root debootstrap.", log))
    _debootstrap(stage, folder, log, environ)


def _pull(image: str, log: Path, environ: Mapping[str, str]) -> bool:
    with (
        open(log, "ab") as out,
        subprocess.Popen(
            ["docker", "pull", image], stdout=subprocess.PIPE, stderr=out, env=_docker_env(environ)
        ) as process,
    ):
        assert process.stdout is not None
        slow = threading.Timer(FIRST_WORD, process.kill)
        slow.start()
        for line in process.stdout:
            slow.cancel()  # it answered: a slow download is still a download
            out.write(line)
        slow.cancel()
    return process.returncode == 0


def _debootstrap(stage: Stage, folder: Path, log: Path, environ: Mapping[str, str]) -> None:
    if os.geteuid() != 0:
        raise BuildError(
            "No image registry answered, and Debian's root file system can only be made with debootstrap by root: "
            "run `sudo make up` once, or give the engine a registry that has debian:bookworm-slim."
        )
    if not shutil.which("debootstrap") and _run(["apt-get", "install", "-y", "debootstrap"], log, environ):
        raise BuildError(_failure("debootstrap is not installed and apt-get could not install it.", log))
    root = folder / "root"
    shutil.rmtree(root, ignore_errors=True)
    mirror = environ.get("HIMALIA_APT_MIRROR")
    command = [
        "debootstrap",
        "--variant=minbase",
        "--include=ca-certificates",
        SUITE,
        str(root),
        *([mirror] if mirror else []),
    ]
    try:
        if _run(command, log, environ):
            raise BuildError(_failure(f"debootstrap could not make Debian {SUITE}. The whole log is {log}.", log))
        _strip(root)
        with subprocess.Popen(["tar", "-C", str(root), "--numeric-owner", "-c", "."], stdout=subprocess.PIPE) as tar:
            imported = subprocess.run(
                ["docker", "import", "-c", "ENV LANG=C.UTF-8", "-", stage.tag],
                stdin=tar.stdout,
                capture_output=True,
                env=_docker_env(environ),
            )
        if imported.returncode or tar.returncode:
            raise BuildError(
                f"docker import refused Debian's root file system: {imported.stderr.decode(errors='replace').strip()}"
            )
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _strip(root: Path) -> None:
    for folder in (
        "var/cache/apt/archives",
        "var/lib/apt/lists",
        "usr/share/doc",
        "usr/share/man",
        "usr/share/locale",
        "usr/share/info",
        "var/log",
    ):
        for entry in (root / folder).iterdir() if (root / folder).is_dir() else ():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def _run(command: Sequence[str], log: Path, environ: Mapping[str, str], stdin: bytes = b"") -> int:
    with open(log, "ab" if command[0] != "docker" else "wb") as out:
        return subprocess.run(
            command, input=stdin, stdout=out, stderr=subprocess.STDOUT, env=_docker_env(environ)
        ).returncode


def _failure(sentence: str, log: Path) -> str:
    lines = log.read_text(errors="replace").replace("\x1b[91m", "").replace("\x1b[0m", "").splitlines()
    return "\n".join((sentence, *lines[-LOG_LINES:]))


def _docker_env(environ: Mapping[str, str]) -> dict[str, str]:
    # BuildKit needs a plug-in that a lone CLI lacks, and its front end may come from a registry.
    return {**environ, "DOCKER_BUILDKIT": "0"}


def _docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"docker {arguments[0]} failed: {done.stderr.strip() or f'it ended with {done.returncode}'}")
    return done.stdout.strip()


def _images() -> dict[str, str]:
    """The ids of our images by tag; BuildError when the engine does not answer."""
    form = "{{.Repository}}:{{.Tag}} {{.ID}}"
    listed = _docker("image", "ls", "--no-trunc", "--filter", "reference=himalia/*", "--format", form)
    return dict(line.split(" ", 1) for line in listed.splitlines())


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write(path: Path, content: object) -> None:
    """Write JSON so that a reader sees all of it or what was there before."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(content, indent=1))
    unfinished.replace(path)


# --- the platform's registry -------------------------------------------------------------------------------------------


def _entry(stage: Stage, image_id: str) -> dict[str, str]:
    return {
        "tag": stage.tag, "image_id": image_id, "repository": stage.repository, "digest": "", "config_digest": "",
    }  # fmt: skip


def push(tag: str, host: str, user: str, password: str) -> tuple[str, str]:
    """Push an image into the platform's registry unless it is there; the digests of its manifest and its config."""
    repository, _, version = tag.partition(":")
    found = _manifest(host, repository, version, user, password)
    if found is None:
        _push(tag, f"{host}/{tag}", host, user, password)
        found = _manifest(host, repository, version, user, password)
    if found is None:
        raise BuildError(f"{tag} was pushed to {host} and is not there.")
    return found


def _push(tag: str, name: str, host: str, user: str, password: str) -> None:
    with tempfile.TemporaryDirectory(prefix="himalia-push-") as config:  # 0700: the password is in no argv
        auth = base64.b64encode(f"{user}:{password}".encode()).decode()
        (Path(config) / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
        _docker("tag", tag, name)
        try:
            done = subprocess.run(["docker", "--config", config, "push", name], capture_output=True, text=True)
            if done.returncode:
                raise BuildError(
                    f"{tag} could not be pushed to {host}: {done.stderr.strip() or done.stdout.strip()[-500:]}"
                )
        finally:
            _docker("rmi", name)


def _manifest(host: str, repository: str, reference: str, user: str, password: str) -> tuple[str, str] | None:
    """(manifest digest, config digest) of what the registry has there; None when it has nothing."""
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    request = urllib.request.Request(
        f"http://{host}/v2/{repository}/manifests/{reference}",
        headers={"Authorization": f"Basic {auth}", "Accept": MANIFESTS},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as response:
            content = response.read()
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 404:
            return None
        raise BuildError(f"The registry at {host} refused to say whether it has {repository}: {error.code}.") from error
    except OSError as error:
        raise BuildError(f"The registry at {host} does not answer: {error}.") from error
    manifest = json.loads(content)
    if "config" in manifest:
        return f"sha256:{hashlib.sha256(content).hexdigest()}", manifest["config"]["digest"]
    # An engine with containerd's image store pushes an index; ours has one platform, the rest are attestations.
    only = next(entry for entry in manifest["manifests"] if entry.get("platform", {}).get("os") != "unknown")
    return _manifest(host, repository, only["digest"], user, password)


# --- command line ------------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Build, push when a registry is named, and write built.json."""
    options = _options(argv)
    home = Path(options.home).expanduser().resolve()
    (home / "images").mkdir(parents=True, exist_ok=True)
    progress = Progress(home / "images/progress.json")
    began = time.monotonic()

    def push_to(tag: str) -> tuple[str, str]:
        return push(tag, options.registry, options.registry_user, _password(home))

    try:
        names = [options.only] if options.only else ["registry", "base"]
        built = build(home, names, progress, source=options.root, push_to=push_to if options.registry else None)
    except BuildError as error:
        progress.fail(str(error))
        print(error, file=sys.stderr)
        return 1
    _remember(home / "images/built.json", built)
    progress.end()
    for name, entry in built.items():
        print(f"{name}: {entry['tag']}")
    print(f"ready in {time.monotonic() - began:.1f} s")
    return 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", default=os.environ.get("HIMALIA_HOME", "~/.himalia"), help="HIMALIA_HOME")
    parser.add_argument("--only", choices=("base", "registry"), help="build one image")
    parser.add_argument(
        "--root", choices=("auto", "registry", "debootstrap"), default="auto", help="where Debian comes from"
    )
    parser.add_argument("--registry", help="push the base image into the platform's registry at HOST:PORT")
    parser.add_argument(
        "--registry-user",
        default="himalia",
        help="its password is HIMALIA_HOME/secrets/registry-password, else on stdin",
    )
    return parser.parse_args(argv)


def _password(home: Path) -> str:
    kept = home / "secrets/registry-password"
    return (kept.read_text() if kept.exists() else sys.stdin.readline()).strip()


def _remember(path: Path, built: Mapping[str, Mapping[str, str]]) -> None:
    known = json.loads(path.read_text()) if path.exists() else {}
    for name, entry in built.items():
        former = known.get(name, {})
        # Built again without a registry: what is known about the same image stays known.
        known[name] = former if former.get("tag") == entry["tag"] and not entry["digest"] else dict(entry)
    write(path, known)


if __name__ == "__main__":
    sys.exit(main())
