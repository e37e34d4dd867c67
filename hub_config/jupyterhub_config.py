"""The hub of this installation. Everything Himalia needs is set by `configure`; what you add below wins."""

from pathlib import Path

from himalia_spawner.hub import configure

configure(c, folder=Path(__file__).parent)  # noqa: F821  (traitlets brings c)

# Examples:
# c.JupyterHub.active_server_limit = 20
# c.JupyterHub.named_server_limit_per_user = 5
