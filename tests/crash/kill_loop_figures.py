"""What a run has seen, counted, and said at its end."""

from collections import Counter
from dataclasses import dataclass, field
from statistics import median


@dataclass(slots=True)
class Figures:
    """`kills`: by point. `losses`: whatever was not as acknowledged, in words."""

    kills: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    disturbances: Counter[str] = field(default_factory=Counter)
    acknowledged: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    restarts_s: list[float] = field(default_factory=list)
    files: int = 0
    bytes: int = 0
    objects: int = 0
    drains: int = 0
    late: int = 0  # could not be read at first
    losses: list[str] = field(default_factory=list)

    def table(self) -> str:
        rows = [f"  {name:40} {count:5}" for name, count in sorted(self.kills.items())]
        return "\n".join(["killed", *rows])

    def summary(self) -> str:
        calls = sum(self.acknowledged.values())
        longest, usual = max(self.restarts_s, default=0.0), median(self.restarts_s or [0.0])
        return (
            f"{sum(self.kills.values())} kills, {calls} acknowledged calls, {self.files} files "
            f"({self.bytes / 1e9:.1f} GB) checked after them "
            f"({self.late} could not be read at first), {self.drains} drains with "
            f"{self.objects} objects compared; {len(self.losses)} losses; "
            f"restart {usual:.2f} s, longest {longest:.2f} s"
        )
