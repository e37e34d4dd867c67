"""Himalia for Python: workspaces, environments and jobs, from a notebook or anywhere else."""

__version__ = "0.1.0"
