"""`mountd copy --verify` with whatever checksums the remotes keep, and what can't be compared."""

import base64
import hashlib
import zlib
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import anycrc
import boto3
import crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountd.cli import main
from mountd.remotes.part_digests import is_of_parts, made_by, named
from mountd.remotes.s3_checksums import checksums_in_answer
from mountd.transfer.checksums import SUMS, added_up, difference, one_of
from tests.servers.nextcloud.launch import NextcloudServer
from tests.servers.s3.launch import S3Server

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("own_places")]

DATA = bytes(range(256)) * 40
SUM_OF = {
    "crc64nvme": anycrc.Model("CRC64-NVME").calc(DATA).to_bytes(8, "big"),
    "crc32": zlib.crc32(DATA).to_bytes(4, "big"),
    "crc32c": int(crc32c.crc32c(DATA)).to_bytes(4, "big"),
    "sha1": hashlib.sha1(DATA, usedforsecurity=False).digest(),
    "sha256": hashlib.sha256(DATA).digest(),
}


def copy(*arguments: object) -> int:
    return main(["copy", *map(str, arguments)])


def put(server: S3Server, key: str, name: str, digest: bytes) -> None:
    """An object as one that came in parts: its ETag says nothing of its bytes."""
    headers = {f"x-amz-checksum-{name}": base64.b64encode(digest).decode()}
    server.put("b", key, DATA, etag=f"{key}-2", headers=headers)


@pytest.mark.parametrize("name", SUM_OF)
def test_a_checksum_that_s3_keeps_is_compared(
    s3: S3Server, tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    put(s3, "p-a", name, SUM_OF[name])
    put(s3, "p-lie", name, bytes(len(SUM_OF[name])))
    out = tmp_path / "out"
    assert copy("s3://b", out, "--verify") == 1
    assert [path.name for path in out.iterdir()] == ["p-a"]
    said = capfd.readouterr()
    assert f"p-lie: its {name.upper()} is {SUM_OF[name].hex()}" in said.err
    assert "not compared" not in said.out
    # What is there already is compared, too.
    (out / "p-a").write_bytes(DATA[::-1])
    s3.delete("b", "p-lie")
    assert copy("s3://b", out, "--verify") == 0
    assert (out / "p-a").read_bytes() == DATA
    s3.clear_log()
    assert copy("s3://b", out, "--verify") == 0
    assert s3.log(op="GetObject") == []


def test_what_no_remote_tells_a_checksum_of_is_counted(
    s3: S3Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    s3.put("b", "a", DATA, etag="parts-2")
    for _ in range(2):
        assert copy("s3://b", tmp_path / "out", "--verify") == 0
        assert "1 not compared: the remote tells no checksum" in capfd.readouterr().out


def test_a_key_that_must_not_be_decrypted_is_compared_by_what_is_left(
    s3: S3Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    s3.put("b", "a", DATA, etag="kms-2")
    s3.faults({"op": "HeadObject", "status": 403, "times": 1})
    assert copy("s3://b", tmp_path / "out", "--verify") == 0
    assert "1 not compared" in capfd.readouterr().out


def test_a_sum_of_sums_is_not_taken_for_one_of_the_bytes() -> None:
    def found(**headers: str) -> dict[str, str]:
        told = {f"x-amz-checksum-{name}": value for name, value in headers.items()}
        return checksums_in_answer(lambda name: told.get(name, ""))

    sound = base64.b64encode(b"abcd").decode()
    assert found(crc32c=sound) == {"crc32c": b"abcd".hex()}
    assert found(crc32c=sound, type="COMPOSITE") == {}
    for odd in ("AAAA-2", "", "!!", "AA=="):
        assert found(sha256=odd) == {}


@pytest.fixture
def boto(s3: S3Server) -> Iterator[Any]:
    client = boto3.client(
        "s3",
        endpoint_url=s3.endpoint,
        region_name=s3.region,
        aws_access_key_id=s3.access_key,
        aws_secret_access_key=s3.secret_key,
    )
    yield client
    client.close()


def digest_of(name: str, data: bytes) -> bytes:
    if name.startswith("SHA"):
        return hashlib.new(name, data, usedforsecurity=False).digest()
    crc = zlib.crc32(data) if name == "CRC32" else int(crc32c.crc32c(data))
    return crc.to_bytes(4, "big")


def upload_in_parts(boto: Any, key: str, sizes: Sequence[int], name: str) -> bytes:
    """As an AWS client with that checksum does; the object."""
    given = {"Bucket": "b", "Key": key}
    upload = boto.create_multipart_upload(**given, ChecksumAlgorithm=name)["UploadId"]
    parts, whole = [], b""
    for number, size in enumerate(sizes, 1):
        data = bytes([number]) * size
        told = {f"Checksum{name}": base64.b64encode(digest_of(name, data)).decode()}
        part = boto.upload_part(**given, UploadId=upload, PartNumber=number, Body=data, **told)
        parts.append({"PartNumber": number, "ETag": part["ETag"], **told})
        whole += data
    boto.complete_multipart_upload(**given, UploadId=upload, MultipartUpload={"Parts": parts})
    return whole


@pytest.mark.parametrize("name", ["CRC32", "CRC32C"])
def test_the_crcs_of_parts_are_put_together_to_that_of_all_bytes(
    s3: S3Server, boto: Any, tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    s3.set_knobs(small_parts=True, page_size=2)
    whole = upload_in_parts(boto, "big", (70_000, 5, 40_000, 1), name)
    out = tmp_path / "out"
    assert copy("s3://b", out, "--verify") == 0
    assert (out / "big").read_bytes() == whole
    assert "not compared" not in capfd.readouterr().out
    assert len(s3.log(op="GetObjectAttributes")) == 2
    assert copy("s3://b", out, "--verify") == 0  # what is here already, too
    assert "0 files to copy" in capfd.readouterr().out
    s3.faults({"op": "GetObject", "flip_at": 70_002})
    assert copy("s3://b", tmp_path / "other", "--verify") == 1
    assert f"its {name} is" in capfd.readouterr().err


@pytest.mark.parametrize("sizes", [(70_000, 70_000, 5), (70_000, 5, 40_000, 0)])
@pytest.mark.parametrize("name", ["SHA1", "SHA256"])
def test_a_sha_of_the_parts_shas_is_compared_in_the_same_parts(
    s3: S3Server,
    boto: Any,
    tmp_path: Path,
    name: str,
    sizes: Sequence[int],
    capfd: pytest.CaptureFixture[str],
) -> None:
    s3.set_knobs(small_parts=True, page_size=2)
    whole = upload_in_parts(boto, "big", sizes, name)
    out = tmp_path / "out"
    assert copy("s3://b", out, "--verify") == 0
    assert (out / "big").read_bytes() == whole
    assert "not compared" not in capfd.readouterr().out
    s3.clear_log()
    assert copy("s3://b", out, "--verify") == 0
    assert "0 files to copy" in capfd.readouterr().out
    assert s3.log(op="GetObject") == []
    with (out / "big").open("r+b") as file:
        file.seek(70_002)
        file.write(b"x")
    assert copy("s3://b", out, "--verify") == 0  # what is here and is not that, is fetched again
    assert (out / "big").read_bytes() == whole
    s3.faults({"op": "GetObject", "flip_at": 70_002})
    assert copy("s3://b", tmp_path / "other", "--verify") == 1
    assert f"its {name} of parts is" in capfd.readouterr().err


def test_parts_that_nobody_may_ask_for_are_counted(
    s3: S3Server, boto: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    s3.set_knobs(small_parts=True)
    upload_in_parts(boto, "crc", (70_000, 5), "CRC32C")
    upload_in_parts(boto, "sha", (70_000, 5), "SHA256")
    s3.faults({"op": "GetObjectAttributes", "status": 403})
    assert copy("s3://b", tmp_path / "out", "--verify") == 0
    assert "2 not compared" in capfd.readouterr().out


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6), piece=st.integers(1, 20))
def test_a_sum_of_parts_is_that_of_their_sums_however_the_bytes_come(
    sizes: list[int], piece: int
) -> None:
    data = bytes(range(sum(sizes)))
    ends = list(accumulate(sizes))
    parts = [data[end - size : end] for size, end in zip(sizes, ends, strict=True)]
    expected = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts))
    name = named("sha256", sizes)
    digest = made_by(name, len(data))
    for start in range(0, len(data), piece):
        digest.update(data[start : start + piece])
    assert is_of_parts(name)
    assert digest.hexdigest() == expected.hexdigest()


def test_sums_are_added_up_and_compared_by_what_both_tell(tmp_path: Path) -> None:
    with (tmp_path / "f").open("w+b") as file:
        file.write(DATA + b"more")
        file.flush()
        found = added_up(file.fileno(), len(DATA), SUMS)
    assert found == {name: value.hex() for name, value in SUM_OF.items()} | {
        "md5": hashlib.md5(DATA, usedforsecurity=False).hexdigest()
    }
    assert difference(found, {"sha1": found["sha1"]}) == ""
    assert difference(found, {}) is None
    assert "CRC32" in (difference(found, {"crc32": "0" * 8, "sha1": found["sha1"]}) or "")
    assert one_of(found) == "crc64nvme"
    assert one_of({}) == ""


@pytest.mark.parametrize("name", ["MD5", "SHA1", "SHA256"])
def test_the_sum_that_was_told_a_nextcloud_is_compared(
    nextcloud_server: NextcloudServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("MOUNTD_PASSWORD", nextcloud_server.password)
    url = f"nextcloud://{nextcloud_server.user}@cloud/d"
    options = ["-o", f"endpoint={nextcloud_server.url}", "--verify"]
    big = DATA * 300  # in ranges: no single answer has all of its bytes
    total = hashlib.new(name.lower(), big, usedforsecurity=False).hexdigest()
    nextcloud_server.put("d/good", big, checksum=f"{name}:{total}")
    nextcloud_server.put("d/lie", big, checksum=f"{name}:{'0' * len(total)}")
    assert copy(url, tmp_path / "out", *options) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good"]
