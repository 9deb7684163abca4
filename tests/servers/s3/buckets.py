"""Operations on buckets."""

import re

from tests.servers.s3.message import Request, Response, S3Error
from tests.servers.s3.service import Service
from tests.servers.s3.store import Bucket
from tests.servers.s3.xmltext import document, iso_date, tag

_BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9.\-]{1,61}[a-z0-9]")
DEFAULT_REGION = "us-east-1"


def list_buckets(service: Service, request: Request) -> Response:
    rows = "".join(
        f"<Bucket>{tag('Name', name)}"
        f"<CreationDate>{iso_date(int(bucket.created_s))}</CreationDate></Bucket>"
        for name, bucket in sorted(service.store.buckets.items())
    )
    owner = "<Owner><ID>owner</ID><DisplayName>owner</DisplayName></Owner>"
    return document("ListAllMyBucketsResult", f"{owner}<Buckets>{rows}</Buckets>")


def create_bucket(service: Service, request: Request) -> Response:
    name = request.bucket
    if _BUCKET_NAME.fullmatch(name) is None or ".." in name:
        raise S3Error(400, "InvalidBucketName", "The specified bucket is not valid.")
    if name in service.store.buckets:
        # In us-east-1, and only there, creating one's own bucket again is no error.
        if service.region not in ("", DEFAULT_REGION):
            raise S3Error(
                409, "BucketAlreadyOwnedByYou", "You already own it.", {"BucketName": name}
            )
    else:
        service.store.buckets[name] = Bucket(name)
    return Response(200, {"Location": f"/{name}"})


def delete_bucket(service: Service, request: Request) -> Response:
    bucket = service.store.require(request.bucket)
    if len(bucket):
        raise S3Error(409, "BucketNotEmpty", "The bucket you tried to delete is not empty")
    del service.store.buckets[request.bucket]
    return Response(204)


def head_bucket(service: Service, request: Request) -> Response:
    service.store.require(request.bucket)
    headers = {"x-amz-bucket-region": service.region or DEFAULT_REGION}
    return Response(200, headers | {"Content-Type": "application/xml"})


def bucket_location(service: Service, request: Request) -> Response:
    service.store.require(request.bucket)
    # S3 answers an empty element for us-east-1.
    inner = "" if service.region in ("", DEFAULT_REGION) else service.region
    return document("LocationConstraint", inner)


def bucket_versioning(service: Service, request: Request) -> Response:
    service.store.require(request.bucket)
    return document("VersioningConfiguration", "")
