"""Runs inside the image, under its own Python: boots the server as the boot check does and asks its proxied programs."""

import json
import subprocess
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path

from himalia.runner import boot, process, workspace

TOKEN = "probe"
PAGES = {
    "vscode/?folder=/home/jovyan": b"vscode-workbench",
    "tensorboard/": b"<html",
    "tensorboard/data/environment": b"data_location",
}


def ask(port: int, path: str) -> tuple[int, bytes]:
    deadline = time.monotonic() + 90
    while True:
        status, body = boot.get(port, f"{boot.PREFIX}{path}", TOKEN)
        if status or time.monotonic() > deadline:
            return status, body
        time.sleep(0.2)


def activity(port: int) -> str:
    return json.loads(ask(port, "api/status?no_track_activity=1")[1])["last_activity"]


def main() -> None:
    workspace.prepare()
    hub = boot.Hub(TOKEN)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    port = boot.free_port()
    env = workspace.server(boot.hub_environment(TOKEN, hub.server_port, port))
    with tempfile.TemporaryFile() as log:
        server = process.start(
            workspace.command(["jupyterhub-singleuser"]), env=env, cwd=Path("/home/jovyan"), output=log.fileno()
        )
        assert isinstance(server, int), server
        boot.until_answers(server, port, TOKEN, time.monotonic() + 90)
        answers = {page: ask(port, page) for page in PAGES}
        launcher = json.loads(ask(port, "server-proxy/servers-info")[1])["server_processes"]
        kernels = json.loads(ask(port, "api/kernelspecs")[1])["kernelspecs"]
        extensions = json.loads(ask(port, "lab/api/extensions")[1])
        before = activity(port)
        for _ in range(3):
            ask(port, "tensorboard/data/environment")
            ask(port, "vscode/healthz")
        after = activity(port)
        listeners = subprocess.run(["ss", "-tlnH"], capture_output=True, text=True, check=True).stdout.splitlines()
        process.stop(server)
    report = {
        "answers": {page: [answers[page][0], mark in answers[page][1]] for page, mark in PAGES.items()},
        "launcher": sorted(entry["launcher_entry"]["title"] for entry in launcher),
        "kernels": sorted(kernels),
        "extensions": sorted(entry["name"] for entry in extensions if entry["enabled"] and entry["installed"]),
        "tcp_listeners": len(listeners),
        "activity_before_polling": datetime.fromisoformat(before).isoformat(),
        "activity_after_polling": datetime.fromisoformat(after).isoformat(),
    }
    print(json.dumps(report))


main()
