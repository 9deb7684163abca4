"""The one error that the command ends with, of all that ended the daemon's nurseries."""

import logging

from mountd.errors import StartError

log = logging.getLogger(__name__)


def plain_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one of a nursery's errors that the command ends with: an interrupt, else the reason not
    to start, else the first. What else there was is logged."""
    leaves: list[BaseException] = []
    groups: list[BaseExceptionGroup[BaseException]] = [group]
    while groups:
        for error in groups.pop(0).exceptions:
            if isinstance(error, BaseExceptionGroup):
                groups.append(error)
            else:
                leaves.append(error)
    leaves.sort(key=_rank)
    for error in leaves[1:]:
        log.error("and: %s: %s", type(error).__name__, error, exc_info=error)
    return leaves[0]


def _rank(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return 0
    return 1 if isinstance(error, StartError) else 2
