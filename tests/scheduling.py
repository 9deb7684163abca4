"""pytest-xdist as it is meant, for `--dist loadgroup`: a worker that dies fails the test it was at,
and no more. 3.8.0, the newest, waits for ever afterwards: it hands out units of which nothing is
left (its issues 1323 and 1378), and a worker that is given one test waits for a second (1327).
"""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import Scheduling
    from xdist.workermanage import WorkerController


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: "Producer") -> "Scheduling | None":
    if config.getoption("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadGroupScheduling

    class GoingOn(LoadGroupScheduling):  # type: ignore[misc]  # xdist ships no types
        def remove_node(self, node: "WorkerController") -> str | None:
            """The test at which it died, if it was at one; that isn't begun again."""
            units = {scope: unit for scope, unit in self.assigned_work.pop(node).items() if unit}
            at = next((u for u in units.values() if not all(u.values())), None)
            if at is None:
                return None
            died_at: str = next(test for test, is_done in at.items() if not is_done)
            at[died_at] = True
            self.workqueue.update({s: u for s, u in units.items() if not all(u.values())})
            for other in self.nodes:
                self._reschedule(other)
            return died_at

        def schedule(self) -> None:
            """Whoever comes later has two units to begin with, as those of the start have."""
            is_first = self.collection is None
            super().schedule()
            if not is_first:
                for node in self.nodes:
                    self._reschedule(node)

    return GoingOn(config, log)
