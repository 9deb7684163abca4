"""What `/metrics` says, in Prometheus' form: every metric's name, unit and meaning stands here.

docs/metrics.md has the same table, and a test compares them. A `Reading` is made on the loop's
thread and never changes; all else happens in the HTTP server's.
"""

import errno
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from prometheus_client import ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from mountd.remotes.health import HealthState
from mountd.remotes.latency import BOUNDS_S, Histogram
from mountd.sync.taking import TakingState

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
MOUNT_STATES: Final = ("starting", "ready", "stopping")
QUEUE_STATES: Final = ("pending", "uploading", "failed")


@dataclass(frozen=True, slots=True)
class Described:
    """One metric. A counter's name ends in `_total`; the unit is in the name."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str


def _described(kind: str, labels: str, rows: Mapping[str, str]) -> list[Described]:
    return [Described(name, kind, tuple(labels.split()), text) for name, text in rows.items()]


METRICS: Final = (
    *_described(
        "gauge",
        "version python mountpoint source",
        {"mountd_build_info": "Always 1; what runs, and what it serves."},
    ),
    *_described(
        "gauge", "state", {"mountd_mount_state": "1 for the state that the mount is in, else 0."}
    ),
    *_described(
        "gauge",
        "remote state",
        {
            "mountd_remote_state": "1 for the state that the remote is in, else 0.",
            "mountd_remote_writes_state": "1 for how it takes what is written: `ok`, `refused` (by "
            "its rights) or `full`; else 0.",
        },
    ),
    *_described(
        "gauge",
        "remote",
        {
            "mountd_remote_state_since_timestamp_seconds": "When that state began, since 1970.",
        },
    ),
    *_described(
        "gauge",
        "",
        {
            "mountd_dirty_bytes": "Staged on this machine's disk and not on the remote yet.",
            "mountd_oldest_dirty_age_seconds": "Age of the oldest change that the remote does not "
            "have; 0 where it has all.",
            "mountd_conflicts": "Conflict copies, and files whose base is gone.",
            "mountd_open_for_writing_files": "Files that a program has open for writing.",
        },
    ),
    *_described(
        "gauge",
        "state",
        {"mountd_queue_changes": "Changes that the remote does not have, by their state."},
    ),
    *_described(
        "histogram",
        "remote operation",
        {
            "mountd_remote_request_duration_seconds": "Requests to the remote, retries and failed "
            "ones included; a large upload in parts is one."
        },
    ),
    *_described(
        "counter",
        "remote operation error",
        {"mountd_remote_request_failures_total": "Requests that ended in an error, by its kind."},
    ),
    *_described(
        "counter",
        "remote",
        {
            "mountd_remote_received_bytes_total": "Payload of reads that succeeded.",
            "mountd_remote_sent_bytes_total": "Payload of uploads that succeeded.",
            "mountd_remote_sending_bytes_total": "Payload handed to uploads, also to those under "
            "way or failed; for a rate.",
        },
    ),
    *_described(
        "gauge",
        "",
        {
            "mountd_cache_bytes": "Blocks on the cache's disk.",
            "mountd_cache_limit_bytes": "What the cache may take.",
            "mountd_cache_memory_bytes": "Fetched data in memory.",
            "mountd_cache_disk_writable": "0 while the cache's disk refuses (full, broken), "
            "and a minute after.",
        },
    ),
    *_described(
        "counter",
        "",
        {
            "mountd_cache_hits_total": "Reads that no request was needed for.",
            "mountd_cache_misses_total": "Reads that waited for a request.",
            "mountd_cache_not_kept_bytes_total": "Fetched and served, and not kept on disk.",
            "mountd_cache_wasted_bytes_total": "Fetched ahead and never read.",
        },
    ),
    *_described(
        "counter",
        "operation",
        {"mountd_fuse_requests_total": "Requests of the kernel, by handler."},
    ),
    *_described(
        "counter",
        "operation errno",
        {"mountd_fuse_errors_total": "Those of them that were answered with an errno."},
    ),
)


@dataclass(frozen=True, slots=True)
class Reading:
    """All that is told, at one instant. `status` is the object of `status --json`."""

    status: Mapping[str, Any]
    version: str
    python: str
    open_for_writing: int
    wasted_bytes: int
    calls: Mapping[str, int]
    refused: Mapping[tuple[str, int], int]
    latencies: Mapping[str, Histogram]
    failures: Mapping[tuple[str, str], int]


def exposition(reading: Reading) -> bytes:
    """The page. 3 ms, in whatever thread."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(reading))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


class _Families(Collector):
    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def collect(self) -> Iterable[Metric]:
        samples = _samples(self._reading)
        for metric in METRICS:
            yield _family(metric, samples[metric.name])


def _family(metric: Described, samples: Mapping[tuple[str, ...], Any]) -> Metric:
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(metric.name, metric.meaning, labels=metric.labels)
        for labels, found in samples.items():
            histogram.add_metric(labels, _buckets(found), found.sum_s)
        return histogram
    kind = GaugeMetricFamily if metric.kind == "gauge" else CounterMetricFamily
    family = kind(metric.name, metric.meaning, labels=metric.labels)
    for labels, value in samples.items():
        family.add_metric(labels, value)
    return family


def _buckets(found: Histogram) -> list[tuple[str, float]]:
    buckets, total = [], 0
    for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), found.counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets


_Values = dict[tuple[str, ...], Any]
_Samples = dict[str, _Values]


def _samples(reading: Reading) -> _Samples:
    """Values by labels, by metric."""
    status = reading.status
    mountpoint, source = _plain(status["mountpoint"]), _plain(status["source"])
    cache, queue = status["cache"], status["queue"]
    calls: _Values = {(name,): count for name, count in reading.calls.items()}
    return {
        "mountd_build_info": {(reading.version, reading.python, mountpoint, source): 1},
        "mountd_mount_state": {(one,): int(one == status["state"]) for one in MOUNT_STATES},
        **dict(_of_remote(reading, source)),
        "mountd_dirty_bytes": {(): queue["bytes"]},
        "mountd_oldest_dirty_age_seconds": {(): queue["oldest_s"] or 0},
        "mountd_conflicts": {(): queue["conflicts"]},
        "mountd_open_for_writing_files": {(): reading.open_for_writing},
        "mountd_queue_changes": {(one,): queue[one] for one in QUEUE_STATES},
        "mountd_cache_bytes": {(): cache["bytes"]},
        "mountd_cache_limit_bytes": {(): cache["limit_bytes"]},
        "mountd_cache_memory_bytes": {(): cache["memory_bytes"]},
        "mountd_cache_disk_writable": {(): int(not cache["disk_error"])},
        "mountd_cache_hits_total": {(): cache["hits"]},
        "mountd_cache_misses_total": {(): cache["misses"]},
        "mountd_cache_not_kept_bytes_total": {(): cache["not_kept_bytes"]},
        "mountd_cache_wasted_bytes_total": {(): reading.wasted_bytes},
        "mountd_fuse_requests_total": calls,
        "mountd_fuse_errors_total": {
            (name, errno.errorcode.get(number, str(number))): count
            for (name, number), count in reading.refused.items()
        },
    }


def _plain(text: object) -> str:
    """A label: bytes that are no UTF-8 as escapes."""
    return str(text).encode(errors="backslashreplace").decode()


def _of_remote(reading: Reading, source: str) -> Iterator[tuple[str, _Values]]:
    remote, transfer = reading.status["remote"], reading.status["transfer"]
    state, since = remote["state"], datetime.fromisoformat(remote["since"])
    yield (
        "mountd_remote_state",
        {(source, one.value): int(one.value == state) for one in HealthState},
    )
    taking = remote["writes"]["state"]
    yield (
        "mountd_remote_writes_state",
        {(source, one.value): int(one.value == taking) for one in TakingState},
    )
    yield "mountd_remote_state_since_timestamp_seconds", {(source,): since.timestamp()}
    histograms: _Values = {(source, name): found for name, found in reading.latencies.items()}
    yield "mountd_remote_request_duration_seconds", histograms
    failures: _Values = {(source, *key): count for key, count in reading.failures.items()}
    yield "mountd_remote_request_failures_total", failures
    yield "mountd_remote_received_bytes_total", {(source,): transfer["down_bytes"]}
    yield "mountd_remote_sent_bytes_total", {(source,): transfer["up_bytes"]}
    yield "mountd_remote_sending_bytes_total", {(source,): transfer["sending_bytes"]}
