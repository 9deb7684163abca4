"""How long something takes, on a machine that does other things too."""

import time
from collections.abc import Callable


def fastest_s(call: Callable[[], object], below_s: float, tries: int = 8) -> float:
    """The shortest time that `call` took, in seconds. It is called again only as long as it took
    `below_s` or longer: a busy machine makes anything slow once, but not each of several tries.
    What `call` raises passes through."""
    shortest_s = float("inf")
    for _ in range(tries):
        begun_s = time.monotonic()
        call()
        shortest_s = min(shortest_s, time.monotonic() - begun_s)
        if shortest_s < below_s:
            break
    return shortest_s
