"""Real clients against the scriptable S3 server: boto3, obstore and rclone, odd keys in all."""

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import obstore
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError
from obstore.store import S3Store

from tests.servers.s3.launch import S3Server
from tests.servers.s3.seeding import synthetic_bytes
from tests.servers.test_s3_server import ODD_KEYS, store_of

pytestmark = pytest.mark.server

RCLONE = Path(sys.executable).parent / "rclone"
MEGABYTE = 2**20


@pytest.fixture
def boto(s3_server: S3Server) -> Iterator[Any]:
    s3_server.make_bucket("b")
    client = boto3.client(
        "s3",
        endpoint_url=s3_server.endpoint,
        region_name=s3_server.region,
        aws_access_key_id=s3_server.access_key,
        aws_secret_access_key=s3_server.secret_key,
        config=Config(retries={"total_max_attempts": 1}, read_timeout=20),
    )
    yield client
    client.close()


def rclone(server: S3Server, *arguments: str) -> str:
    return rclone_bytes(server, *arguments).decode()


def rclone_bytes(server: S3Server, *arguments: str) -> bytes:
    """Runs rclone with the remote `:s3:` configured from the environment; returns its output."""
    settings = {
        "RCLONE_CONFIG": os.devnull,
        "RCLONE_S3_PROVIDER": "Other",
        "RCLONE_S3_ENDPOINT": server.endpoint,
        "RCLONE_S3_ACCESS_KEY_ID": server.access_key,
        "RCLONE_S3_SECRET_ACCESS_KEY": server.secret_key,
        "RCLONE_S3_REGION": server.region,
        "RCLONE_RETRIES": "1",
        "RCLONE_LOW_LEVEL_RETRIES": "1",
    }
    done = subprocess.run(
        [str(RCLONE), *arguments],
        env=os.environ | settings,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_boto3_writes_reads_lists_and_deletes_every_odd_key(s3_server: S3Server, boto: Any) -> None:
    for key in ODD_KEYS:
        boto.put_object(Bucket="b", Key=key, Body=key.encode(), Metadata={"m": "1"})
    listed = boto.list_objects_v2(Bucket="b")["Contents"]
    assert [each["Key"] for each in listed] == sorted(ODD_KEYS)
    for each in listed:
        got = boto.get_object(Bucket="b", Key=each["Key"])
        assert got["Body"].read() == each["Key"].encode()
        assert (got["ETag"], got["ContentLength"]) == (each["ETag"], each["Size"])
        assert got["Metadata"] == {"m": "1"}
    boto.copy_object(Bucket="b", Key="copy", CopySource={"Bucket": "b", "Key": "per%20cent"})
    gone = boto.delete_objects(Bucket="b", Delete={"Objects": [{"Key": k} for k in ODD_KEYS]})
    assert [each["Key"] for each in gone["Deleted"]] == ODD_KEYS
    assert s3_server.keys("b") == ["copy"]


def test_boto3_pages_through_a_listing_with_common_prefixes(s3_server: S3Server, boto: Any) -> None:
    s3_server.seed("b", directories=30, files=3, directory_format="d {:02d}+/", size=1)
    s3_server.set_knobs(page_size=7)
    pages = list(boto.get_paginator("list_objects_v2").paginate(Bucket="b", Delimiter="/"))
    names = [each["Prefix"] for page in pages for each in page.get("CommonPrefixes", [])]
    assert names == [f"d {number:02d}+/" for number in range(30)]
    old = list(boto.get_paginator("list_objects").paginate(Bucket="b"))
    assert sum(len(page["Contents"]) for page in old) == 90


@pytest.mark.parametrize("algorithm", ["CRC32", "SHA1", "SHA256"])
def test_boto3_uploads_and_downloads_in_parts_with_checksums(
    s3_server: S3Server, boto: Any, tmp_path: Path, algorithm: str
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(random.Random(1).randbytes(13 * MEGABYTE))
    config = TransferConfig(multipart_threshold=6 * MEGABYTE, multipart_chunksize=5 * MEGABYTE)
    extra = {"ChecksumAlgorithm": algorithm}
    boto.upload_file(str(source), "b", "big", ExtraArgs=extra, Config=config)
    boto.download_file("b", "big", str(target), Config=config)
    assert target.read_bytes() == source.read_bytes()
    assert boto.head_object(Bucket="b", Key="big")["ETag"].endswith('-3"')


def test_boto3_sees_s3_codes_in_its_exceptions(s3_server: S3Server, boto: Any) -> None:
    s3_server.put("b", "k", b"x")
    for operation, arguments, code in [
        ("get_object", {"Bucket": "b", "Key": "no"}, "NoSuchKey"),
        ("get_object", {"Bucket": "no", "Key": "k"}, "NoSuchBucket"),
        ("get_object", {"Bucket": "b", "Key": "k", "IfMatch": "no"}, "PreconditionFailed"),
        ("get_object", {"Bucket": "b", "Key": "k", "Range": "bytes=9-"}, "InvalidRange"),
        ("put_object", {"Bucket": "b", "Key": "k", "IfNoneMatch": "*"}, "PreconditionFailed"),
    ]:
        with pytest.raises(ClientError) as caught:
            getattr(boto, operation)(**arguments)
        assert caught.value.response["Error"]["Code"] == code


def test_boto3_sends_a_body_after_100_continue_and_with_a_session_token(
    s3_server: S3Server,
) -> None:
    s3_server.make_bucket("b")
    s3_server.set_identities({"access_key": "A", "secret_key": "S", "session_token": "tok+/="})
    client = boto3.client(
        "s3",
        endpoint_url=s3_server.endpoint,
        region_name=s3_server.region,
        aws_access_key_id="A",
        aws_secret_access_key="S",
        aws_session_token="tok+/=",
    )
    client.put_object(Bucket="b", Key="k", Body=b"data")
    url = client.generate_presigned_url("get_object", Params={"Bucket": "b", "Key": "k"})
    assert "X-Amz-Security-Token" in url or "x-amz-security-token" in url
    client.close()
    assert s3_server.read("b", "k") == b"data"


# obstore


def sayable(keys: list[str]) -> list[str]:
    """The keys that obstore can say: no empty, `.` or `..` segment."""
    return [key for key in keys if not {"", ".", ".."} & set(key.split("/"))]


def test_obstore_writes_reads_lists_and_deletes_odd_keys(s3_server: S3Server) -> None:
    s3_server.make_bucket("b")
    store = store_of(s3_server)
    keys = sayable(ODD_KEYS)
    for key in keys:
        obstore.put(store, key, key.encode())
        assert bytes(obstore.get(store, key).bytes()) == key.encode()
        assert obstore.head(store, key)["size"] == len(key.encode())
    assert sorted(each["path"] for each in obstore.list(store).collect()) == sorted(keys)
    assert s3_server.keys("b") == sorted(keys)
    obstore.copy(store, "per%20cent", "copy of it")
    assert s3_server.read("b", "copy of it") == b"per%20cent"
    obstore.delete(store, keys)
    assert s3_server.keys("b") == ["copy of it"]


def test_obstore_uploads_in_parts_and_reads_ranges(s3_server: S3Server) -> None:
    s3_server.make_bucket("b")
    store = store_of(s3_server)
    data = random.Random(2).randbytes(17 * MEGABYTE)
    obstore.put(store, "big", data, use_multipart=True, chunk_size=5 * MEGABYTE)
    assert s3_server.read("b", "big") == data
    ranges = [0, 5 * MEGABYTE - 1, 16 * MEGABYTE]
    got = obstore.get_ranges(store, "big", starts=ranges, lengths=[1000] * 3)
    assert [bytes(each) for each in got] == [data[at : at + 1000] for at in ranges]
    meta = obstore.head(store, "big")
    answer = obstore.get(store, "big", options={"if_match": meta["e_tag"], "range": (10, 20)})
    assert bytes(answer.bytes()) == data[10:20]
    with pytest.raises(obstore.exceptions.PreconditionError):
        obstore.get(store, "big", options={"if_match": '"other"'})
    with pytest.raises(obstore.exceptions.AlreadyExistsError):
        obstore.put(store, "big", b"x", mode="create", use_multipart=False)
    obstore.put(store, "big", b"x", mode={"e_tag": meta["e_tag"]}, use_multipart=False)
    with pytest.raises(obstore.exceptions.PreconditionError):
        obstore.put(store, "big", b"y", mode={"e_tag": meta["e_tag"]}, use_multipart=False)


def test_obstore_may_leave_payloads_unsigned(s3_server: S3Server) -> None:
    s3_server.put("b", "k", b"x")
    store = S3Store(
        "b",
        endpoint=s3_server.endpoint,
        access_key_id=s3_server.access_key,
        secret_access_key=s3_server.secret_key,
        region=s3_server.region,
        unsigned_payload=True,
        client_options={"allow_http": True},
    )
    obstore.put(store, "unsigned", b"payload")
    assert s3_server.read("b", "unsigned") == b"payload"


# rclone


def test_rclone_copies_up_lists_and_copies_down(s3_server: S3Server, tmp_path: Path) -> None:
    s3_server.make_bucket("b")
    source, target = tmp_path / "source", tmp_path / "target"
    names = ["plain", "with space", "per%20cent", "plus+#?", "emoji-\U0001f600", "nfd-e\u0301"]
    for name in names:
        path = source / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    big = random.Random(3).randbytes(22 * MEGABYTE)
    (source / "big").write_bytes(big)
    os.utime(source / "big", (1_600_000_000, 1_600_000_000))
    flags = ["--s3-upload-cutoff", "6M", "--s3-chunk-size", "5M"]
    rclone(s3_server, "copy", *flags, str(source), ":s3:b/up")
    assert s3_server.keys("b") == sorted(["up/big", *(f"up/folder/{name}" for name in names)])
    assert s3_server.read("b", "up/big") == big
    assert len(s3_server.log(op="UploadPart")) == 5
    listed = rclone(s3_server, "lsf", "-R", "--files-only", ":s3:b/up").splitlines()
    assert sorted(listed) == sorted(["big", *(f"folder/{name}" for name in names)])
    rclone(s3_server, "copy", ":s3:b/up", str(target))
    assert (target / "big").read_bytes() == big
    assert (target / "big").stat().st_mtime == 1_600_000_000
    for name in names:
        assert (target / "folder" / name).read_bytes() == name.encode()
    assert rclone(s3_server, "check", str(source), ":s3:b/up") == ""


def test_rclone_reads_ranges_of_a_large_object_and_deletes(s3_server: S3Server) -> None:
    s3_server.seed("b", keys=["big"], size=10**13)
    offset = 9 * 10**12
    got = rclone_bytes(s3_server, "cat", "--offset", str(offset), "--count", "1000", ":s3:b/big")
    assert got == synthetic_bytes("big", offset, offset + 1000)
    s3_server.seed("b", prefix="tree/", directories=4, files=5, size=10)
    assert len(rclone(s3_server, "lsf", "-R", "--files-only", ":s3:b/tree").splitlines()) == 20
    rclone(s3_server, "deletefile", ":s3:b/big")
    rclone(s3_server, "purge", ":s3:b/tree")
    assert s3_server.keys("b") == []


def test_rclone_copies_on_the_server_side(s3_server: S3Server) -> None:
    s3_server.seed("b", keys=["big"], size=40 * MEGABYTE)
    flags = ["--s3-copy-cutoff", "6M", "--s3-chunk-size", "5M"]
    rclone(s3_server, "copyto", *flags, ":s3:b/big", ":s3:b/a copy+")
    assert s3_server.read("b", "a copy+") == synthetic_bytes("big", 0, 40 * MEGABYTE)
    assert s3_server.log(op="UploadPartCopy")
