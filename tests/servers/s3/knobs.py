"""What the server does wrong on purpose, and to which requests.

`Effects` are the knobs. A base set holds for every S3 request; rules override single fields for
the requests that they match, after `skip` matches and at most `times` times. Nothing here ever
applies to `/_control`.
"""

import re
from dataclasses import dataclass, field, fields, replace
from typing import Any

from tests.servers.s3.message import Request, S3Error


@dataclass(frozen=True, slots=True)
class Effects:
    """Knobs of one request. The defaults are an honest, strict, unthrottled S3.

    Time and rate: `latency_ms` to the first byte, after the request has arrived whole;
    `bandwidth_bytes_s` per connection, both directions; 0 is unlimited.

    Instead of an answer: `status` (with `code`, else the usual one; `retry_after_s` adds the
    header), `reset` (RST before answering, nothing done), `hang` (never answered),
    `cut_upload_after` (RST when more than so many bytes of the request's body have come, and
    nothing done), `hold` (answered only after `/_control/release`), `lose_reply` (done, then RST).
    `error_as_200` sends errors of any origin with status 200, as S3 may for Complete and copies.

    A spoilt body: `cut_after_bytes` (that many bytes, then FIN), `cut_with_reset` (then RST
    instead), `extra_length` (Content-Length claims so many bytes more than come before FIN),
    `wrong_content_range` (claims another start), `flip_at` (the byte at this offset of the object
    is inverted), `ignore_range` (200 and everything), `range_as_200` (the right bytes and
    Content-Range but status 200, as rclone serve s3 does).

    Semantics: `ignore_conditionals`, `page_size` (0: 1000), `allow_anonymous`, `token_expired`,
    `small_parts` (no EntityTooSmall), `opaque_etag` (an ETag that is no MD5), `ignore_sha256` and
    `ignore_crc32c` (of a body), `wants_md5` (InvalidRequest without Content-MD5, as buckets that
    lock objects).
    """

    latency_ms: float = 0.0
    bandwidth_bytes_s: int = 0
    status: int = 0
    code: str = ""
    retry_after_s: int | None = None
    reset: bool = False
    cut_upload_after: int = -1
    hang: bool = False
    hold: bool = False
    lose_reply: bool = False
    error_as_200: bool = False
    cut_after_bytes: int = -1
    cut_with_reset: bool = False
    extra_length: int = 0
    wrong_content_range: bool = False
    flip_at: int = -1
    ignore_range: bool = False
    range_as_200: bool = False
    ignore_conditionals: bool = False
    page_size: int = 0
    allow_anonymous: bool = False
    token_expired: bool = False
    small_parts: bool = False
    opaque_etag: bool = False
    ignore_sha256: bool = False
    ignore_crc32c: bool = False
    wants_md5: bool = False


_DEFAULTS = Effects()
EFFECT_NAMES = frozenset(each.name for each in fields(Effects))
USUAL_CODE = {
    400: "BadRequest",
    403: "AccessDenied",
    404: "NoSuchBucket",
    409: "ConditionalRequestConflict",
    429: "TooManyRequests",
    500: "InternalError",
    503: "SlowDown",
}


def ordered_error(effects: Effects) -> S3Error:
    """The error that the knob `status` orders."""
    code = effects.code or USUAL_CODE.get(effects.status, "InternalError")
    error = S3Error(effects.status, code, "ordered by a knob")
    if effects.retry_after_s is not None:
        error.headers["Retry-After"] = str(effects.retry_after_s)
    return error


class BadKnobs(ValueError):
    """A knob or a rule's field that does not exist, or a value of the wrong type."""


def checked(values: dict[str, Any]) -> dict[str, Any]:
    """The effects as they are. Raises BadKnobs."""
    for name, value in values.items():
        if name not in EFFECT_NAMES:
            raise BadKnobs(f"no such knob: {name}")
        default = getattr(_DEFAULTS, name)
        kinds = (int, float) if isinstance(default, float) else type(default)
        if name == "retry_after_s":
            kinds = int
        if not isinstance(value, kinds) and value != default:
            raise BadKnobs(f"{name} can't be {value!r}")
    return values


@dataclass(slots=True)
class Rule:
    """Effects for the requests that match every given criterion.

    `op` is S3's name of the operation (`GetObject`, `ListObjectsV2`, ...), `prefix` and `key` (a
    regular expression, searched) look at the key, or at a listing's prefix parameter.
    """

    effects: dict[str, Any]
    method: str = ""
    op: str = ""
    bucket: str = ""
    prefix: str = ""
    key: re.Pattern[str] | None = None
    skip: int = 0
    times: int | None = None
    matched: int = field(default=0)

    def takes(self, request: Request) -> bool:
        """Counts the request if it matches, and says whether the effects are for it."""
        if self.method and self.method != request.method:
            return False
        if self.op and self.op != request.op:
            return False
        if self.bucket and self.bucket != request.bucket:
            return False
        name = request.key or request.query.get("prefix", "")
        if self.prefix and not name.startswith(self.prefix):
            return False
        if self.key is not None and self.key.search(name) is None:
            return False
        self.matched += 1
        past = self.matched - self.skip
        return past > 0 and (self.times is None or past <= self.times)


def rule_of(spec: dict[str, Any]) -> Rule:
    effects = checked({name: spec[name] for name in spec.keys() & EFFECT_NAMES})
    criteria = {name: value for name, value in spec.items() if name not in EFFECT_NAMES}
    try:
        if "key" in criteria:
            criteria["key"] = re.compile(criteria["key"])
        return Rule(effects=effects, **criteria)
    except (TypeError, re.error) as error:
        raise BadKnobs(str(error)) from error


class Knobs:
    """The base effects and the rules of a running server."""

    def __init__(self) -> None:
        self.base = Effects()
        self.rules: list[Rule] = []

    def set_base(self, values: dict[str, Any]) -> None:
        self.base = replace(self.base, **checked(values))

    def clear(self) -> None:
        self.base = Effects()
        self.rules = []

    def resolve(self, request: Request) -> Effects:
        if not self.rules:
            return self.base
        changes: dict[str, Any] = {}
        for rule in self.rules:
            if rule.takes(request):
                changes |= rule.effects
        return replace(self.base, **changes) if changes else self.base
