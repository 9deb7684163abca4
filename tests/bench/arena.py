"""A remote, who is measured on it, and in what."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.bench.contestants import Contestant
from tests.bench.copy_scenarios import copy_scenarios
from tests.bench.nextcloud_contestants import on_nextcloud
from tests.bench.nextcloud_remote import NextcloudRemote
from tests.bench.nextcloud_scenarios import check_cloud, nextcloud_scenarios, seed_cloud
from tests.bench.plan import Plan
from tests.bench.remote import Remote
from tests.bench.scenarios import Scenario, check_data, scenarios, seed
from tests.bench.stage import Stage
from tests.bench.train_scenarios import train_scenarios
from tests.bench.write_scenarios import write_scenarios


@dataclass(frozen=True, slots=True)
class Arena:
    """`check` compares a contestant's data before `reading` scenarios."""

    remote: Remote
    contestants: Sequence[Contestant]
    scenarios: Sequence[Scenario]
    reading: Sequence[Scenario]
    check: Callable[[Stage], None]

    def reads(self, plan: Plan) -> bool:
        return any(case in plan.wanted for each in self.reading for case in each.cases)


def s3_arena(remote: Remote, plan: Plan, chosen: Sequence[Contestant]) -> Arena:
    seed(remote, plan.sizes)
    reading = (*scenarios(), *train_scenarios())
    every = (*reading, *write_scenarios(), *copy_scenarios())
    return Arena(remote, chosen, every, reading, check_data)


def nextcloud_arena(remote: NextcloudRemote, plan: Plan, chosen: Sequence[Contestant]) -> Arena:
    remote.prepare()
    seed_cloud(remote, plan.sizes)
    found = nextcloud_scenarios()
    return Arena(remote, on_nextcloud(chosen), found, found, check_cloud)


def wants_nextcloud(wanted: frozenset[str]) -> bool:
    return any(case in wanted for each in nextcloud_scenarios() for case in each.cases)
