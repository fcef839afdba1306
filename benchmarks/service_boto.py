"""boto3's own transfer with CRT, and the single steps of an upload; in the environment of `benchmarks/peers.txt`.

python -m benchmarks.service_boto upload|upload-parts|download|copy|read BUCKET KEY [FILE]

It prints a JSON line with the seconds.
"""

# mypy: ignore-errors
from __future__ import annotations

import hashlib
import json
import sys
import time

import boto3
from botocore.session import Session
from s3transfer.crt import (
    BotocoreCRTCredentialsWrapper,
    BotocoreCRTRequestSerializer,
    CRTTransferManager,
    create_s3_crt_client,
)

STEP = 1 << 20
PART = 8 << 20


def crt(client, part=PART):
    """The transfer manager that boto3 makes of its preferred client `crt`, but without TLS, which boto3 insists on."""
    session = Session()
    where = {"region_name": client.meta.region_name, "endpoint_url": client.meta.endpoint_url}
    provider = BotocoreCRTCredentialsWrapper(session.get_credentials()).to_crt_credentials_provider()
    made = create_s3_crt_client(
        client.meta.region_name, crt_credentials_provider=provider, use_ssl=False, part_size=part
    )
    return CRTTransferManager(made, BotocoreCRTRequestSerializer(session, where))


def upload(client, bucket, key, file):
    """In one request: CRT does not understand how `rclone` begins an upload in parts."""
    crt(client, part=1 << 30).upload(file, bucket, key).result()


def upload_parts(client, bucket, key, file):
    """In parts, by boto3's other transfer manager."""
    client.upload_file(file, bucket, key)


def download(client, bucket, key, file):
    """In ranges, several at once."""
    crt(client).download(bucket, key, file).result()


def copy(client, bucket, key, to):
    """What the store needs to copy an object in one request."""
    client.copy_object(Bucket=bucket, Key=to, CopySource={"Bucket": bucket, "Key": key})


def read(client, bucket, key):
    """Read an object in one request, and hash it."""
    body, digest = client.get_object(Bucket=bucket, Key=key)["Body"], hashlib.sha256()
    while chunk := body.read(STEP):
        digest.update(chunk)


def main(action, *words):
    client = boto3.client("s3")
    client.list_buckets()  # the first request is slow
    began, cpu = time.perf_counter(), time.process_time()
    WORK[action](client, *words)
    print(json.dumps({"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}))


WORK = {"upload": upload, "upload-parts": upload_parts, "download": download, "copy": copy, "read": read}

if __name__ == "__main__":
    main(*sys.argv[1:])
