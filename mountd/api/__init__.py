"""mountd for Python programs (docs/python.md). All of it runs the command `mountd` as a child.

So a notebook's kernel or a training keeps its signal handlers, its event loop and its memory, and
its loader's workers are forked from a process without a runtime of ours in it.
"""

from importlib import import_module

_PLACES = {
    "mounting": ("Mount", "mount"),
    "copying": ("CopyFailed", "CopyProgress", "CopySummary", "copy"),
    "keeping": ("WarmProgress", "WarmSummary", "flush", "pin", "unpin", "warm"),
    "options": ("Options",),
}


def find(name: str) -> object:
    """What `mountd.NAME` stands for."""
    for module, names in _PLACES.items():
        if name in names:
            return getattr(import_module(f"mountd.api.{module}"), name)
    errors = import_module("mountd.errors")
    return getattr(errors, "StartError" if name == "MountdError" else name)
