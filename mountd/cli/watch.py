"""`mountd status --watch`: the status, live, until Ctrl-C; lines where there is no terminal.

A daemon that goes, comes again or doesn't answer is part of what is watched.
"""

import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mountd.cli.output import printable
from mountd.cli.queue_words import waiting_in
from mountd.cli.status_table import Fact, name_of, rendered, verdicts
from mountd.errors import StartError
from mountd.in_words import human_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

KEPT = 60  # samples of a sparkline
_BARS = "▁▂▃▄▅▆▇█"
_GAP = " "

Status = dict[str, Any]
Look = Callable[[], Sequence[Status]]


class History:
    """The last samples of each mount."""

    def __init__(self) -> None:
        self._samples: dict[str, dict[str, deque[float | None]]] = {}

    def add(self, found: Sequence[Status]) -> None:
        """One more of each; a mount that is not there (any more) has a gap."""
        by_name = {name_of(status): status for status in found}
        for name in (*self._samples, *(n for n in by_name if n not in self._samples)):
            rows = self._samples.setdefault(name, {})
            for what, value in _values(by_name.get(name, {})).items():
                rows.setdefault(what, deque(maxlen=KEPT)).append(value)

    def facts(self, name: str) -> list[Fact]:
        """Rows of a table."""
        found = []
        for what, values in self._samples.get(name, {}).items():
            known = [value for value in values if value is not None]
            most = max(known, default=0.0)
            unit = f"{most:.0f}" if what == "queue" else f"{human_bytes(most)}/s"
            found.append((f"{what}, last {KEPT}", f"{sparkline(values)}  most {unit}", "cyan"))
        return found


def sparkline(values: Sequence[float | None] | deque[float | None]) -> str:
    """One character a value, from nothing to the greatest of them; None is a gap."""
    most = max((value for value in values if value is not None), default=0.0)
    return "".join(_GAP if value is None else _bar(value, most) for value in values)


def _bar(value: float, most: float) -> str:
    if value <= 0 or most <= 0:
        return _BARS[0]
    return _BARS[min(len(_BARS) - 1, 1 + int(value / most * (len(_BARS) - 2)))]


def _values(status: Status) -> dict[str, float | None]:
    transfer, queue = status.get("transfer") or {}, status.get("queue")
    waiting = None
    if isinstance(queue, dict):
        waiting = float(waiting_in(queue) + (queue.get("failed") or 0))
    return {
        "up": transfer.get("up_bytes_per_s"),
        "down": transfer.get("down_bytes_per_s"),
        "queue": waiting,
    }


def watch(look: Look, interval_s: float) -> None:
    """Until Ctrl-C or SIGTERM. `look` may raise StartError: that is shown, and looked again."""
    with _sigterm_is_an_interrupt():
        try:
            if sys.stdout.isatty():
                from rich.console import Console

                console = Console()
                if not console.is_dumb_terminal:
                    _live(look, interval_s, console)
                    return
            _lines(look, interval_s)
        except KeyboardInterrupt:
            return


def _looked(look: Look) -> tuple[Sequence[Status], str]:
    try:
        return look(), ""
    except StartError as error:
        return [], str(error)


def _live(look: Look, interval_s: float, console: "Console") -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    history, last = History(), Group()
    try:
        # A screen of its own, so that what was there before is there again afterwards.
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                began_s = time.monotonic()
                found, trouble = _looked(look)
                history.add(found)
                more = {name_of(status): history.facts(name_of(status)) for status in found}
                body = Text(printable(trouble), style="bold red") if trouble else None
                last = Group(body or rendered(found, more), Text(), _footer(interval_s))
                live.update(last, refresh=True)
                time.sleep(max(0.0, interval_s - (time.monotonic() - began_s)))
    finally:
        console.print(last)


def _footer(interval_s: float) -> Any:
    from rich.text import Text

    now = datetime.now().strftime("%H:%M:%S")
    return Text(f"{now}, every {interval_s:g} s; Ctrl-C ends this", style="dim")


def _lines(look: Look, interval_s: float) -> None:
    while True:
        began_s = time.monotonic()
        found, trouble = _looked(look)
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        for line, _ in [(trouble, "")] if trouble else verdicts(found):
            print(printable(f"{now} {line}"))
        for status in found:
            print(printable(f"{now} {_rates(status)}"))
        sys.stdout.flush()
        time.sleep(max(0.0, interval_s - (time.monotonic() - began_s)))


def _rates(status: Status) -> str:
    values = _values(status)
    up, down, waiting = values["up"], values["down"], values["queue"]
    queue = "-" if waiting is None else f"{waiting:.0f}"
    rates = f"up {human_bytes(up)}/s, down {human_bytes(down)}/s, queue {queue}"
    remote = (status.get("remote") or {}).get("state") or "unknown"
    return f"{name_of(status)}: {status.get('state')}, remote {remote}, {rates}"


@contextmanager
def _sigterm_is_an_interrupt() -> "Iterator[None]":
    """Else the terminal would be left on the other screen."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
