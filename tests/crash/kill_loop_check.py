"""Compares what a mount shows with what may be left of a tree, and takes it over."""

import hashlib
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tests.crash.kill_loop_calls import XATTR
from tests.crash.kill_loop_model import File, Folder, Link, Node, Nodes, Tree

MOST_NAMED = 8
PAUSE_S = 0.1
LINK_SUFFIX = ".rclonelink"

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
    kind: type[Node]
    number: int
    size: int
    mtime_ns: int
    mode: int

    @property
    def is_folder(self) -> bool:
        return self.kind is Folder


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
            _compare_xattr(top / path, node, report, until_s, is_down)
        elif isinstance(node, Link):
            _compare_target(top / path, node, report, until_s, is_down)
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
            kind = _kind(facts.st_mode)
            mode = stat.S_IMODE(facts.st_mode)
            found[path] = Seen(kind, facts.st_ino, facts.st_size, facts.st_mtime_ns, mode)
            if kind is Folder:
                waiting.append(path)
    return found


def _kind(mode: int) -> type[Node]:
    if stat.S_ISDIR(mode):
        return Folder
    return Link if stat.S_ISLNK(mode) else File


def digests(top: Path) -> dict[str, tuple[int, str] | None]:
    """Size and SHA-256 of each file below `top` as the mount has it now, of a link as the remote
    has it; None for a folder."""
    found: dict[str, tuple[int, str] | None] = {}
    for path, seen in scan(top).items():
        if seen.is_folder:
            found[path] = None
            continue
        is_link = seen.kind is Link
        data = os.fsencode(os.readlink(top / path)) if is_link else (top / path).read_bytes()
        key = path + LINK_SUFFIX if is_link else path
        found[key] = len(data), hashlib.sha256(data).hexdigest()
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
    there = {path: facts.kind for path, facts in seen.items()}
    choices = tree.possible()
    for nodes in choices:
        if there == {path: type(node) for path, node in nodes.items()}:
            return nodes
    wanted = choices[0]
    missing = sorted(wanted.keys() - there.keys())[:MOST_NAMED]
    extra = sorted(there.keys() - wanted.keys())[:MOST_NAMED]
    other = [p for p in wanted.keys() & there.keys() if there[p] is not type(wanted[p])]
    other = [f"{path}, a {there[path].__name__}" for path in sorted(other)[:MOST_NAMED]]
    report.problems.append(
        f"missing {missing}, not expected {extra}, another kind {other}, under way {tree.under_way}"
    )
    return None


def _compare_target(path: Path, link: Link, report: Report, until_s: float, is_down: bool) -> None:
    try:
        target = _patiently(lambda: os.readlink(path), until_s, report)
    except OSError as error:
        report.unreadable += 1
        if not is_down:
            report.problems.append(f"{path}: its target: {error}")
        return
    if target != link.target:
        report.problems.append(f"{path}: a link to {target}, made to {link.target}")


def _compare_xattr(path: Path, file: File, report: Report, until_s: float, is_down: bool) -> None:
    if not file.xattr:
        return
    try:
        found = _patiently(lambda: os.getxattr(path, XATTR), until_s, report)
    except OSError as error:
        if not is_down:
            report.problems.append(f"{path}: its xattr: {error}")
            file.xattr = b""
        return
    if found != file.xattr:
        report.problems.append(f"{path}: its xattr is {found!r}, set to {file.xattr!r}")
        file.xattr = b""


def _compare_attributes(path: str, node: Node, seen: Seen, report: Report) -> None:
    if node.number and node.number != seen.number:
        report.problems.append(f"{path}: inode {seen.number}, which was {node.number}")
    node.number = seen.number
    if isinstance(node, File) and node.mode and node.mode != seen.mode:
        report.problems.append(f"{path}: mode {seen.mode:o}, set to {node.mode:o}")
        node.mode = 0
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
