"""What goes to the terminal: tables through rich there, plain columns into a pipe."""

import sys
from collections.abc import Sequence


def warn(message: str) -> None:
    """One line on stderr."""
    print(f"mountd: warning: {message}", file=sys.stderr)


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """`rows` below `headers` on stdout. Control characters are shown as escapes."""
    rows = [[printable(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
        for row in (headers, *rows):
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            print("  ".join(cells).rstrip())
        return
    # Imported here: rich takes 60 ms.
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in headers:
        table.add_column(header, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    Console().print(table)


def print_line(text: str) -> None:
    """`text` on stdout, without its control characters."""
    print(printable(text))


def printable(text: str) -> str:
    """`text` as a terminal may safely get it."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


_STYLES = {
    "ok": "green",
    "ready": "green",
    "warning": "yellow",
    "degraded": "yellow",
    "unreachable": "red",
    "denied": "red",
    "problem": "bold red",
    "dead": "bold red",
    "not answering": "bold red",
    "no daemon": "yellow",
    "failed": "red",
    "conflict": "yellow",
}
