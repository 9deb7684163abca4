"""What is said about an exception that nobody expected: one line, and where the traceback is."""

import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence


def report(error: Exception, arguments: Sequence[str]) -> str:
    """The line. The traceback goes to a file of its own, and to stderr at log_level debug."""
    text = "".join(traceback.format_exception(error))
    wants_it = os.environ.get("MOUNTD_LOG_LEVEL") == "debug" or any(
        "log_level=debug" in argument for argument in arguments
    )
    if wants_it:
        sys.stderr.write(text)
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]  # trio's wrapping says nothing
    what = str(error).splitlines()[:1] or [""]
    line = f"unexpected {type(error).__name__}: {what[0]}" if what[0] else type(error).__name__
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            logging.getLogger("mountd").critical("%s", line, exc_info=error)
            return f"{line}; the log is {handler.baseFilename}"
    try:
        fd, path = tempfile.mkstemp(prefix="mountd-error-", suffix=".txt")
        with os.fdopen(fd, "w", errors="backslashreplace") as file:
            file.write(text)
    except OSError:
        return f"{line}; set MOUNTD_LOG_LEVEL=debug to see where"
    return f"{line}; this is a defect of mountd, details are in {path}"
