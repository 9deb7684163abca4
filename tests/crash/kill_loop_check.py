"""Compares what a mount shows with what may be left of a tree, and takes it over."""

import hashlib
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tests.crash.kill_loop_model import File, Folder, Nodes, Tree

MOST_NAMED = 8
PAUSE_S = 0.1

_T = TypeVar("_T")


@dataclass(slots=True)
class Report:
    """What one look found. `unreadable`: files whose bytes could not be had, which is no loss as
    long as the remote is down. `late`: what gave an error at first, in words."""

    problems: list[str] = field(default_factory=list)
    files: int = 0
    bytes: int = 0
    unreadable: int = 0
    late: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Seen:
    is_folder: bool
    number: int
    size: int
    mtime_ns: int


def look(tree: Tree, top: Path, *, is_down: bool, patience_s: float) -> Report:
    """Every name, size, inode number and byte below `top`. `is_down`: the remote is, so what is not
    here may give an error, but never anything else. Otherwise errors are tried again for
    `patience_s`, which a remote that just came back needs. What was seen is certain afterwards.
    """
    report = Report()
    until_s = time.monotonic() + (0.0 if is_down else patience_s)
    try:
        seen = _patiently(lambda: scan(top), until_s, report)
    except OSError as error:
        report.unreadable += 1
        if not is_down:
            report.problems.append(f"{top}: {error}")
        return report
    nodes = _agreed(tree, seen, report)
    if nodes is None:
        return report
    tree.nodes, tree.under_way = nodes, None
    for path, node in nodes.items():
        _compare_attributes(path, node, seen[path], report)
        if isinstance(node, File):
            _compare_bytes(top / path, node, seen[path], report, until_s, is_down)
    return report


def scan(top: Path) -> dict[str, Seen]:
    """All that is below `top`, by path. Raises OSError."""
    found: dict[str, Seen] = {}
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        for entry in os.scandir(top / folder):
            path = f"{folder}/{entry.name}" if folder else entry.name
            facts = entry.stat(follow_symlinks=False)
            is_folder = stat.S_ISDIR(facts.st_mode)
            found[path] = Seen(is_folder, facts.st_ino, facts.st_size, facts.st_mtime_ns)
            if is_folder:
                waiting.append(path)
    return found


def digests(top: Path) -> dict[str, tuple[int, str] | None]:
    """Size and SHA-256 of each file below `top` as the mount has it now; None for a folder."""
    found: dict[str, tuple[int, str] | None] = {}
    for path, seen in scan(top).items():
        data = b"" if seen.is_folder else (top / path).read_bytes()
        found[path] = None if seen.is_folder else (len(data), hashlib.sha256(data).hexdigest())
    return found


def _patiently(call: Callable[[], _T], until_s: float, report: Report) -> _T:
    began_s, first = time.monotonic(), ""
    while True:
        try:
            found = call()
        except OSError as error:
            first = first or str(error)
            if time.monotonic() >= until_s:
                raise
            time.sleep(PAUSE_S)
        else:
            if first:
                report.late.append(f"{time.monotonic() - began_s:.1f} s: {first}")
            return found


def _agreed(tree: Tree, seen: dict[str, Seen], report: Report) -> Nodes | None:
    """The state of the names that is there. None, and problems, where it is none that may be."""
    there = {path: facts.is_folder for path, facts in seen.items()}
    choices = tree.possible()
    for nodes in choices:
        if there == {path: isinstance(node, Folder) for path, node in nodes.items()}:
            return nodes
    wanted = choices[0]
    missing = sorted(wanted.keys() - there.keys())[:MOST_NAMED]
    extra = sorted(there.keys() - wanted.keys())[:MOST_NAMED]
    report.problems.append(f"missing {missing}, not expected {extra}, under way {tree.under_way}")
    return None


def _compare_attributes(path: str, node: File | Folder, seen: Seen, report: Report) -> None:
    if node.number and node.number != seen.number:
        report.problems.append(f"{path}: inode {seen.number}, which was {node.number}")
    node.number = seen.number
    if isinstance(node, File) and node.mtime_ns and node.mtime_ns != seen.mtime_ns:
        report.problems.append(f"{path}: mtime {seen.mtime_ns}, set to {node.mtime_ns}")
        node.mtime_ns = 0


def _compare_bytes(
    path: Path, file: File, facts: Seen, report: Report, until_s: float, is_down: bool
) -> None:
    try:
        data = _patiently(path.read_bytes, until_s, report)
    except OSError as error:
        report.unreadable += 1
        if not is_down:
            report.problems.append(f"{path}: {error}")
        return
    report.files += 1
    report.bytes += len(data)
    why = file.difference(data)
    if not why and len(data) != facts.size:
        why = f"{len(data)} bytes were read, and stat says {facts.size}"
    if why:
        steps = [(step.start, len(step.data), step.size) for step in file.steps]
        report.problems.append(f"{path}: {why}; under way {steps}")
    file.adopt(data)
