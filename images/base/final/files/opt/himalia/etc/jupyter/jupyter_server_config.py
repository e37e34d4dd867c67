"""How the server of a workspace is set up. People's own ~/.jupyter comes after this and may change it."""

import os
import re

c = get_config()  # noqa: F821  # pyright: ignore[reportUndefinedVariable]

HOME = os.path.expanduser("~")
ICONS = "/opt/himalia/share/himalia/icons"

c.ServerApp.root_dir = HOME
c.ServerApp.default_url = "/lab"
c.ServerApp.terminado_settings = {"shell_command": ["/bin/bash", "-l"]}
# What signs trusted notebooks is personal: it stays in home and out of saved environments.
c.NotebookNotary.secret_file = os.path.join(HOME, ".local/share/jupyter/notebook_secret")
c.NotebookNotary.db_file = os.path.join(HOME, ".local/share/jupyter/nbsignatures.db")
os.makedirs(os.path.join(HOME, ".local/share/jupyter"), exist_ok=True)

# The default kernel is the one of /opt/venv, found on JUPYTER_PATH; the server's own interpreter is no kernel.
c.KernelSpecManager.ensure_native_kernel = False
c.MultiKernelManager.default_kernel_name = "python3"

# pip of /opt/himalia is root's: the extension manager could only fail.
c.LabApp.extension_manager = "readonly"
c.LabApp.news_url = None
c.LabApp.check_for_updates_class = "jupyterlab.handlers.announcements.NeverCheckForUpdate"

# Language servers are found when somebody configures one; the search costs time at every start.
c.LanguageServerManager.autodetect = False

PREFIX = re.escape(os.environ.get("JUPYTERHUB_SERVICE_PREFIX", "/").rstrip("/"))

# The launcher draws an icon that has an address only where notebooks and consoles are: hence their category.
c.ServerProxy.servers = {
    "vscode": {
        "command": [
            "/opt/himalia/bin/code-server",
            *("--auth", "none", "--socket", "{unix_socket}", "--socket-mode", "0600"),
            *("--disable-telemetry", "--disable-update-check", "--disable-workspace-trust"),
            "--disable-getting-started-override",
            HOME,
        ],
        "unix_socket": True,
        "timeout": 90,
        "new_browser_tab": True,
        # Opening the editor is activity, an open tab is none: its websockets are never quiet, whether anybody types or not.
        "exclude_last_activity_patterns": [
            rf"{PREFIX}/vscode/(healthz|.*stable-.*|_static/|static/|manifest|update/|vscode-remote-resource)"
        ],
        "launcher_entry": {"title": "VS Code", "icon_path": f"{ICONS}/vscode.svg", "category": "Notebook"},
    },
    "tensorboard": {
        "command": [
            "/opt/himalia/bin/tensorboard-socket",
            "{unix_socket}",
            *("--logdir", HOME, "--path_prefix", "{base_url}tensorboard", "--reload_interval", "15"),
        ],
        "unix_socket": True,
        "absolute_url": True,
        "timeout": 60,
        "new_browser_tab": True,
        # An open page asks for new data every half minute.
        "exclude_last_activity_patterns": [rf"{PREFIX}/tensorboard/(data/|experiment/)"],
        "launcher_entry": {"title": "TensorBoard", "icon_path": f"{ICONS}/tensorboard.svg", "category": "Notebook"},
    },
}
