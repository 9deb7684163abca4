"""mountd: remote buckets and WebDAV accounts as an ordinary folder.

For programs: `mount`, `copy`, `warm`, `pin`, `unpin`, `flush` (docs/python.md). They are imported
when they are first used, because every command and the daemon import this package, too.
"""

__version__ = "0.1.0"

# Not from typing, whose import takes longer than all of this; type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from mountd.api.copying import CopyFailed, CopyProgress, CopySummary, copy
    from mountd.api.keeping import WarmProgress, WarmSummary, flush, pin, unpin, warm
    from mountd.api.mounting import Mount, mount
    from mountd.api.options import Options
    from mountd.errors import (
        CredentialsError,
        MountPointError,
        NotAllSent,
        UnreachableError,
        UsageError,
    )
    from mountd.errors import StartError as MountdError

__all__ = (
    "CopyFailed",
    "CopyProgress",
    "CopySummary",
    "CredentialsError",
    "Mount",
    "MountPointError",
    "MountdError",
    "NotAllSent",
    "Options",
    "UnreachableError",
    "UsageError",
    "WarmProgress",
    "WarmSummary",
    "copy",
    "flush",
    "mount",
    "pin",
    "unpin",
    "warm",
)

# Invisible to type checkers, for which it would make every name a valid one.
if not TYPE_CHECKING:

    def __getattr__(name):
        if name not in __all__:
            raise AttributeError(f"module 'mountd' has no attribute {name!r}")
        from mountd import api

        found = api.find(name)
        globals()[name] = found
        return found

    def __dir__():
        return [*globals(), *__all__]
