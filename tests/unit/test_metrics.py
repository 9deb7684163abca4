"""`/metrics`: docs, dashboard and code name the same things; a page is what Prometheus reads."""

import json
import re
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from mountd.control.metrics import METRICS, Reading, exposition
from mountd.fusefs.requests import RequestCounts
from mountd.remotes.latency import BOUNDS_S, Latencies

DOCS = Path(__file__).parents[2] / "docs"
# What prometheus-client itself reads from /proc/self.
PROCESS_METRICS = (
    *("process_virtual_memory_bytes", "process_resident_memory_bytes", "process_open_fds"),
    *("process_start_time_seconds", "process_cpu_seconds_total", "process_max_fds"),
)
KNOWN = {metric.name for metric in METRICS} | set(PROCESS_METRICS)


def reading(**queue: object) -> Reading:
    """Of a mount that has sent and read something."""
    latencies, requests = Latencies(), RequestCounts()
    latencies.add("put", 0.3, "")
    latencies.add("put", 1000.0, "Unreachable")
    requests.calls["read"] += 3
    requests.refusal("read", 5)
    status = {
        "mountpoint": "/storage\udcff",
        "source": 's3://lab/"data"',
        "state": "ready",
        "remote": {
            **{"state": "denied", "since": "2026-01-31T10:00:00Z", "last_error": "no"},
            "writes": {"state": "full", "since": "2026-01-31T10:00:00Z", "reason": "507"},
        },
        "cache": {
            **dict.fromkeys(("bytes", "limit_bytes", "hits", "misses"), 1),
            **{"memory_bytes": 0, "not_kept_bytes": 0, "disk_error": None},
        },
        "queue": {
            **{"pending": 1, "uploading": 2, "failed": 3, "conflicts": 4},
            **{"bytes": 5, "oldest_s": None},
            **queue,
        },
        "transfer": {"down_bytes": 1, "up_bytes": 2, "sending_bytes": 3},
    }
    return Reading(
        *(status, "1.2", "3.11", 7, 0, requests.calls, requests.refused),
        *(latencies.histograms(), latencies.failed()),
    )


def values(page: bytes) -> dict[str, float]:
    """By name and labels, but for `remote`."""
    found = {}
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            labels = [f"{k}={v}" for k, v in sorted(sample.labels.items()) if k != "remote"]
            found[" ".join((sample.name, *labels))] = sample.value
    return found


def test_a_page_is_read_back_as_it_was_meant() -> None:
    found = values(exposition(reading()))
    assert found["mountd_queue_changes state=failed"] == 3
    assert found["mountd_oldest_dirty_age_seconds"] == 0
    assert found["mountd_open_for_writing_files"] == 7
    assert found["mountd_remote_state state=denied"] == 1
    assert found["mountd_remote_state state=ok"] == 0
    writes = [found[f"mountd_remote_writes_state state={one}"] for one in ("ok", "refused", "full")]
    assert writes == [0, 0, 1]
    assert found["mountd_remote_state_since_timestamp_seconds"] == 1769853600
    assert found["mountd_fuse_requests_total operation=read"] == 3
    assert found["mountd_fuse_errors_total errno=EIO operation=read"] == 1
    duration = "mountd_remote_request_duration_seconds"
    assert found[f"{duration}_count operation=put"] == 2
    assert found[f"{duration}_sum operation=put"] == 1000.3
    assert found[f"{duration}_bucket le=0.25 operation=put"] == 0
    assert found[f"{duration}_bucket le=0.5 operation=put"] == 1
    assert found[f"{duration}_bucket le=300.0 operation=put"] == 1
    assert found[f"{duration}_bucket le=+Inf operation=put"] == 2
    assert found["mountd_remote_request_failures_total error=Unreachable operation=put"] == 1


def test_every_metric_is_told_in_a_page_and_no_other() -> None:
    page = exposition(reading(oldest_s=4.5)).decode()
    assert set(re.findall(r"^# TYPE (\S+)", page, re.MULTILINE)) == KNOWN


def test_the_documents_table_is_the_codes() -> None:
    rows = re.findall(
        r"^\| `(mountd_\w+)` \| (\w+) \| (.*?) \| (.*) \|$",
        (DOCS / "metrics.md").read_text(),
        re.MULTILINE,
    )
    documented = [
        (n, kind, tuple(re.findall(r"`(\w+)`", labels)), m) for n, kind, labels, m in rows
    ]
    assert documented == [(m.name, m.kind, m.labels, m.meaning) for m in METRICS]


def test_what_the_document_says_beside_the_table_exists() -> None:
    text = (DOCS / "metrics.md").read_text()
    assert set(re.findall(r"\b(?:mountd|process)_\w+", text)) == KNOWN
    bounds = re.search(r"The buckets end at (.*?) ms, (.*?) s\.", text, re.DOTALL)
    assert bounds is not None
    told = [float(n) / 1000 for n in re.findall(r"[\d.]+", bounds[1])]
    told += [float(n) for n in re.findall(r"[\d.]+", bounds[2])]
    assert tuple(told) == BOUNDS_S


def test_the_dashboard_names_only_metrics_and_labels_that_exist() -> None:
    board: dict[str, Any] = json.loads((DOCS / "grafana/mountd.json").read_text())
    labels = {label for metric in METRICS for label in metric.labels}
    expressions = [t["expr"] for panel in board["panels"] for t in panel["targets"]]
    assert len(expressions) > 15
    for expression in expressions:
        for name in re.findall(r"\b(?:mountd|process)_\w+", expression):
            assert re.sub(r"_(bucket|count|sum)$", "", name) in KNOWN, expression
        for label in re.findall(r'(\w+)=~?"', expression):
            assert label in labels | {"instance", "job"}, expression
        for grouped in re.findall(r"by \(([^)]*)\)", expression):
            assert set(grouped.split(", ")) <= labels | {"le"}, expression
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for variable in board["templating"]["list"]:
        for name in re.findall(r"\bmountd_\w+", variable.get("definition", "")):
            assert name in KNOWN
