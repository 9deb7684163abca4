"""Raw signed S3 requests for tests: botocore's signer around http.client, no client in between,
and what tests ask of the answers."""

import base64
import http.client
import re
from dataclasses import dataclass
from hashlib import md5, sha1, sha256
from urllib.parse import quote, urlencode
from zlib import crc32

import crc32c
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.servers.s3.launch import S3Server

TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers (lower-case names) and body of one response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def code(self) -> str:
        """The code of an error document, or ""."""
        found = re.search("<Code>(.*?)</Code>", self.text)
        return found.group(1) if found else ""

    def element(self, name: str) -> str:
        """The text of the first such element, without quotes."""
        found = re.search(f"<{name}>(.*?)</{name}>", self.text)
        assert found, f"no {name} in {self.text}"
        return found.group(1).replace("&quot;", "").replace("&#34;", "")


class RawClient:
    """One keep-alive connection to any S3 endpoint; keys go on the wire percent-encoded once."""

    def __init__(
        self,
        host: str,
        port: int,
        access_key: str,
        secret_key: str,
        session_token: str | None = None,
        region: str = "us-east-1",
    ) -> None:
        self.port = port
        self.access_key = access_key
        self._netloc = f"{host}:{port}"
        self._region = region
        self._credentials = Credentials(access_key, secret_key, session_token)
        self.http = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)

    def request(
        self,
        method: str,
        bucket: str = "",
        key: str = "",
        query: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        payload_hash: str | None = None,
    ) -> Answer:
        """Signs and sends; `payload_hash` overrides x-amz-content-sha256."""
        target = "/" + quote(bucket) + ("/" + quote(key, safe="/~") if key else "")
        if query:
            target += "?" + urlencode(query, quote_via=quote, safe="~")
        signed = self.sign(method, target, headers or {}, body, payload_hash)
        return self.send(method, target, signed, body)

    def sign(
        self,
        method: str,
        target: str,
        headers: dict[str, str],
        body: bytes,
        payload_hash: str | None = None,
    ) -> dict[str, str]:
        """The headers with everything that a signed request has."""
        digest = sha256(body).hexdigest() if payload_hash is None else payload_hash
        plain = AWSRequest(
            method=method,
            url=f"http://{self._netloc}{target}",
            headers={**headers, "X-Amz-Content-SHA256": digest},
            data=body,
        )
        _Signer(digest, self._credentials, self._region).add_auth(plain)
        return dict(plain.headers.items())

    def send(self, method: str, target: str, headers: dict[str, str], body: bytes = b"") -> Answer:
        """One request as it is given. After a failure the next one connects anew."""
        try:
            self.http.request(method, target, body or None, headers)
            answer = self.http.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException):
            self.http.close()
            raise
        names = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, names, data)

    def close(self) -> None:
        self.http.close()


class _Signer(S3SigV4Auth):
    def __init__(self, digest: str, credentials: Credentials, region: str) -> None:
        super().__init__(credentials, "s3", region)
        self._digest = digest

    def payload(self, request: AWSRequest) -> str:
        return self._digest


def raw_client(server: S3Server) -> RawClient:
    return RawClient(
        "127.0.0.1",
        server.port,
        server.access_key,
        server.secret_key,
        server.session_token,
        server.region,
    )


# Multipart uploads in the bucket that most tests use

BUCKET = "b"


def begin(raw: RawClient, key: str, headers: dict[str, str] | None = None) -> str:
    answer = raw.request("POST", BUCKET, key, query={"uploads": ""}, headers=headers)
    return answer.element("UploadId")


def send_part(raw: RawClient, key: str, upload: str, number: int, data: bytes) -> str:
    query = {"uploadId": upload, "partNumber": str(number)}
    answer = raw.request(
        "PUT", BUCKET, key, query=query, body=data, payload_hash="UNSIGNED-PAYLOAD"
    )
    assert answer.status == 200
    return answer.headers["etag"]


def complete(
    raw: RawClient,
    key: str,
    upload: str,
    parts: list[tuple[int, str]],
    headers: dict[str, str] | None = None,
) -> Answer:
    rows = "".join(
        f"<Part><ETag>{etag}</ETag><PartNumber>{number}</PartNumber></Part>"
        for number, etag in parts
    )
    body = f"<CompleteMultipartUpload>{rows}</CompleteMultipartUpload>".encode()
    return raw.request("POST", BUCKET, key, query={"uploadId": upload}, headers=headers, body=body)


def checksum_headers(data: bytes) -> dict[str, str]:
    """Every header that proves this body, by its name."""
    digests = {
        "Content-MD5": md5(data).digest(),
        "x-amz-checksum-crc32": crc32(data).to_bytes(4, "big"),
        "x-amz-checksum-crc32c": crc32c.crc32c(data).to_bytes(4, "big"),
        "x-amz-checksum-sha1": sha1(data).digest(),
        "x-amz-checksum-sha256": sha256(data).digest(),
    }
    return {name: base64.b64encode(digest).decode() for name, digest in digests.items()}
