"""Himalia on one machine: what `himalia up` prepares, starts and watches, and the commands that belong to it."""
