"""How JupyterHub spawns the workspaces of Himalia."""
