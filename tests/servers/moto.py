"""moto's S3: semantics and small objects (10,000 puts take 156 s: never a benchmark).

Authentication is checked after the first four actions, which set up the one user.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

from tests.servers.process import free_port, running_process

REGION = "us-east-1"
_FULL_ACCESS = (
    '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}'
)


@dataclass(frozen=True, slots=True)
class Moto:
    """A running moto. `bucket` exists; `client` is boto3's, allowed to do everything."""

    endpoint: str
    access_key_id: str
    secret_access_key: str
    client: Any
    bucket: str = "contract"


@contextmanager
def running_moto(directory: Path) -> Iterator[Moto]:
    """moto_server with checked signatures; its log goes to `directory`."""
    port = free_port()
    script = Path(__file__).with_name("moto_server.py")
    command = [sys.executable, "-P", str(script), "-H", "127.0.0.1", "-p", str(port)]
    env = os.environ | {"INITIAL_NO_AUTH_ACTION_COUNT": "4", "AWS_DEFAULT_REGION": REGION}
    with running_process(command, port, directory / "moto.log", env):
        endpoint = f"http://127.0.0.1:{port}"
        key, secret = _make_user(endpoint)
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name=REGION,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
        )
        moto = Moto(endpoint, key, secret, client)
        client.create_bucket(Bucket=moto.bucket)
        try:
            yield moto
        finally:
            client.close()


def _make_user(endpoint: str) -> tuple[str, str]:
    """The three calls that are not checked; create_bucket is the fourth."""
    iam = boto3.client(
        "iam",
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id="setup",
        aws_secret_access_key="setup",
    )
    try:
        iam.create_user(UserName="tester")
        iam.put_user_policy(UserName="tester", PolicyName="all", PolicyDocument=_FULL_ACCESS)
        made = iam.create_access_key(UserName="tester")["AccessKey"]
    finally:
        iam.close()
    return made["AccessKeyId"], made["SecretAccessKey"]
