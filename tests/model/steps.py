"""What the state machines have in common: settings, and steps of the world around the user."""

import os
from collections.abc import Callable
from typing import Any, Protocol

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.model.daemon import Daemon

SETTINGS = settings(
    max_examples=int(os.environ.get("MODEL_EXAMPLES", "25")),
    stateful_step_count=int(os.environ.get("MODEL_STEPS", "30")),
    deadline=None,
    print_blob=True,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
# Seconds after a user's step: mostly none, so that much is under way together.
THEN_S = st.sampled_from([0.0, 0.0, 0.0, 0.1, 1.5, 2.0])

# Hypothesis likes to repeat a rule, and one life after another teaches nothing.
ENDS = st.sampled_from(["", "", "", "crash", "restart", "crash"])

operations = st.sampled_from(
    [
        *("put", "put", "put", "delete", "copy", "identify", "read"),
        *("make_dir", "remove_dir", "move_dir", "move_file", "move_file", "remove_tree"),
    ]
)
kinds = st.sampled_from(["before", "after", "slow down", "hang", "answer held", "cut"])
_EVENTS = (
    *("drain", "fold", "checkpoint", "expire", "expire", "release_holds", "release_holds"),
    *("outage", "noticed outage", "heal", "heal"),
)
events = st.one_of(
    st.tuples(st.sampled_from(_EVENTS)),
    st.tuples(st.just("fault"), operations, kinds),
    st.tuples(st.just("wait"), st.sampled_from([0.1, 1.5, 5.0, 70.0])),
)


class Machine(Protocol):
    """A state machine with a daemon."""

    @property
    def daemon(self) -> Daemon: ...


def user_step(**strategies: Any) -> Callable[[Callable[..., None]], Any]:
    """A rule after which some time may pass."""

    def made(step: Callable[..., None]) -> Any:
        def run(self: Machine, then_s: float, **arguments: Any) -> None:
            step(self, **arguments)
            self.daemon.advance(then_s)

        run.__name__ = step.__name__
        decorate: Callable[[Any], Any] = rule(then_s=THEN_S, **strategies)
        return decorate(run)

    return made


def happen(daemon: Daemon, event: tuple[Any, ...]) -> None:
    """One of `events`."""
    match event:
        case ("fault", operation, kind):
            daemon.fault(operation, kind)
        case ("wait", seconds):
            daemon.advance(seconds)
        case ("outage",) | ("noticed outage",):
            daemon.outage(noticed=event != ("outage",))
        case (name,):
            getattr(daemon, name)()
