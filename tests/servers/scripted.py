"""A scriptable server of ours as a child process, and the line to its control path."""

import http.client
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
CONTROL_TIMEOUT_S = 60.0


class ControlError(Exception):
    """The control path refused a call: an unknown knob, a wrong value."""


class ScriptedProcess:
    """Runs `python -m MODULE ... --exit-with-stdin`, which prints its ports as JSON when ready.

    Thread-safe: control calls take turns on one connection to the control port, which answers
    also while the other one refuses connections.
    """

    def __init__(self, module: str, arguments: Sequence[str]) -> None:
        self._command = [sys.executable, "-m", module, *arguments, "--exit-with-stdin"]
        self._process: subprocess.Popen[str] | None = None
        self._connection: http.client.HTTPConnection | None = None
        self._lock = threading.Lock()
        self.ports: dict[str, int] = {}

    def start(self) -> None:
        """Returns when the server accepts connections; RuntimeError if it doesn't within 60 s."""
        pipe = subprocess.PIPE
        process = subprocess.Popen(self._command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        self._process = process
        assert process.stdout is not None
        watchdog = threading.Timer(START_TIMEOUT_S, process.kill)
        watchdog.start()
        line = process.stdout.readline()
        watchdog.cancel()
        process.stdout.close()
        if not line:
            raise RuntimeError(f"{self._command} did not start: exit code {process.wait()}")
        self.ports = json.loads(line)

    def stop(self) -> None:
        """Idempotent."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    def cpu_seconds(self) -> float:
        """User and system time of the server process, to the clock tick (10 ms)."""
        text = Path(f"/proc/{self.pid}/stat").read_text()
        fields = text.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def call(self, action: str, spec: dict[str, Any]) -> Any:
        return json.loads(self.request("POST", action, json.dumps(spec).encode()))

    def request(self, method: str, target: str, body: bytes = b"") -> bytes:
        """Raises ControlError with the server's words where it isn't a 200."""
        with self._lock:
            if self._connection is None:
                self._connection = http.client.HTTPConnection(
                    "127.0.0.1", self.ports["control_port"], timeout=CONTROL_TIMEOUT_S
                )
            try:
                self._connection.request(method, f"/_control/{target}", body)
                answer = self._connection.getresponse()
                data = answer.read()
            except BaseException:
                # A test that pytest ends in the middle of this must not fail all that follow.
                self._connection.close()
                self._connection = None
                raise
        if answer.status != 200:
            raise ControlError(data.decode(errors="replace"))
        return data
