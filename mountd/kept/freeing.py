"""A daemon that is dead and can't end, because the kernel keeps a thread of it waiting for the
mount: it still holds the cache. A keeper sees that (mountd/kept/keeper.py); a service manager gives
it up after a while and starts the next one, which does here what the keeper does.
"""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from mountd.cache_folder import CacheHeld
from mountd.errors import CannotGoOn
from mountd.kept import keeper

log = logging.getLogger(__name__)
T = TypeVar("T")


def claimed(
    claim: Callable[[], T],
    connection: int,
    *,
    is_dead: Callable[[int], bool] = keeper.is_dead,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """What `claim` gives, as soon as the dead one that holds it could end: who asked it for
    something on the mount gets an error where that may keep it from ending. Raises CannotGoOn
    where all of them had to get one; CacheHeld where its holder lives. Blocking."""
    began, is_said = clock(), False
    while True:
        try:
            return claim()
        except CacheHeld as error:
            if not is_dead(error.pid):
                raise
            if not is_said:
                is_said = True
                log.warning("pid %d is dead, and the kernel keeps a thread of it", error.pid)
        waited = clock() - began
        if waited > keeper.ABORTS_AFTER_S:
            keeper.abort(connection)
            raise CannotGoOn("the former daemon could not end")
        if count := keeper.answer(connection, more=waited > keeper.FREES_MORE_AFTER_S):
            log.warning("%d calls on the mount get an error, so that this one can go on", count)
        time.sleep(keeper.STEP_S)
