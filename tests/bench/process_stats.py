"""What the kernel counts for a daemon: processor time and memory, of it and its children."""

import os
import resource
from contextlib import suppress
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def process_tree(pid: int) -> list[int]:
    """`pid` and all processes below it that live now."""
    found = [pid]
    for each in found:
        with suppress(OSError):
            for task in Path(f"/proc/{each}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of the tree, with what dead children left behind; 10 ms exact."""
    ticks = 0
    for each in process_tree(pid):
        with suppress(OSError):
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return ticks / _TICKS_PER_S


def peak_rss_bytes(pid: int) -> int:
    """VmHWM of the tree's processes, added up."""
    total = 0
    for each in process_tree(pid):
        with suppress(OSError):
            for line in Path(f"/proc/{each}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    total += int(line.split()[1]) * 1024
    return total


def reset_peak_rss(pid: int) -> None:
    """Makes the peak start again from now (proc_pid_clear_refs(5)); where it can't, it goes on."""
    for each in process_tree(pid):
        with suppress(OSError):
            Path(f"/proc/{each}/clear_refs").write_text("5")


def machine_busy_seconds() -> float:
    """What all processors of the machine have worked since its start, for whomever."""
    fields = Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]
    user, nice, system, _idle, _waiting, irq, soft_irq, steal = map(int, fields)
    return (user + nice + system + irq + soft_irq + steal) / _TICKS_PER_S


def children_cpu_seconds() -> float:
    """Of our own children that have ended: the readers."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
