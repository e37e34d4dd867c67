"""Values and pure functions of the domain; no I/O."""
