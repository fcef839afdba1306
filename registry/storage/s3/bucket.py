"""One bucket, or a prefix of it: single requests, with errors mapped to those of this package."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from registry.errors import NotFoundError, RegistryError, UsageError
from registry.storage.confirming import keeps
from registry.storage.driver import ObjectInfo
from registry.storage.s3.connection import Connection, is_missing, malformed, no_bucket, store_error

_URL: Final = re.compile(
    r"s3://(?P<name>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?P<prefix>(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*)/?"
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """What the store lists about a part of an unfinished upload."""

    size: int
    tag: str
    modified: datetime

    @classmethod
    def of(cls, listed: dict[str, Any]) -> Part:
        """Parse a part of a listing."""
        return cls(int(listed["Size"]), str(listed["ETag"]), listed["LastModified"].astimezone(UTC))


class Bucket:
    """Requests about single objects. Keys are those of `registry.storage.driver`; the prefix is added here."""

    def __init__(self, url: str, public_url: str | None = None) -> None:
        match = _URL.fullmatch(url)
        if match is None:
            raise UsageError(
                "The URL of an S3 store is s3://BUCKET or s3://BUCKET/PREFIX (lower-case letters, digits, dots and "
                "hyphens in the bucket's name); its address and credentials are given by AWS_ENDPOINT_URL, "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            )
        self.name = match["name"]
        self._prefix = match["prefix"].strip("/") + "/" if match["prefix"] else ""
        self.place = url.rstrip("/")
        self.connection = Connection(self.name, public_url)
        self.client = self.connection.client
        self.copies_parts = True
        """Whether the store can copy a range of an object; set to False once it failed to."""

    def at(self, key: str) -> dict[str, str]:
        """The request arguments that name an object."""
        return {"Bucket": self.name, "Key": self._prefix + key}

    @contextmanager
    def told(self, key: str | None = None, *, writing: bool = False) -> Iterator[None]:
        """Map exceptions of botocore in the block to errors of this package.

        urllib3's own errors are included: botocore lets them through if the body of an error response breaks off. A
        missing or malformed field of an answer raises a builtin exception, in botocore's parser or in the block.
        """
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError
        from urllib3.exceptions import HTTPError

        try:
            yield
        except (BotoCoreError, ClientError, HTTPError) as error:
            raise store_error(error, self.place, self.connection.endpoint, key, writing=writing) from error
        except (ResponseParserError, LookupError, ValueError, TypeError, AttributeError) as error:
            raise malformed(error, self.place, self.connection.endpoint) from error

    def keeps(self) -> AbstractContextManager[None]:
        """For objects that the store has acknowledged: see `registry.storage.confirming.keeps`."""
        return keeps(self.place)

    def ping(self) -> None:
        """Raise if the bucket doesn't exist, can't be used, or doesn't answer within seconds."""
        self._require(self.connection.impatient)

    def _require(self, client: Any) -> None:
        with self.told():
            try:
                client.head_bucket(Bucket=self.name)
            except Exception as error:
                if is_missing(error):
                    raise no_bucket(self.place, self.connection.endpoint) from error
                raise

    def find(self, key: str) -> int | None:
        """Bytes of an object, or None without the object or the bucket: the store's answer is the same."""
        try:
            with self.told(key):
                return int(self.client.head_object(**self.at(key))["ContentLength"])
        except NotFoundError:
            return None

    def size(self, key: str) -> int | None:
        """Bytes of an object, or None if it does not exist. A missing bucket is an error."""
        size = self.find(key)
        if size is None:
            self._require(self.client)
        return size

    def tags_are_digests(self, key: str) -> bool:
        """Whether the ETags of the parts of an object are the MD5 of their bytes: not with keys of a key service."""
        with self.told(key):
            answer = self.client.head_object(**self.at(key))
            return answer.get("ServerSideEncryption", "AES256") == "AES256" and "SSECustomerAlgorithm" not in answer

    def put(self, key: str, body: Any, length: int) -> None:
        """Write an object by one request."""
        with self.keeps(), self.told(key, writing=True):
            self.client.put_object(**self.at(key), Body=body, ContentLength=length)

    def delete(self, key: str) -> None:
        """Remove an object. Idempotent, also if the store answers that it is missing."""
        with suppress(NotFoundError), self.told(key, writing=True):
            self.client.delete_object(**self.at(key))

    def tidy(self, key: str, upload: str | None = None) -> None:
        """Remove leftovers of unfinished work. A failure is only logged: the collector removes them later."""
        try:
            if upload is not None:
                self.abort(key, upload)
            self.delete(key)
        except RegistryError as error:
            log.warning("the object %s in %s was not removed and is left to gc: %s", key, self.place, error)

    def begin(self, key: str) -> str:
        """Begin a multipart upload; returns its id."""
        with self.keeps(), self.told(key, writing=True):
            return str(self.client.create_multipart_upload(**self.at(key))["UploadId"])

    def put_part(self, key: str, upload: str, number: int, body: Any, length: int) -> str:
        """Write a part; returns its ETag, which `join` needs."""
        with self.told(key, writing=True):
            answer = self.client.upload_part(
                **self.at(key), UploadId=upload, PartNumber=number, Body=body, ContentLength=length
            )
            return str(answer["ETag"])

    def join(self, key: str, upload: str, tags: dict[int, str], size: int) -> None:
        """Complete a multipart upload to an object of ``size`` bytes, under a key that nothing else is written to.

        Raises `NotFoundError` if the upload is unknown, unless it was completed already: by another call, or by this
        one, whose request is retried if the answer was lost.
        """
        parts = [{"PartNumber": number, "ETag": tag} for number, tag in sorted(tags.items())]
        with self.told(key, writing=True):
            try:
                self.connection.patient.complete_multipart_upload(
                    **self.at(key), UploadId=upload, MultipartUpload={"Parts": parts}
                )
            except Exception as error:
                if not is_missing(error) or self.find(key) != size:
                    raise

    def abort(self, key: str, upload: str) -> None:
        """Remove a multipart upload and its parts. Idempotent."""
        with self.told(key, writing=True):
            try:
                self.client.abort_multipart_upload(**self.at(key), UploadId=upload)
            except Exception as error:
                if not is_missing(error):
                    raise

    def parts(self, key: str, upload: str) -> dict[int, Part] | None:
        """The parts received, by number, or None if the upload does not exist."""
        try:
            with self.told(key):
                pages = self.client.get_paginator("list_parts").paginate(**self.at(key), UploadId=upload)
                found = (part for page in pages for part in _listed(page, "Parts", "NextPartNumberMarker"))
                return {int(part["PartNumber"]): Part.of(part) for part in found}
        except NotFoundError:
            return None

    def objects(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose key starts with ``prefix``, in the store's order."""
        with self.told():
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.name, Prefix=self._prefix + prefix
            )
            for page in pages:
                for one in _listed(page, "Contents", "NextContinuationToken"):
                    key = self._key(one["Key"], prefix)
                    yield ObjectInfo(key, int(one["Size"]), one["LastModified"].astimezone(UTC))

    def uploads(self, prefix: str) -> Iterator[tuple[str, str, datetime]]:
        """Unfinished multipart uploads: key, id, start time."""
        with suppress(NotFoundError), self.told():  # rclone answers so if a bucket has none
            pages = self.client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self.name, Prefix=self._prefix + prefix
            )
            for page in pages:
                for one in _listed(page, "Uploads", "NextKeyMarker"):
                    yield self._key(one["Key"], prefix), one["UploadId"], one["Initiated"].astimezone(UTC)

    def _key(self, listed: str, prefix: str) -> str:
        """A listed key without the bucket's prefix."""
        if not listed.startswith(self._prefix + prefix):
            raise ValueError("a key that was not asked for")
        return listed[len(self._prefix) :]


def _listed(page: dict[str, Any], name: str, following: str) -> Any:
    """The items of a page of a listing. An empty or truncated page would pass for a shorter listing."""
    if not page.keys() - {"ResponseMetadata", "RequestCharged"}:
        raise ValueError("a list that says nothing")
    if page.get("IsTruncated") and not page.get(following):
        raise ValueError("a list without its next page")
    return page.get(name, ())
