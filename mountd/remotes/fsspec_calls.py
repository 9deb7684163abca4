"""Calls of an fsspec file system: with a time limit, and with errors that are RemoteErrors."""

import threading
from collections.abc import Callable
from typing import Any

from fsspec import asyn

from mountd.errors import ContainerMissing, NotFound, RemoteError, Unreachable
from mountd.remotes.bounded_call import call_bounded
from mountd.remotes.fsspec_engines import Engine
from mountd.remotes.fsspec_errors import remote_error
from mountd.remotes.fsspec_info import CAN_BE_NO_SEGMENT


class FsspecCalls:
    """Engines that are no coroutines are called by one at a time, unless they are known to bear
    threads."""

    def __init__(self, engine: Engine, timeout_s: float) -> None:
        self.engine = engine
        self.timeout_s = timeout_s
        self._one_at_a_time = threading.Semaphore(1)

    def path(self, key: str) -> str:
        """Raises NotFound for a key that fsspec would take apart."""
        segments = key.removesuffix("/").split("/") if key else []
        if not CAN_BE_NO_SEGMENT.isdisjoint(segments):
            raise NotFound(f"{key!r} can't be said through fsspec")
        return "/".join([self.engine.root, *segments]) if segments else self.engine.root

    def call(
        self, name: str, key: str, *args: Any, own: Any = None, within_s: float = 0.0, **kwargs: Any
    ) -> Any:
        """Calls the engine (or `own`, a coroutine function in place of its method) and waits
        `within_s` at most, or what a small request may take. Raises RemoteErrors only."""
        timeout_s = within_s or self.timeout_s
        what = f"{name} {key!r}"
        fs = self.engine.fs
        try:
            if getattr(fs, "async_impl", False):
                method = own or getattr(fs, f"_{name}")
                return asyn.sync(fs.loop, method, *args, timeout=timeout_s, **kwargs)
            method = getattr(fs, name)
            if self.engine.is_parallel:
                return call_bounded(lambda: method(*args, **kwargs), timeout_s, what)
            return self._alone(what, lambda: method(*args, **kwargs), timeout_s)
        except RemoteError:
            raise
        except FileNotFoundError as error:
            found = remote_error(what, error)
            if isinstance(found, NotFound):
                self.check_container()
            raise found from error
        # A file system of any package may raise anything; none of it may end the daemon.
        except Exception as error:
            raise remote_error(what, error) from error

    def _alone(self, what: str, call: Callable[[], Any], timeout_s: float) -> Any:
        if not self._one_at_a_time.acquire(timeout=self.timeout_s):
            raise Unreachable(f"{what}: an earlier call doesn't end")

        def call_and_release() -> Any:
            # Released by the call itself: one that hangs still uses the connection.
            try:
                return call()
            finally:
                self._one_at_a_time.release()

        return call_bounded(call_and_release, timeout_s, what)

    def check_container(self) -> None:
        """Raises ContainerMissing where the bucket is what is missing."""
        container = self.engine.container
        if not container:
            return
        fs = self.engine.fs
        try:
            asyn.sync(fs.loop, fs._info, container, timeout=self.timeout_s)
        except FileNotFoundError as error:
            found = remote_error(container, error)
            if isinstance(found, NotFound):
                found = ContainerMissing(f"there is no {container}")
            raise found from error
        except Exception as error:  # as in _call
            raise remote_error(container, error) from error
