"""The one place where an error becomes an errno (docs/semantics.md has the same table)."""

import errno
import logging

from mountd import errors
from mountd.repeated_warnings import Repeated

log = logging.getLogger(__name__)
_repeated = Repeated(log)  # a full disk fails every write of a program that goes on

# Nearest class in the error's own line of inheritance wins. Unreachable is EIO, never ENOENT.
ERRNO: dict[type[BaseException], int] = {
    errors.NotFound: errno.ENOENT,
    errors.ContainerMissing: errno.EIO,
    errors.VersionChanged: errno.ESTALE,
    errors.Unreachable: errno.EIO,
    errors.Throttled: errno.EBUSY,
    errors.Denied: errno.EACCES,
    errors.Locked: errno.EBUSY,
    errors.LockedByUser: errno.EACCES,
    errors.QuotaExceeded: errno.EDQUOT,
    errors.Corrupt: errno.EIO,
    errors.Unsupported: errno.EOPNOTSUPP,
    errors.NameNotAllowed: errno.EINVAL,
    errors.NameTooLong: errno.ENAMETOOLONG,
    errors.RemoteError: errno.EIO,
    errors.NoEntry: errno.ENOENT,
    errors.Stale: errno.ESTALE,
    errors.NotADirectory: errno.ENOTDIR,
    errors.IsADirectory: errno.EISDIR,
    errors.NoAttribute: errno.ENODATA,
    errors.ReadOnly: errno.EROFS,
    errors.Exists: errno.EEXIST,
    errors.NotEmpty: errno.ENOTEMPTY,
    errors.DirectoryNotEmpty: errno.ENOTEMPTY,
    errors.NotPermitted: errno.EPERM,
    errors.NoRight: errno.EACCES,
    errors.NotPossible: errno.EINVAL,
    errors.CrossDevice: errno.EXDEV,
    errors.NoSpace: errno.ENOSPC,
    errors.TooLarge: errno.E2BIG,
    errors.NotSent: errno.EIO,
    errors.ChangedElsewhere: errno.EBUSY,
    errors.Lost: errno.EIO,
    TimeoutError: errno.ETIMEDOUT,
}

# What happens all the time and tells an operator nothing.
_QUIET = (
    errors.NoEntry,
    errors.NoAttribute,
    errors.Stale,
    errors.ReadOnly,
    errors.NoRight,
    errors.NotFound,
    errors.Exists,
    errors.NotEmpty,
    errors.NotPermitted,
    errors.CrossDevice,
)
# What the local disk may say while something is staged; a program can do something about it.
_DISK = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG))


def errno_of(error: Exception, handler: str = "") -> int:
    """The errno that the kernel gets; what is unknown is EIO and logged with its traceback, and
    with the id of the request to the remote that it came from."""
    about = {"operation": handler, "request": getattr(error, "request_id", "")}
    if isinstance(error, OSError) and error.errno in _DISK:
        name = errno.errorcode[error.errno]
        _repeated.warning(name, f"answered {name}: the cache's disk: {error}", about)
        return error.errno
    if type(error) is OSError:
        _repeated.warning("EIO", f"answered EIO: the cache's disk: {error}", about)
        return errno.EIO
    for kind in type(error).__mro__:
        number = ERRNO.get(kind)
        if number is not None:
            if not isinstance(error, _QUIET):
                log.debug("answered %s: %s", errno.errorcode[number], error, extra=about)
            return number
    log.error("a request failed in an unforeseen way", exc_info=error, extra=about)
    return errno.EIO
