"""What a Nextcloud says that it can do: `/ocs/v2.php/cloud/capabilities`, read once. Not trusted.

https://docs.nextcloud.com/server/latest/developer_manual/client_apis/OCS/ocs-api-overview.html
"""

import json
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mountd.errors import Throttled, Unreachable
from mountd.remotes.base import NameRules
from mountd.remotes.http_pool import HttpPool
from mountd.remotes.http_status import error_of_status

logger = logging.getLogger(__name__)

_TARGET = "/ocs/v2.php/cloud/capabilities?format=json"
_MAX_ANSWER_BYTES = 4 << 20
_MAX_RULES = 1000
# filecache.name has 250 characters; more is a 400 or a 500, after all bytes were sent.
_NAME_MAX_BYTES = 250
# These are refused by every release, whether or not it says so: `*.part` with 423, the rest with
# 400 (24.0.5).
_CHARACTERS = frozenset("\\" + "".join(map(chr, range(32))))
_EXTENSIONS = (".part",)


@dataclass(frozen=True, slots=True)
class Features:
    """`is_whole`: nothing was held back; who isn't signed in is told less.
    `version` is "" where no Nextcloud answered: then it is treated as plain WebDAV.

    `is_chunked`: large files may go in chunks. Which scheme is up to the server: 2 needs a shared
    cache and an object store there, doesn't show in the capabilities, and falls back to 1.0. So
    we send what 2 wants, and 1.0 ignores what it doesn't know (24.0.5).
    `keeps_trash`: what is deleted can be brought back by its owner.
    `max_chunk_bytes`, `max_chunks_at_once`: what the server asks for; None where it doesn't say.
    """

    version: str = ""
    is_chunked: bool = False
    keeps_trash: bool = False
    max_chunk_bytes: int | None = None
    max_chunks_at_once: int | None = None
    names: NameRules | None = None
    push_url: str = ""
    is_whole: bool = True

    @property
    def is_nextcloud(self) -> bool:
        return bool(self.version)


PLAIN: Final = Features()


class FeaturesDoor:
    """Asks once, when something first needs to know. `root`: the server's own path. Thread-safe."""

    def __init__(self, pool: HttpPool, root: str) -> None:
        self._pool = pool
        self._target = root + _TARGET
        self._asking = threading.Lock()
        self._known: Features | None = None

    @property
    def known(self) -> Features:
        """What is known so far, without a request."""
        return self._known or PLAIN

    @property
    def may_be_nextcloud(self) -> bool:
        """Until the server has said that it isn't."""
        return self._known is None or self._known.is_nextcloud

    def get(self) -> Features:
        """One small request, the first time. Raises Unreachable, Throttled, and Denied for a 401,
        and asks again at the next call; any other answer stands for a plain WebDAV server."""
        if self._known is not None:
            return self._known
        with self._asking:
            if self._known is not None:
                return self._known
            found = self._ask()
            logger.info("%s: %s", self._pool.origin, found)
            if found.is_whole:
                self._known = found
            return found

    def _ask(self) -> Features:
        headers = {"OCS-APIRequest": "true", "Accept": "application/json"}
        with self._pool.ask("GET", self._target, headers) as answer:
            if answer.status != 200:
                retry_after = answer.headers.get("retry-after")
                error = error_of_status(answer.status, answer.what, retry_after)
                if answer.status == 401 or isinstance(error, Throttled | Unreachable):
                    raise error
                logger.info("%s: used as plain WebDAV", error)
                return PLAIN
            data = b""
            while chunk := answer.chunk():
                data += chunk
                if len(data) > _MAX_ANSWER_BYTES:
                    return PLAIN
        return features_in(data)


def features_in(data: bytes) -> Features:
    """PLAIN for what is no such answer; whatever is odd inside counts as not said."""
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError):
        return PLAIN
    told = _at(answer, "ocs", "data")
    version = _at(told, "version", "string")
    if not isinstance(version, str) or not version:
        return PLAIN
    files, dav = (_at(told, "capabilities", name) for name in ("files", "dav"))
    chunk_bytes = _at(files, "chunked_upload", "max_size")
    at_once = _at(files, "chunked_upload", "max_parallel_count")
    push = _at(told, "capabilities", "notify_push", "endpoints", "websocket")
    return Features(
        version=version[:40],
        is_chunked=bool(_at(dav, "chunking")),
        keeps_trash=_at(files, "undelete") is True,
        max_chunk_bytes=_positive(chunk_bytes),
        max_chunks_at_once=_positive(at_once),
        names=_names(files),
        push_url=push if isinstance(push, str) and push.startswith(("ws://", "wss://")) else "",
        is_whole=isinstance(files, Mapping),
    )


def _names(files: object) -> NameRules:
    # `blacklisted_files` until release 29.
    named = _texts(files, "forbidden_filenames") or _texts(files, "blacklisted_files")
    extensions = _texts(files, "forbidden_filename_extensions")
    return NameRules(
        names=frozenset(name.lower() for name in named),
        stems=frozenset(name.lower() for name in _texts(files, "forbidden_filename_basenames")),
        characters=_CHARACTERS | frozenset(_texts(files, "forbidden_filename_characters")),
        extensions=(*_EXTENSIONS, *(text.lower() for text in extensions)),
        max_bytes=_NAME_MAX_BYTES,
    )


def _texts(data: object, name: str) -> list[str]:
    found = _at(data, name)
    if not isinstance(found, list):
        return []
    return [text for text in found[:_MAX_RULES] if isinstance(text, str) and text]


def _at(data: Any, *names: str) -> Any:
    for name in names:
        data = data.get(name) if isinstance(data, Mapping) else None
    return data


def _positive(value: object) -> int | None:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and isinstance(value, int) and value > 0 else None
