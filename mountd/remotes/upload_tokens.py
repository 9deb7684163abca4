"""Uploads that are gone on with by a later try: what the stores that do so share.

`base.Upload` says what `resume` and `progress` promise.
"""

from mountd.errors import Denied, Locked, RemoteError, Throttled, Unreachable
from mountd.remotes.base import MAX_TOKEN, Upload


def may_go_on(error: BaseException) -> bool:
    """Whether the same upload may succeed later, so that what was sent of it is to stay."""
    if not isinstance(error, RemoteError):
        return True  # the local disk, or the end of the process
    return isinstance(error, (Unreachable, Throttled, Locked, Denied))


def is_token(text: str) -> bool:
    """Whether it has the form that `Upload` asks of tokens."""
    return 0 < len(text) <= MAX_TOKEN and text.isascii() and text.isprintable()


def tell(upload: Upload, token: str) -> bool:
    """Tells who wants to go on with it ("": nothing is left); whether anybody does."""
    if upload.progress is None or (token and not is_token(token)):
        return False
    upload.progress(token)
    return True
