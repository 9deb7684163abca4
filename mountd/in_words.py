"""Sizes, counts and times as people read them."""

_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")


def human_bytes(size: int | float | None) -> str:
    """`1.5 GiB`; `-` for None."""
    if size is None:
        return "-"
    if size < 1024:
        return f"{size:.0f} B"
    power = min((int(size).bit_length() - 1) // 10, len(_UNITS))
    return f"{size / 1024**power:.1f} {_UNITS[power - 1]}"


def counted(number: int, noun: str) -> str:
    """`1 file`, `2 files`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def human_seconds(seconds: float) -> str:
    """`40 s`, `12 min`, `5 h`, `3 days`; rounded down."""
    for unit, length_s in (("day", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length_s:
            number = int(seconds // length_s)
            return counted(number, unit) if unit == "day" else f"{number} {unit}"
    return f"{max(seconds, 0):.0f} s"
