"""AWS Signature Version 4 as S3 checks it: header and presigned query, and signed chunks.

Source: "Signature Calculations for the Authorization Header" and "Authenticating Requests: Using
Query Parameters" of the S3 API reference. Only the signing key is cached (per key, day, region);
one check costs about 15 us.
"""

import hmac
import re
import time
from calendar import timegm
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from urllib.parse import quote, unquote_plus, unquote_to_bytes

from tests.servers.s3.message import Request, S3Error

EMPTY_SHA256 = sha256(b"").hexdigest()
UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
MAX_SKEW_S = 15 * 60

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256\s+Credential=([^,\s]+),\s*SignedHeaders=([^,\s]+),\s*Signature=([0-9a-f]+)"
)
_UNRESERVED_PATH = re.compile(r"[A-Za-z0-9\-._~/]*")


@dataclass(frozen=True, slots=True)
class Credentials:
    """One identity; with a session token the requests must carry exactly that token."""

    access_key: str
    secret_key: str
    session_token: str | None = None


@dataclass(frozen=True, slots=True)
class Signature:
    """What a request claims, taken from its header or its query."""

    access_key: str
    date: str
    region: str
    scope: str
    signed_headers: str
    signature: str
    timestamp: str
    presigned: bool


@dataclass(frozen=True, slots=True)
class ChunkSigning:
    """Checks the signatures of a STREAMING-AWS4-HMAC-SHA256-PAYLOAD body, each from the last."""

    key: bytes
    timestamp: str
    scope: str
    seed: str

    def chunk(self, previous: str, chunk_sha256: str) -> str:
        text = (
            f"AWS4-HMAC-SHA256-PAYLOAD\n{self.timestamp}\n{self.scope}\n{previous}\n"
            f"{EMPTY_SHA256}\n{chunk_sha256}"
        )
        return hmac.digest(self.key, text.encode(), "sha256").hex()

    def trailer(self, previous: str, trailer_sha256: str) -> str:
        text = (
            f"AWS4-HMAC-SHA256-TRAILER\n{self.timestamp}\n{self.scope}\n{previous}\n"
            f"{trailer_sha256}"
        )
        return hmac.digest(self.key, text.encode(), "sha256").hex()


class Verifier:
    """Knows the identities. `region` "" accepts any region."""

    def __init__(self, credentials: Credentials, region: str) -> None:
        self.region = region
        self._identities = {credentials.access_key: credentials}
        self._keys: dict[tuple[str, str, str], bytes] = {}

    def set_identities(self, identities: list[Credentials]) -> None:
        self._identities = {each.access_key: each for each in identities}
        self._keys.clear()

    def check(self, request: Request, *, allow_anonymous: bool, token_expired: bool) -> None:
        """Raises S3Error unless the request is signed by a known identity (or may be anonymous)."""
        claim = _claim(request)
        if claim is None:
            if allow_anonymous:
                return
            raise S3Error(403, "AccessDenied", "Access Denied")
        identity = self._identity(claim, request, token_expired)
        if self.region and claim.region != self.region:
            raise S3Error(
                400,
                "AuthorizationHeaderMalformed",
                f"The authorization header is malformed; the region '{claim.region}' is wrong; "
                f"expecting '{self.region}'",
                {"Region": self.region},
            )
        _check_time(claim, request)
        _check_all_signed(claim, request)
        text = _string_to_sign(claim, request)
        key = self._key(identity, claim)
        if hmac.digest(key, text.encode(), "sha256").hex() != claim.signature:
            raise S3Error(
                403,
                "SignatureDoesNotMatch",
                "The request signature we calculated does not match the signature you provided. "
                "Check your key and signing method.",
                {"StringToSign": text, "AWSAccessKeyId": claim.access_key},
            )
        request.signature = ChunkSigning(key, claim.timestamp, claim.scope, claim.signature)

    def _identity(self, claim: Signature, request: Request, token_expired: bool) -> Credentials:
        identity = self._identities.get(claim.access_key)
        if identity is None:
            raise S3Error(
                403,
                "InvalidAccessKeyId",
                "The AWS Access Key Id you provided does not exist in our records.",
                {"AWSAccessKeyId": claim.access_key},
            )
        if token_expired:
            raise S3Error(400, "ExpiredToken", "The provided token has expired.")
        source = request.query if claim.presigned else request.headers
        name = "X-Amz-Security-Token" if claim.presigned else "x-amz-security-token"
        if source.get(name) != identity.session_token:
            raise S3Error(
                400, "InvalidToken", "The provided token is malformed or otherwise invalid."
            )
        return identity

    def _key(self, identity: Credentials, claim: Signature) -> bytes:
        slot = (identity.access_key, claim.date, claim.region)
        key = self._keys.get(slot)
        if key is None:
            key = ("AWS4" + identity.secret_key).encode()
            for part in (claim.date, claim.region, "s3", "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._keys[slot] = key
        return key


def _claim(request: Request) -> Signature | None:
    header = request.headers.get("authorization")
    if header is not None:
        match = _AUTHORIZATION.match(header)
        if match is None:
            raise S3Error(
                400,
                "InvalidRequest",
                "The authorization mechanism you have provided is not supported. "
                "Please use AWS4-HMAC-SHA256.",
            )
        timestamp = request.headers.get("x-amz-date", "")
        credential, signed_headers, signature = match.groups()
        return _claim_of(credential, signed_headers, signature, timestamp, presigned=False)
    query = request.query
    if "X-Amz-Signature" in query:
        return _claim_of(
            query.get("X-Amz-Credential", ""),
            query.get("X-Amz-SignedHeaders", ""),
            query["X-Amz-Signature"],
            query.get("X-Amz-Date", ""),
            presigned=True,
        )
    return None


def _claim_of(
    credential: str, signed_headers: str, signature: str, timestamp: str, *, presigned: bool
) -> Signature:
    parts = credential.rsplit("/", 4)
    if len(parts) != 5 or parts[3] != "s3" or parts[4] != "aws4_request":
        raise S3Error(400, "AuthorizationHeaderMalformed", "The authorization header is malformed.")
    access_key, date, region = parts[:3]
    scope = credential[len(access_key) + 1 :]
    return Signature(
        access_key, date, region, scope, signed_headers, signature, timestamp, presigned
    )


@lru_cache(maxsize=1024)
def _epoch_s(timestamp: str) -> int:
    # Cached: strptime costs 6 us, and a busy client signs thousands of requests per second.
    return timegm(time.strptime(timestamp, "%Y%m%dT%H%M%SZ"))


def _check_time(claim: Signature, request: Request) -> None:
    try:
        signed_at = _epoch_s(claim.timestamp)
    except ValueError as error:
        raise S3Error(
            403, "AccessDenied", "AWS authentication requires a valid Date or x-amz-date header"
        ) from error
    now = time.time()
    if claim.presigned:
        expires_s = request.query.get("X-Amz-Expires", "")
        if not expires_s.isdecimal() or not 1 <= int(expires_s) <= 604800:
            raise S3Error(
                400, "AuthorizationQueryParametersError", "X-Amz-Expires should be a number"
            )
        if now > signed_at + int(expires_s):
            raise S3Error(403, "AccessDenied", "Request has expired")
        late = now < signed_at - MAX_SKEW_S
    else:
        late = abs(now - signed_at) > MAX_SKEW_S
    if late or not claim.timestamp.startswith(claim.date):
        raise S3Error(
            403,
            "RequestTimeTooSkewed",
            "The difference between the request time and the current time is too large.",
        )


def _check_all_signed(claim: Signature, request: Request) -> None:
    signed = claim.signed_headers.split(";")
    if "host" not in signed:
        raise S3Error(403, "AccessDenied", "The host header must be signed")
    for name in request.headers:
        if name.startswith("x-amz-") and name not in signed:
            raise S3Error(
                403,
                "AccessDenied",
                "There were headers present in the request which were not signed",
                {"HeadersNotSigned": name},
            )


def _string_to_sign(claim: Signature, request: Request) -> str:
    headers = request.headers
    if claim.presigned:
        payload = headers.get("x-amz-content-sha256", UNSIGNED_PAYLOAD)
    else:
        payload = headers.get("x-amz-content-sha256", "")
        if not payload:
            raise S3Error(
                400,
                "InvalidRequest",
                "Missing required header for this request: x-amz-content-sha256",
            )
    lines = [request.method, canonical_path(request.raw_path), _canonical_query(claim, request)]
    for name in claim.signed_headers.split(";"):
        lines.append(f"{name}:{' '.join(headers.get(name, '').split())}")
    lines += ["", claim.signed_headers, payload]
    digest = sha256("\n".join(lines).encode("latin-1")).hexdigest()
    return f"AWS4-HMAC-SHA256\n{claim.timestamp}\n{claim.scope}\n{digest}"


def canonical_path(raw_path: str) -> str:
    """The path in the one spelling that gets signed: every byte but the unreserved ones as %XX."""
    if _UNRESERVED_PATH.fullmatch(raw_path):
        return raw_path
    return quote(unquote_to_bytes(raw_path.encode("latin-1")), safe="/-_.~")


def _canonical_query(claim: Signature, request: Request) -> str:
    if not request.raw_query:
        return ""
    pairs: list[tuple[str, str]] = []
    for pair in request.raw_query.split("&"):
        name, _, value = pair.partition("=")
        if pair and not (claim.presigned and name == "X-Amz-Signature"):
            pairs.append((_canonical_part(name), _canonical_part(value)))
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


def _canonical_part(raw: str) -> str:
    return quote(unquote_plus(raw), safe="-_.~")
