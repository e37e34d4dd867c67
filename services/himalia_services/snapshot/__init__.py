"""Saving a container: reading its changes, writing one layer, talking to a registry. Not how a container is found: that is an engine's.

`capture` (with `changes`, `layer`, `pieces`, `freeze`) runs in a process of its own, as root, on the standard library alone
(`isal` when it is there); `save`, `image` and `registry` run where the control plane runs.
"""
