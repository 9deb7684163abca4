"""Whose doing a request to the remote is, for the log lines that it leaves behind.

A context variable, which threads that make requests get with the context of whoever asked. It is
set where a request begins that may go to the remote, and never for what is answered from memory.
"""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

# Four digits of chance, so that two runs in one log are told apart; then in order.
_RUN = os.urandom(2).hex()
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Origin:
    """`request`: what all lines of one request share. `operation`: what was asked for. `path`: the
    key that it was asked for, "" for none."""

    request: str
    operation: str = ""
    path: str = ""


origin: ContextVar[Origin | None] = ContextVar("origin", default=None)


def new(operation: str = "", path: str = "") -> Origin:
    """One with an id of its own."""
    return Origin(f"{_RUN}-{next(_numbers)}", operation, path)


@contextmanager
def begun(operation: str, path: str) -> Iterator[None]:
    """Inside, requests to the remote belong to one of that operation, unless they do already."""
    if origin.get() is not None:
        yield
        return
    token = origin.set(new(operation, path))
    try:
        yield
    finally:
        origin.reset(token)
