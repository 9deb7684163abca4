"""Set-user-ID and set-group-ID bits that go when a file gets other bytes or another owner.

The kernel leaves that to us since FUSE_INIT was answered with HANDLE_KILLPRIV_V2 (takeover.py),
and asks for `security.capability` before the first write(2) to a file only, not before each.
Whose right to keep the bits the kernel has looked at, it tells in flags of WRITE, OPEN and SETATTR
that neither libfuse 3.14 nor pyfuse3 hands on. So root keeps them (CAP_FSETID), nobody else does,
and a WRITE is by whoever opened its handle: these are sent through the writer's own where there are
bits to lose. The mount is nosuid: here they give nobody rights, on another machine they may.
"""

import stat


def without(mode: int | None) -> int | None:
    """Permission bits without those that go; None where none goes. A set-group-ID bit of a file
    that its group can't execute stays, as with the kernel."""
    gone = stat.S_ISUID | (stat.S_ISGID if mode is not None and mode & stat.S_IXGRP else 0)
    return mode & 0o7777 & ~gone if mode is not None and mode & gone else None
