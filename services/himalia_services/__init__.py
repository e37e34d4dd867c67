"""The control plane of Himalia."""
