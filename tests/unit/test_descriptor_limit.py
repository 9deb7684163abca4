"""How many files the daemon may have open."""

import subprocess
import sys

CHILD = """
from pathlib import Path
from mountd.running.descriptor_limit import allow_many_descriptors
allow_many_descriptors(2048)
(line,) = [each for each in Path("/proc/self/status").read_text().splitlines() if "FDSize" in each]
print(line.split()[1])
"""


def test_the_kernels_table_of_open_files_has_its_size_before_there_are_threads() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD], capture_output=True, text=True, timeout=60, check=True
    )
    assert int(done.stdout) >= 1024
