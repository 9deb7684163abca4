"""Every error that crosses a door in mountd.

`RemoteError` and its children are what a `RemoteStore` may raise; `fusefs.errno_table` turns them
into errnos in one place. `StartError` and its children end a command with one line and an exit
code (docs/commands.md).
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of the command line (docs/commands.md)."""

    OK = 0
    RUNTIME = 1
    USAGE = 2
    CREDENTIALS = 3
    UNREACHABLE = 4
    MOUNT_POINT = 5
    LEFT_IN_QUEUE = 75


class RemoteError(Exception):
    """Something that a remote answered, or that kept it from answering.

    `request_id`: of the request that ended in it (origin.py), "" where it had none.
    """

    request_id: str = ""


class NotFound(RemoteError):
    """The remote answered, and said that this key does not exist. Never raised for a failure."""


class ContainerMissing(RemoteError):
    """The bucket, container or share itself does not exist. Not `NotFound`: files did not go."""


class VersionChanged(RemoteError):
    """The object is no longer the version that the request was conditional on."""


class Unreachable(RemoteError):
    """No answer, or not a whole one: refused, reset, timed out, cut body, 500, 502, 504.

    `answered`: the remote did send something (a status, a part of a body), so it is not dead.
    Retries go on for longer then. A store that can't tell leaves it out.
    """

    def __init__(self, *args: object, answered: bool = False) -> None:
        super().__init__(*args)
        self.answered = answered


class Closed(Unreachable):
    """The store was closed here, before or during the request: that says nothing of the remote."""


class Throttled(RemoteError):
    """429, or 503 with or without Retry-After: the remote lives and asks us to slow down."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Denied(RemoteError):
    """401 or 403, an expired token, or no credentials at all. Never retried in a loop."""


class SignInRefused(Denied):
    """It is the user, password, key or token that was refused, and not what was asked for: 401, and
    what S3 and Azure say by a code of their own."""


class Locked(RemoteError):
    """423: somebody holds a lock."""


class LockedByUser(Locked):
    """Somebody has locked the file on purpose, and only they unlock it: the message has who."""


class QuotaExceeded(RemoteError):
    """The remote has no room left for this account (507 and its like)."""


class Corrupt(RemoteError):
    """The answer contradicts itself: a wrong Content-Range, a wrong checksum, unreadable XML."""


class Unsupported(RemoteError):
    """This remote cannot do that."""


class NameNotAllowed(RemoteError):
    """The remote refuses this name."""


class NameTooLong(NameNotAllowed):
    """More bytes than a name has here, or than a whole key has on the remote."""


class DirectoryNotEmpty(RemoteError):
    """The directory to be removed has something in it."""


class FileSystemError(Exception):
    """What the file system itself answers, without or after asking the remote."""


class NoEntry(FileSystemError):
    """There is no such name in a directory whose listing is known to be complete."""


class Stale(FileSystemError):
    """The inode or handle is of a version that is no longer there; a new look-up finds the new."""


class NotADirectory(FileSystemError):
    """A directory was asked for."""


class IsADirectory(FileSystemError):
    """A file was asked for."""


class NoAttribute(FileSystemError):
    """There is no such extended attribute."""


class ReadOnly(FileSystemError):
    """This mount does not write."""


class Exists(FileSystemError):
    """The name is taken."""


class NotEmpty(FileSystemError):
    """The directory has something in it."""


class NotPermitted(FileSystemError):
    """That can't be done here, by anybody."""


class NoRight(FileSystemError):
    """The remote has said that it would refuse that."""


class NotPossible(FileSystemError):
    """The request makes no sense, such as a directory moved into itself."""


class CrossDevice(FileSystemError):
    """That can't be renamed; whoever asks has to copy and delete."""


class ChangedElsewhere(FileSystemError):
    """What was changed here is another version on the remote, which stays as it is."""


class NotSent(FileSystemError):
    """The remote refused what close(2) had to bring there; it stays in the queue."""


class Lost(FileSystemError):
    """What was written here, and not sent, is not on this machine's disk any more."""


class NoSpace(FileSystemError):
    """The cache is full of what the remote does not have yet."""


class TooLarge(FileSystemError):
    """There is no room for a value of that size, whatever else is there."""


class StartError(Exception):
    """Ends a command: one line that names the thing and the fix, and an exit code."""

    exit_code: ExitCode = ExitCode.RUNTIME


class UsageError(StartError):
    """A wrong option, value, SOURCE or config file."""

    exit_code = ExitCode.USAGE


class CredentialsError(StartError):
    """The remote refused the credentials, or there are none."""

    exit_code = ExitCode.CREDENTIALS


class UnreachableError(StartError):
    """The remote does not answer and nothing is cached, or its bucket does not exist."""

    exit_code = ExitCode.UNREACHABLE


class NotAllSent(StartError):
    """The time is over, or only what the remote refused is left; it stays on the local disk."""

    exit_code = ExitCode.LEFT_IN_QUEUE


class CannotGoOn(StartError):
    """What a former process has left of this mount can't be served by this one."""


class MountPointError(StartError):
    """The mount point is missing, no directory, not empty, or in use."""

    exit_code = ExitCode.MOUNT_POINT
