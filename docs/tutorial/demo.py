"""The main job of Himalia, as a story told by the SDK: `make demo`.

Ada and Ben are in the group `vision`. Ada installs scikit-learn in her workspace, writes a training script into the group's
folder, saves the environment and shares it. Ben, who has nothing installed, runs her script in her environment as a job. Every
step is checked; the exit code is 0 only when all of it is true. Doing it again is fine.

It needs a platform on this machine (`make up`) because it makes the two people and, at the end, looks into the registry for
tokens. Names and passwords of people who are here already: DEMO_ADA, DEMO_ADA_PASSWORD, DEMO_BEN, DEMO_BEN_PASSWORD.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from himalia import Himalia, HimaliaError
from himalia.errors import CommandFailed
from himalia.job import Job
from himalia.login import hub_url, service_url, sign_in
from himalia.schema import Version
from himalia.workspace import Workspace

GROUP = "vision"
FOLDER = "~/shared/vision/digits"
COMMAND = Path(sys.executable).with_name("himalia")
PAGE = 100  # repositories at a time; a registry refuses too many
PATIENCE = 3600  # a first start waits for the image behind it

TRAIN = '''\
"""Handwritten digits: choose a classifier by cross-validation, score it on digits it has not seen, keep it."""

import json
from pathlib import Path

import joblib
from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

print("marker: as submitted")
images, digits = load_digits(return_X_y=True)  # 1797 scans of 8 x 8 pixels, from the UCI repository
train_x, test_x, train_y, test_y = train_test_split(images, digits, test_size=0.25, random_state=0, stratify=digits)

best, best_score = None, 0.0
for c in (0.1, 1, 10, 100):
    for gamma in (0.001, 0.005, 0.01, 0.05):
        model = make_pipeline(StandardScaler(), SVC(C=c, gamma=gamma))
        score = cross_val_score(model, train_x, train_y, cv=5).mean()
        print(f"C={c:<5} gamma={gamma:<6} {score:.4f}", flush=True)
        if score > best_score:
            best, best_score = model, score

best.fit(train_x, train_y)
score = best.score(test_x, test_y)
here = Path(__file__).parent
joblib.dump(best, here / "model.joblib")
(here / "score.json").write_text(json.dumps({"score": score, "trained_on": len(train_x), "tested_on": len(test_x)}))
print(f"score {score:.4f}")
'''


class Off(Exception):
    """Something is not as the story says."""


def tell(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def note(text: str) -> None:
    print(f"  {text}", flush=True)


def check(true: bool, what: str) -> None:
    if not true:
        raise Off(what)
    note(f"✓ {what}")


# --- People: what an operator does, by the commands of this machine ---


def himalia(*words: str) -> Any:
    """A command of this machine, as JSON where it has some."""
    done = subprocess.run([str(COMMAND), *words], capture_output=True, text=True)
    if done.returncode:
        raise Off(f"himalia {' '.join(words[:2])} failed: {done.stderr.strip()}")
    return json.loads(done.stdout) if "--json" in words else None


class People:
    """The two of them; a password made here is remembered beside the platform's other secrets, for the next demo."""

    def __init__(self, home: Path) -> None:
        self._remembered = home / "secrets" / "demo.json"
        self._known = {person["name"] for person in himalia("users", "list", "--json")}

    def password(self, role: str) -> tuple[str, str]:
        name = os.environ.get(f"DEMO_{role.upper()}", role)
        given = os.environ.get(f"DEMO_{role.upper()}_PASSWORD")
        if given:
            return name, given
        kept = self._read()
        if name not in self._known:
            kept[name] = himalia("users", "add", name, "--json")["password"]
            self._write(kept)
            note(f"{name} is new here")
        if name not in kept:
            raise Off(
                f"{name} is here already, and the demo does not know the password. Give it as DEMO_{role.upper()}_PASSWORD, or another name as DEMO_{role.upper()}."
            )
        return name, kept[name]

    def _read(self) -> dict[str, str]:
        try:
            return json.loads(self._remembered.read_text())
        except FileNotFoundError:
            return {}

    def _write(self, passwords: Mapping[str, str]) -> None:
        with os.fdopen(os.open(self._remembered, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(dict(passwords), file)


def join(names: Iterable[str]) -> None:
    groups = {group["name"]: set(group["people"]) for group in himalia("groups", "list", "--json")}
    if GROUP not in groups:
        himalia("groups", "add", GROUP)
    if missing := sorted(set(names) - groups.get(GROUP, set())):
        himalia("groups", "join", GROUP, *missing)


# --- Small steps ---


def started(person: Himalia, who: str) -> Workspace:
    """A running workspace that has the group's folder."""
    workspace = person.workspaces.start(
        timeout=PATIENCE, progress=lambda w: note(f"{who}: {w.status} {w.reason_message}".rstrip())
    )
    if workspace.run(f"test -w ~/shared/{GROUP}", check=False).exit_code:
        note(f"{who} joined the group after this workspace was started: once more")
        workspace.stop()
        workspace = person.workspaces.start(timeout=PATIENCE)
    workspace.run(f"test -w ~/shared/{GROUP}")
    return workspace


def installed(text: str) -> None:
    for line in text.splitlines():
        if line.startswith(("Successfully", "Requirement already")):
            note(line[:110])


def saved(workspace: Workspace) -> Version:
    began = time.monotonic()
    seen: list[str] = []

    def phase(version: Version) -> None:
        if version.phase not in seen:
            seen.append(version.phase)
            note(f"{version.phase}  {version.progress_message}".rstrip())

    version = workspace.save(GROUP, note="scikit-learn, for the digits", timeout=PATIENCE, progress=phase)
    note(
        f"{version.ref} in {time.monotonic() - began:.0f} s: {version.size_bytes or 0:,} bytes in one layer, {version.digest}"
    )
    for warning in version.warnings:
        note(f"warning: {warning}")
    return version


def submitted_twice(workspace: Workspace, environment: str) -> tuple[str, str]:
    """Submit the script two times and edit it at once after; the ids. One slot: the second one has to wait in the queue."""
    line = f"""
        set -e
        himalia job submit {FOLDER}/train.py -e {environment} --name "Ada's digits" --json
        himalia job submit {FOLDER}/train.py -e {environment} --name "Ada's digits, queued" --json
        sed -i 's/as submitted/EDITED AFTERWARDS/' {FOLDER}/train.py
        grep -q EDITED {FOLDER}/train.py
    """
    output = workspace.run(line).output
    first, second = re.findall(r'^ ?"id": "(job-[0-9a-f]+)"', output, re.MULTILINE)
    return first, second


def followed(job: Job) -> str:
    pieces: list[str] = []
    for text in job.logs():
        pieces.append(text)
        sys.stdout.write("".join(f"    {line}" for line in text.splitlines(keepends=True)))
        sys.stdout.flush()
    job.wait(timeout=600)
    return "".join(pieces)


# --- Looking for tokens, where they must not be ---


class Registry:
    """Read-only eyes for the platform's registry, by its own protocol."""

    def __init__(self, port: int, password: str) -> None:
        self._url = f"http://127.0.0.1:{port}/v2/"
        self._headers = {"Authorization": "Basic " + base64.b64encode(f"himalia:{password}".encode()).decode()}
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def find(self, digest: str) -> str:
        """The repository that has a manifest of that digest."""
        for repository in self._repositories():
            if not repository.startswith("env/"):
                continue
            try:
                self.read(f"{repository}/manifests/{digest}")
            except urllib.error.HTTPError:
                continue
            return repository
        raise Off(f"the registry has no image {digest}")

    def _repositories(self) -> Iterator[str]:
        last = ""
        while page := json.loads(self.read(f"_catalog?n={PAGE}&last={last}"))["repositories"]:
            yield from page
            last = page[-1]

    def read(self, path: str) -> bytes:
        with self._ask(path) as answer:
            return answer.read()

    def unzipped(self, path: str) -> Iterator[bytes]:
        """A layer's tar, piece by piece."""
        unzip = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        with self._ask(path) as answer:
            while chunk := answer.read(1 << 20):
                while chunk:
                    yield unzip.decompress(chunk)
                    chunk = unzip.unused_data
                    if chunk:  # a gzip file may have several members
                        unzip = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        yield unzip.flush()

    def _ask(self, path: str) -> Any:
        accept = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"
        return self._open(
            urllib.request.Request(self._url + path, headers={**self._headers, "Accept": accept}), timeout=60
        )


def secrets_of(home: Path, *tokens: str) -> dict[str, bytes]:
    """Every token and secret there is, by a name that can be printed."""
    found = {f"a token of a person ({i})": token.encode() for i, token in enumerate(tokens) if token}
    for file in (home / "secrets").iterdir():
        text = file.read_text().strip()
        values = json.loads(text).values() if file.suffix == ".json" else [text]
        found |= {f"{file.name} ({i})": value.encode() for i, value in enumerate(values) if len(value) >= 16}
    return found


def without_secrets(registry: Registry, digest: str, secrets: Mapping[str, bytes]) -> int:
    """Look through manifest, config with its history, and all layers; how many bytes were looked through."""
    repository = registry.find(digest)
    manifest = registry.read(f"{repository}/manifests/{digest}")
    parsed = json.loads(manifest)
    config = registry.read(f"{repository}/blobs/{parsed['config']['digest']}")
    looked = len(manifest) + len(config)
    _none_in("the manifest", [manifest], secrets)
    _none_in("the config and its history", [config], secrets)
    env = json.loads(config)["config"].get("Env") or []
    if extra := [entry.split("=")[0] for entry in env if entry.split("=")[0] not in ("PATH", "LANG")]:
        raise Off(f"the image's config sets {', '.join(extra)}")
    for number, layer in enumerate(parsed["layers"], 1):
        looked += _none_in(f"layer {number}", registry.unzipped(f"{repository}/blobs/{layer['digest']}"), secrets)
    return looked


def _none_in(where: str, pieces: Iterable[bytes], secrets: Mapping[str, bytes]) -> int:
    longest = max(map(len, secrets.values()))
    tail, looked = b"", 0
    for piece in pieces:
        looked += len(piece)
        window = tail + piece
        for name, value in secrets.items():
            if value in window:
                raise Off(f"{where} of the image holds {name}")
        tail = window[-longest:]
    return looked


# --- The story ---


def story(home: Path, port: int) -> None:
    address = service_url(
        os.environ.get("HIMALIA_PUBLIC_URL")
        or f"http://{os.environ.get('HIMALIA_DOMAIN') or 'himalia.localhost'}:{port}"
    )
    tell(f"Ada and Ben are in the group {GROUP} at {hub_url(address)}.")
    people = People(home)
    (ada_name, ada_password), (ben_name, ben_password) = people.password("ada"), people.password("ben")
    join([ada_name, ben_name])
    with (
        Himalia(sign_in(address, ada_name, ada_password)) as ada,
        Himalia(sign_in(address, ben_name, ben_password)) as ben,
    ):
        check(GROUP in ada.me().groups and GROUP in ben.me().groups, "both may use what the group shares")
        version, ada_space = ada_prepares(ada, ada_name)
        score = ben_trains(ben, ben_name, ada_space, version)
        tell("Nobody's token is in the image that everybody in the group may now use.")
        tokens = [person.login.token for person in (ada, ben)]
        tokens += [
            space.run(["printenv", "JUPYTERHUB_API_TOKEN"], check=False).output.strip()
            for space in (ada_space, ben.workspaces.get())
        ]
        registry = Registry(port + 50, (home / "secrets" / "registry-password").read_text().strip())
        secrets = secrets_of(home, *tokens)
        looked = without_secrets(registry, version.digest or "", secrets)
        check(
            looked > 100_000_000,
            f"none of {len(secrets)} tokens and secrets in {looked / 1e6:,.0f} MB of manifest, config, history and layers",
        )
    tell(f"Ben has a model that reads {score:.1%} of the digits it never saw, and installed nothing.")


def ada_prepares(ada: Himalia, name: str) -> tuple[Version, Workspace]:
    tell("Ada starts a workspace.")
    space = started(ada, name)
    note(f"{space.info.environment} on {space.info.machine}: {space.urls.lab if space.urls else ''}")

    tell("She installs scikit-learn there.")
    space.run(["pip", "install", "--no-input", "scikit-learn"], output=installed)
    check(
        space.run(["python", "-c", "import sklearn; print(sklearn.__version__)"]).exit_code == 0, "it can be imported"
    )

    tell("She writes a training script into the group's folder.")
    space.run(f"rm -f {FOLDER}/*.joblib {FOLDER}/score.json")
    space.write(f"{FOLDER}/train.py", TRAIN)
    note(f"{FOLDER}/train.py, {len(TRAIN.splitlines())} lines")

    tell("She saves the environment.")
    version = saved(space)
    packages = {p.name.lower().replace("_", "-") for p in ada.environments.get(GROUP).packages(version.number).pip}
    check("scikit-learn" in packages, "the version's list of packages has scikit-learn")

    tell("She shares it with the group.")
    ada.environments.get(GROUP).share(group=GROUP)
    return version, space


def ben_trains(ben: Himalia, name: str, ada_space: Workspace, version: Version) -> float:
    tell("Ben starts a workspace of his own.")
    environment = ben.environments.get(version.ref)
    check(
        bool(environment.info.runs_as_you) and not environment.info.mine, f"he is told: {environment.info.runs_as_you}"
    )
    space = started(ben, name)
    check(space.run(["python", "-c", "import sklearn"], check=False).exit_code != 0, "he has no scikit-learn")

    tell(f"He submits {FOLDER}/train.py in {version.ref}, twice, and the file is edited before the second one begins.")
    first, second = map(ben.jobs.get, submitted_twice(space, version.ref))
    check(second.status == "Queuing", f"{second.id} waits in the queue while the file says EDITED AFTERWARDS")
    check(first.info.digest == version.digest, f"{first.id} runs in the very image that was saved")

    tell("The log streams.")
    log = followed(first)
    check(first.status == "Succeeded" and first.exit_code == 0, f"{first.id} Succeeded")
    check("marker: as submitted" in log, "it ran what was submitted")

    tell("Score and model come back.")
    score = outputs_of(first)
    put_back = space.run(["himalia", "job", "outputs", first.id, "--json"])
    check(
        set(json.loads(put_back.output)["written"]) == {"model.joblib", "score.json"}, "they lie beside the script now"
    )
    loads = f"cd {FOLDER} && python -c \"import joblib; print(joblib.load('model.joblib'))\""
    check(ada_space.run(loads).exit_code == 0, "Ada can load the model")

    tell("Editing the file changed nothing in the queued job.")
    queued = second.wait(timeout=600)
    check(queued.status == "Succeeded", f"{queued.id} Succeeded")
    check(
        "marker: as submitted" in queued.log() and "EDITED" not in queued.log(),
        "it ran the script as it was at the submit",
    )
    check(
        "EDITED" in space.run(["bash", "-c", f"head -20 {FOLDER}/train.py"]).output,
        "the file itself is still the edited one",
    )
    return score


def outputs_of(job: Job) -> float:
    made = {output.path: output for output in job.outputs.list()}
    check(set(made) == {"model.joblib", "score.json"}, "the job's outputs are the model and the score")
    with tempfile.TemporaryDirectory() as folder:
        job.outputs.download(folder)
        result = json.loads((Path(folder) / "score.json").read_text())
        check(
            (Path(folder) / "model.joblib").stat().st_size == made["model.joblib"].size_bytes, "the model arrives whole"
        )
    check(
        result["score"] > 0.95,
        f"score {result['score']:.4f} on {result['tested_on']} digits, trained on {result['trained_on']}",
    )
    check(f"score {result['score']:.4f}" in job.log(), "the log, complete after the container is gone, says the same")
    return result["score"]


def main() -> int:
    home = Path(os.environ.get("HIMALIA_HOME") or "~/.himalia").expanduser()
    try:
        if not (home / "secrets").is_dir():
            raise Off("there is no platform on this machine; start it with make up")
        story(home, int(os.environ.get("HIMALIA_PORT") or 8000))
    except CommandFailed as error:
        print(error.finished.output[-4000:], file=sys.stderr)
        return _failed(error)
    except (Off, HimaliaError) as error:
        return _failed(error)
    return 0


def _failed(error: Exception) -> int:
    print(f"\n✗ {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
