"""How a long wait is shown on stderr: one living line on a terminal, else a line now and then."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from mountd.cli.output import printable

_LINE_EVERY_S = 10.0


class Progress(Protocol):
    """Where a wait shows how far it is."""

    def show(self, text: str) -> None:
        """`text` is how things are now; the next one takes its place."""
        ...

    def say(self, text: str) -> None:
        """`text` on a line of its own, which stays. May be called by a signal handler."""
        ...


class PlainProgress:
    """A line every ten seconds, the first when ten have passed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said_at = clock()

    def show(self, text: str) -> None:
        if self._clock() - self._said_at >= _LINE_EVERY_S:
            self._said_at = self._clock()
            self.say(text)

    def say(self, text: str) -> None:
        sys.stderr.flush()
        # Not print: a signal may come in the middle of another one, which Python refuses.
        os.write(sys.stderr.fileno(), f"mountd: {printable(text)}\n".encode())


@contextmanager
def progress() -> Iterator[Progress]:
    """What fits stderr. Nothing is left on a terminal afterwards but what was said."""
    if not sys.stderr.isatty():
        yield PlainProgress()
        return
    # Imported here: rich takes 60 ms.
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    with console.status("waiting for the remote") as status:

        class Living:
            def show(self, text: str) -> None:
                status.update(Text(printable(text)))

            def say(self, text: str) -> None:
                console.print(Text(f"mountd: {printable(text)}"))

        yield Living()
