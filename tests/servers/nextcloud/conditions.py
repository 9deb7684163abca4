"""Preconditions as SabreDAV checks them: once, at the request's head, before any of its body."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from tests.servers.nextcloud.refusals import refused
from tests.servers.s3.message import Request, S3Error, parse_http_date

# The expression is SabreDAV's in what it takes: one token and one ETag per parenthesis.
_IF = re.compile(
    r"(?:<(?P<uri>.*?)>\s)?\((?P<negated>Not\s)?(?:<(?P<token>[^>]*)>)?\s?(?:\[(?P<etag>[^\]]*)\])?\)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Target:
    """What a condition is compared with. `etag` with quotes, None for a collection, which has none
    in the eyes of SabreDAV: no ETag ever matches it."""

    etag: str | None
    mtime_s: int


def check_conditions(request: Request, target: Target | None) -> bool:
    """False: 304. Raises 412. `target` None: there is nothing at the request's path."""
    headers = request.headers
    etag = None if target is None else target.etag
    match = headers.get("if-match")
    if match:
        if target is None:
            raise refused(412, "An If-Match header was specified and the resource did not exist")
        if match != "*" and etag not in _listed(match):
            raise _failed(
                "An If-Match header was specified, but none of the specified ETags matched.", etag
            )
    none_match = headers.get("if-none-match")
    if none_match and target is not None and (none_match == "*" or etag in _listed(none_match)):
        if request.method == "GET":
            return False
        raise _failed(
            "An If-None-Match header was specified, but the ETag matched (or * was specified).",
            etag,
        )
    return _check_dates(headers, target, asked_for_etag=bool(none_match))


def _check_dates(headers: dict[str, str], target: Target | None, *, asked_for_etag: bool) -> bool:
    if target is None:
        return True
    modified = parse_http_date(headers.get("if-modified-since", ""))
    if not asked_for_etag and modified is not None and target.mtime_s <= modified:
        return False
    unmodified = parse_http_date(headers.get("if-unmodified-since", ""))
    if unmodified is not None and target.mtime_s > unmodified:
        raise refused(412, "An If-Unmodified-Since header was specified, but the entity changed.")
    return True


def _failed(message: str, etag: str | None) -> S3Error:
    error = refused(412, message)
    if etag:
        error.headers["ETag"] = etag
    return error


def _listed(header: str) -> list[str]:
    return [each.strip(" ").replace('\\"', '"') for each in header.split(",")]


def check_if_header(request: Request, resolve: Callable[[str], Target | None]) -> None:
    """The `If` header. `resolve` finds the target of a URL or a path ("" is the request's own).

    Raises 412; 404 where an ETag is compared with something that doesn't exist, also with Not.
    """
    header = request.headers.get("if")
    if not header:
        return
    conditions: list[tuple[str, list[re.Match[str]]]] = []
    for found in _IF.finditer(header):
        if not found["uri"] and conditions:
            conditions[-1][1].append(found)
        else:
            conditions.append((found["uri"] or "", [found]))
    for uri, alternatives in conditions:
        if not any(_holds(found, uri, resolve) for found in alternatives):
            raise refused(412, f"Failed to find a valid token/etag combination for {uri}")


def _holds(found: re.Match[str], uri: str, resolve: Callable[[str], Target | None]) -> bool:
    # No lock plugin validates any token, so one that is named is never valid.
    token_valid = not found["token"]
    etag_valid = not found["etag"]
    if found["etag"] and token_valid:
        target = resolve(uri)
        if target is None:
            raise refused(404, f"{uri} not found")
        etag_valid = target.etag == found["etag"]
    return (token_valid and etag_valid) != bool(found["negated"])
