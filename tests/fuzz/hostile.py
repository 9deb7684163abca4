"""Inputs that nobody honest writes, and the property that all parsers share.

`MOUNTD_FUZZ_EXAMPLES` is how many inputs each test tries (the default keeps each below 5 s).
"""

import os
from collections.abc import Callable
from typing import TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

Answer = TypeVar("Answer")

fuzz = settings(
    max_examples=int(os.environ.get("MOUNTD_FUZZ_EXAMPLES", "100")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
# Where each input is a file.
few = settings(fuzz, max_examples=max(10, fuzz.max_examples // 4))

# What has broken parsers: of other scripts, too large, too deep, of other types, ends of line.
TEXTS = (
    *("", " ", "-1", "+1", "1_0", "0x10", "1e9", "nan", "Infinity", "9" * 19, "9" * 5000),
    *("\u00b2", "\u0665", "true", "null", "[]", "{}", "0001-01-01T00:00:00Z"),
    *("9999-12-31T23:59:59.999999+23:59", "Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 1 Jan 1 1:1:1"),
    *(
        "..",
        ".",
        "/",
        "//",
        "../../etc/passwd",
        "/etc/passwd",
        "a/../b",
        "a\0b",
        "\ud800",
        "\udcff",
    ),
    *('"a"', 'W/"a"', '"a\r\nX-Evil: 1"', '"\u65e5"', "a" * 5000, "\x1b[31m", "%00", "%2e%2e%2f"),
    *(".mountd", ".mountd-probe-x", "x.rclonelink", "\u241b2E", "\u241b~", "a\u241bfile"),
)
odd_texts = st.one_of(st.sampled_from(TEXTS), st.text(max_size=40))
odd_values = st.recursive(
    st.one_of(
        *(st.none(), st.booleans(), st.integers(), st.floats(), odd_texts),
        *(st.just(10**400), st.just(-(2**63)), st.just(2**64)),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(odd_texts, inner)),
    max_leaves=4,
)
_PIECES = (
    *(b"", b"\0", b"\xff", b"<", b">", b"&", b"&#0;", b"&#13;", b"&x;", b"]]>", b"<![CDATA[x]]>"),
    *(b"<!DOCTYPE a [<!ENTITY x 'y'>]>", b'"', b"{", b"[", b"[" * 3000, b'{"a":' * 3000, b"\\"),
    *(b"-", b"1e999", b"NaN", b"\\ud800", b"\n", b"\r\n", b"=", b"#", b"'''", b"\xef\xbb\xbf"),
    *(b"../", b"/" * 300, b"\xe2\x90\x9b", b"9" * 30, b"\x80\0\0\0", b"\xff" * 8),
)


@st.composite
def spoilt(draw: st.DrawFn, *whole: bytes) -> bytes:
    """One of `whole` with pieces cut out, doubled, overwritten and put in."""
    data = draw(st.sampled_from(whole))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.sampled_from((0, 1, 2, 8, 60))))
        piece = draw(st.one_of(st.sampled_from(_PIECES), st.binary(max_size=8)))
        kept = draw(st.sampled_from((b"", data[start:end], data[start:end] * 2)))
        data = data[:start] + piece + kept + data[end:]
    return data


def read_or_refused(read: Callable[[], Answer], *refusals: type[Exception]) -> Answer | None:
    """What was read; None where it was refused as documented. Anything else is a failure."""
    try:
        return read()
    except refusals:
        return None
