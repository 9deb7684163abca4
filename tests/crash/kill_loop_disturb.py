"""What the remote does meanwhile: nothing unusual, or is slow, fails, loses answers, goes away."""

import random
from dataclasses import dataclass, field
from typing import Any

from tests.crash.kill_loop_server import Server

WRITES = ("PutObject", "DeleteObject", "CopyObject", "CompleteMultipartUpload", "UploadPart")
READS = ("GetObject", "HeadObject", "ListObjectsV2")


@dataclass(frozen=True, slots=True)
class Weather:
    """`begin` before the load, `end` after the kill."""

    name: str
    server: Server
    knobs: dict[str, float] = field(default_factory=dict)
    rules: tuple[dict[str, Any], ...] = ()
    gone_for_s: float = 0.0

    @property
    def is_calm(self) -> bool:
        return self.name == "calm"

    def begin(self) -> None:
        if self.knobs:
            self.server.set_knobs(**self.knobs)
        if self.rules:
            self.server.faults(*self.rules)
        if self.gone_for_s:
            self.server.refuse_connections(for_s=self.gone_for_s)

    def end(self) -> None:
        self.server.set_knobs(latency_ms=0.0, bandwidth_bytes_s=0)
        self.server.clear_faults()
        self.server.accept_connections()


def choose_weather(server: Server, rng: random.Random) -> Weather:
    chance = rng.random()
    if chance < 0.5:
        return Weather("calm", server)
    if chance < 0.62:
        knobs: dict[str, float] = {"latency_ms": rng.choice((30.0, 200.0))}
        return Weather("slow", server, knobs | {"bandwidth_bytes_s": 20_000_000})
    if chance < 0.76:
        rules = [
            {"op": op, "skip": rng.randrange(8), "times": rng.randrange(1, 4), **failure}
            for op in (*WRITES, *READS)
            for failure in [rng.choice(({"status": 503}, {"status": 500}, {"reset": True}))]
        ]
        return Weather("failing", server, rules=tuple(rules))
    if chance < 0.9:
        rules = [
            {"op": op, "skip": rng.randrange(6), "times": rng.randrange(1, 4), "lose_reply": True}
            for op in WRITES
        ]
        return Weather("losing answers", server, rules=tuple(rules))
    return Weather("gone for a while", server, gone_for_s=rng.uniform(0.1, 1.5))
