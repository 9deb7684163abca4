"""Width: how many requests at once a server is asked, against servers that are simulated.

A simulated server has some workers, each of which serves one request at a time; who finds none
free waits for one. The clock is the simulation's, so nothing here takes time or depends on it.
"""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from mountd.remotes.width import ROUND, SELDOM_S, STRAINED_S, Asked, Width
from tests.fakes.fake_clock import FakeClock

ROUND_TRIP_S = 0.03
SERVICE_S = 0.06


@dataclass
class Server:
    """`noise`: the longest that a service may take in addition, as a part of it; `sigma`: how far
    it varies besides, of a logarithm."""

    workers: int
    service_s: float = SERVICE_S
    noise: float = 0.3
    sigma: float = 0.0
    status: int = 200
    chance: random.Random = field(default_factory=lambda: random.Random(7))
    free_s: list[float] = field(default_factory=list)

    def answers_s(self, now_s: float) -> float:
        """When the answer to what is sent now arrives."""
        if len(self.free_s) < self.workers:
            heapq.heappush(self.free_s, 0.0)
        begins_s = max(now_s, heapq.heappop(self.free_s))
        takes_s = self.service_s * (1 + self.noise * self.chance.random())
        takes_s *= self.chance.lognormvariate(0.0, self.sigma)
        heapq.heappush(self.free_s, begins_s + takes_s)
        return begins_s + takes_s + ROUND_TRIP_S


class Load:
    """Somebody who always has `wants` requests to make, or as many as the width allows."""

    def __init__(self, width: Width, clock: FakeClock, wants: int = 64) -> None:
        self.width = width
        self.wants = wants
        self.clock = clock
        self.most = width.now
        self.seen: list[int] = []  # the width, at each answer
        self.at_s: list[float] = []
        self._under_way: list[tuple[float, int, Asked, int, float]] = []
        self._count = 0
        self.late_s = 0.0  # how late we are with each answer

    def run(self, server: Server, answers: int, kind: str = "PUT") -> None:
        for _ in range(answers):
            while len(self._under_way) < min(self.wants, self.width.now):
                asked = self.width.begin(kind)
                self._count += 1
                at_s = server.answers_s(self.clock()) + self.late_s
                heapq.heappush(
                    self._under_way, (at_s, self._count, asked, server.status, self.late_s)
                )
            self._hear()

    def finish(self) -> None:
        """Nobody asks any more."""
        while self._under_way:
            self._hear()

    def _hear(self) -> None:
        at_s, _, asked, status, late_s = heapq.heappop(self._under_way)
        self.clock.advance(max(0.0, at_s - self.clock()))
        self.width.answered(asked, status, ours_s=late_s)
        self.width.end()
        self.seen.append(self.width.now)
        self.at_s.append(self.clock())
        self.most = max(self.most, self.width.now)

    def until_s(self, holds: Callable[[int], bool], since_s: float) -> float:
        """When the width first was such, after that time."""
        pairs = zip(self.at_s, self.seen, strict=True)
        return next(at_s for at_s, now in pairs if at_s > since_s and holds(now))


def load_of(least: int = 4, most: int = 16, wants: int = 64) -> Load:
    clock = FakeClock()
    return Load(Width(least, most, clock), clock, wants)


def mean(values: list[int]) -> float:
    return sum(values) / len(values)


def test_a_server_with_many_workers_is_soon_asked_as_much_as_it_may_be() -> None:
    load = load_of()
    load.run(Server(64), 150)
    assert load.width.now == 16
    load.run(Server(64), 2000)
    assert mean(load.seen[150:]) > 14


def test_twice_as_many_are_asked_after_each_round_as_long_as_nothing_was_ever_too_much() -> None:
    load = load_of(most=32)
    load.run(Server(64), 2 * 4 + 4 + 2 * 8)  # some were asked before each step
    assert load.width.now == 16
    load.run(Server(64), 300)
    assert load.width.now == 32
    assert set(load.seen) == {4, 8, 16, 24, 32}


def test_after_the_first_doubt_each_step_is_a_small_one() -> None:
    load = load_of(most=32)
    load.run(Server(4, service_s=1.0), 100)
    load.run(Server(64, service_s=1.0), 5000)
    assert load.width.now == 32
    risen = load.seen[100:]
    assert {4, 6, 8, 12, 16, 24, 32} <= set(risen)


def one_round(width: Width, clock: FakeClock, takes_s: float) -> None:
    """As many as may be, which go and are answered together."""
    asked = [width.begin("PUT") for _ in range(width.now)]
    clock.advance(takes_s)
    for each in asked:
        width.answered(each, 200)
    for _ in asked:
        width.end()


def test_requests_that_go_together_tell_as_much_as_those_one_after_the_other() -> None:
    clock = FakeClock()
    width = Width(4, 32, clock)
    seen = []
    for _ in range(3 + ROUND):
        one_round(width, clock, 0.1)
        seen.append(width.now)
    assert seen == [4, 8, 16, 16, 16, 24]


def test_who_wants_to_know_hears_of_each_step_up() -> None:
    clock = FakeClock()
    width = Width(4, 32, clock)
    heard: list[int] = []
    width.tell_wider(lambda: heard.append(width.now))
    for takes_s in (0.1, 0.1, 0.1, 0.3, 0.3, 0.3):
        one_round(width, clock, takes_s)
    assert heard == [8, 16]


def test_a_slow_round_while_all_was_well_leads_to_small_steps_and_to_no_pause() -> None:
    clock = FakeClock()
    width = Width(4, 32, clock)
    seen = []
    for takes_s in (0.1, 0.1, 0.3, *(ROUND * [0.1])):
        one_round(width, clock, takes_s)
        seen.append((width.now, width.soon))
    assert seen == [(4, 32), (8, 32), (4, 4), (4, 4), (4, 4), (6, 6)]


def test_a_server_with_four_workers_is_hardly_asked_for_more_than_they_can_do() -> None:
    load = load_of()
    server = Server(4)
    load.run(server, 5000)
    # 30 of 90 ms are on the way: six requests keep four workers busy without a wait.
    assert load.most <= 8
    assert mean(load.seen) < 6.1


def test_a_server_of_four_workers_nearby_is_asked_four_things_at_once() -> None:
    load = load_of(most=32)
    load.run(Server(4, service_s=1.0), 5000)
    assert load.most <= 8
    assert sum(now > 6 for now in load.seen) <= 2 * 8  # once, when nothing is known yet
    assert mean(load.seen[500:]) < 4.2


def test_few_workers_whose_times_vary_by_half_are_seldom_taken_for_many() -> None:
    too_many = []
    for seed in range(40):
        load = load_of(most=32)
        server = Server(4, service_s=0.12, sigma=0.6, chance=random.Random(seed))
        load.run(server, 150)
        too_many.append(sum(now > 8 for now in load.seen))
    assert sum(count > 0 for count in too_many) <= 8
    assert sum(too_many) <= 140  # of 6,000


def test_who_was_too_many_tries_again_after_ever_longer_times() -> None:
    load = load_of()
    load.run(Server(4, service_s=1.0), 3000)
    raised = [i for i in range(1, 3000) if load.seen[i] > load.seen[i - 1]]
    assert 2 <= len(raised) <= 12


def test_a_server_that_others_come_to_is_asked_for_less() -> None:
    load = load_of()
    load.run(Server(64), 500)
    assert load.width.now == 16
    load.run(Server(4), 600)
    assert mean(load.seen[-300:]) < 6.1


def test_a_server_whose_workers_come_back_is_asked_for_more_again() -> None:
    load = load_of()
    load.run(Server(4, service_s=0.5), 300)
    load.run(Server(64, service_s=0.5), 30_000)
    assert load.width.now == 16


def test_an_answer_that_says_too_much_ends_it_at_once() -> None:
    for status in (429, 503, 423, 500, 504):
        load = load_of()
        load.run(Server(64), 300)
        assert load.width.now == 16
        load.run(Server(64, status=status), 17)  # those under way were asked before
        assert load.width.now == 4
        before_s = load.clock()
        load.run(Server(64), 600)
        waited_s = load.until_s(lambda now: now > 4, before_s) - before_s
        assert waited_s >= STRAINED_S - 2 * SERVICE_S


def test_a_request_without_an_answer_ends_it_at_once() -> None:
    load = load_of()
    load.run(Server(64), 300)
    load.width.failed()
    assert load.width.now == 4


def test_nothing_is_learned_where_few_ask() -> None:
    load = load_of(wants=2)
    load.run(Server(64), 500)
    assert load.most == 4


def test_who_needs_eight_gets_hardly_more() -> None:
    load = load_of(wants=8)
    load.run(Server(64), 3000)
    assert 8 <= load.most <= 16


def test_what_was_learned_long_ago_is_learned_again() -> None:
    load = load_of()
    load.run(Server(64), 300)
    load.finish()
    load.clock.advance(SELDOM_S + 1)
    load.run(Server(64), 2 * 16 * ROUND)
    assert 4 in load.seen[300:]
    load.run(Server(64), 4 * ROUND + 40)
    assert load.width.now == 16


def test_what_was_learned_in_a_bad_moment_is_soon_learned_again() -> None:
    load = load_of()
    load.run(Server(4, service_s=0.5), 4 * ROUND)  # something else kept it busy
    load.run(Server(4), 1000)
    assert mean(load.seen[200:]) < 6.5


def test_another_kind_of_request_is_not_compared_with_what_is_known() -> None:
    load = load_of()
    load.run(Server(64), 300, "PROPFIND")
    load.run(Server(64, service_s=5.0), 16 + 16 * ROUND, "PUT")
    assert load.width.now == 4
    load.run(Server(64, service_s=5.0), 60, "PUT")
    assert load.width.now == 16


def test_a_width_that_somebody_has_set_stays() -> None:
    load = load_of(least=8, most=8)
    load.run(Server(64), 500)
    load.run(Server(64, status=503), 10)
    assert set(load.seen) == {8}


def test_the_time_that_we_were_late_ourselves_is_not_the_servers() -> None:
    load = load_of()
    load.run(Server(64), 4 * ROUND)
    load.late_s = 0.1
    load.run(Server(64), 150)
    assert load.width.now == 16
