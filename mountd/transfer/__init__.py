"""Datasets from one place to another: what to copy is decided in `plan`, without I/O."""
