"""Clients for an S3 store, by the standard AWS settings, and its answers as errors of this package.

No message contains a credential or a signed URL.
"""

from __future__ import annotations

import os
import threading
from typing import Any, Final
from urllib.parse import urlsplit

from registry.errors import NotAllowedError, NotFoundError, RegistryError, UnavailableError, UsageError

_CREDENTIALS: Final = frozenset(
    {
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidToken",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
    }
)
_FULL: Final = frozenset(
    {"InsufficientStorage", "QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded"}
)
_CHANGED: Final = frozenset({"BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"})


def code_of(error: Exception) -> str:
    """The error code of a store's answer, or an empty string if the error is another one."""
    answer: dict[str, Any] = getattr(error, "response", None) or {}
    return str(answer.get("Error", {}).get("Code", ""))


def status_of(error: Exception) -> int:
    """The HTTP status of a store's answer; 0 if none came."""
    answer: dict[str, Any] = getattr(error, "response", None) or {}
    return int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_missing(error: Exception) -> bool:
    """Whether the store said that an object or an upload doesn't exist."""
    return status_of(error) == 404 and code_of(error) != "NoSuchBucket"


def store_error(error: Exception, place: str, endpoint: str, key: str | None, *, writing: bool) -> RegistryError:
    """The error for what botocore raised while working on the object ``key`` in ``place``."""
    code, status = code_of(error), status_of(error)
    if status == 0:
        return _unanswered(error, place, endpoint)
    if code == "NoSuchBucket":
        return no_bucket(place, endpoint)
    if status == 404:
        return NotFoundError(f"There is no object {key} in {place}.")
    if status in {401, 403} or code in _CREDENTIALS:
        return _forbidden(place, endpoint, code, writing=writing)
    if code in _FULL or status == 507:
        return UnavailableError(
            f"There is no space left in the store {place} ({code}): free some space, or raise the quota, and run this "
            "again; nothing half-written is left.",
            code="disk_full",
        )
    if code in _CHANGED:
        what, advice = "received other bytes than were sent", "check the network between, and run this again"
    elif status >= 500 or status == 429:
        what, advice = "can't answer now", "run this again later"
    else:
        what, advice = "refused a request", "check its address and its settings"
    return UnavailableError(f"The store {place} at {endpoint} {what} ({status} {code}): {advice}.")


def no_bucket(place: str, endpoint: str) -> UnavailableError:
    """The error for a missing bucket."""
    name = place.removeprefix("s3://").partition("/")[0]
    return UnavailableError(
        f"There is no bucket {name} at {endpoint}: create it, or correct the store's URL {place} or AWS_ENDPOINT_URL."
    )


def malformed(error: Exception, place: str, endpoint: str) -> UnavailableError:
    """The error for an answer that does not follow the S3 protocol."""
    return UnavailableError(
        f"The store {place} at {endpoint} sent an answer that can't be read ({type(error).__name__}: "
        f"{ascii(str(error))[:80]}): run this again, and if this continues, check the proxies in front of the store."
    )


def _forbidden(place: str, endpoint: str, code: str, *, writing: bool) -> RegistryError:
    if code in _CREDENTIALS:
        return UnavailableError(
            f"The store {place} at {endpoint} refuses the credentials ({code}): check AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or the profile, and the clock of this machine."
        )
    if writing:
        return NotAllowedError(
            f"The store {place} does not allow these credentials to write ({code}): give them permission to put and "
            "delete objects there.",
            code="read_only",
        )
    return UnavailableError(
        f"The store {place} at {endpoint} can't be read with these credentials ({code}): check AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, and that they may get and list objects there (without permission to list, missing "
        "objects are reported like this too)."
    )


def _unanswered(error: Exception, place: str, endpoint: str) -> RegistryError:
    kind = type(error).__name__
    if "Credential" in kind:
        return UnavailableError(
            f"There are no credentials for the store {place} ({kind}): set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or a profile."
        )
    return UnavailableError(
        f"The store {place} can't be reached at {endpoint} ({kind}): check that it is running and that "
        "AWS_ENDPOINT_URL is right, and run this again."
    )


_CONNECT_TIMEOUT: Final = 10
_READ_TIMEOUT: Final = 60
_PATIENCE: Final = 900
_PING_CONNECT_TIMEOUT: Final = 2
_PING_READ_TIMEOUT: Final = 3
_CONNECTIONS: Final = 64
_AWS: Final = (".amazonaws.com", ".amazonaws.com.cn")


class Connection:
    """The clients that a driver needs, all thread-safe.

    ``client`` for quick requests; ``patient``, with a long timeout, for copies made by the store and completed uploads;
    ``impatient``, with a short one and no retry, to check that the store answers at all; ``signer`` for presigned
    requests, made for the address at which clients reach the store.
    """

    def __init__(self, bucket: str, public_url: str | None) -> None:
        import boto3
        import botocore.session
        from botocore.exceptions import BotoCoreError

        try:
            settings = botocore.session.get_session()
            # One session for all clients: it registers its methods on the botocore session, which works once.
            session = boto3.session.Session(botocore_session=settings)
            self.client = _client(session, settings, None, bucket)
            self.signer = self.client if public_url is None else _client(session, settings, public_url, bucket)
        except (BotoCoreError, ValueError) as error:
            raise UsageError(
                f"The settings for S3 can't be used ({error}): check AWS_ENDPOINT_URL, AWS_PROFILE and the others."
            ) from error
        self._session = session
        self._settings = settings
        self._bucket = bucket
        self._patient: Any = None
        self._impatient: Any = None
        self._lock = threading.Lock()

    @property
    def patient(self) -> Any:
        """A client with a long read timeout."""
        with self._lock:
            if self._patient is None:
                self._patient = self._another(read_timeout=_PATIENCE)
            return self._patient

    @property
    def impatient(self) -> Any:
        """A client with short timeouts and no retry."""
        with self._lock:
            if self._impatient is None:
                self._impatient = self._another(
                    connect_timeout=_PING_CONNECT_TIMEOUT,
                    read_timeout=_PING_READ_TIMEOUT,
                    retries={"mode": "standard", "total_max_attempts": 1},
                )
            return self._impatient

    @property
    def endpoint(self) -> str:
        """The address of the store, redacted."""
        return _without_user(self.client.meta.endpoint_url)

    def close(self) -> None:
        """Release all connections."""
        for client in (self.client, self.signer, self._patient, self._impatient):
            if client is not None:
                client.close()

    def _another(self, **patience: Any) -> Any:
        return _client(self._session, self._settings, None, self._bucket, **patience)


def _client(session: Any, settings: Any, endpoint: str | None, bucket: str, **patience: Any) -> Any:
    """A client for ``endpoint`` (None: that of the settings); ``patience`` overrides timeouts and retries."""
    from botocore.config import Config

    config = Config(
        signature_version="s3v4",
        connect_timeout=_CONNECT_TIMEOUT,
        read_timeout=_READ_TIMEOUT,
        max_pool_connections=_CONNECTIONS,
        tcp_keepalive=True,
        retries={"mode": "standard"},
        # Stores accept wrong checksums and send wrong ones, so bytes are read back and hashed instead.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    ).merge(Config(**patience))
    if _in_host(settings, endpoint, bucket):
        addressing: Any = {"addressing_style": "virtual"}
        config = config.merge(Config(s3=addressing))
    # botocore does not read AWS_REGION, which all other AWS clients do.
    region = settings.get_config_variable("region") or os.environ.get("AWS_REGION")
    return session.client("s3", region_name=region, endpoint_url=endpoint, config=config)


def _in_host(settings: Any, endpoint: str | None, bucket: str) -> bool:
    """Whether the bucket's name belongs in the host name of URLs (virtual-hosted style).

    Amazon's own stores need that, and botocore's default would sign for a host of another region. For other stores the
    default is right: the path (no bucket names exist below ``127.0.0.1`` or ``s3``), unless ``addressing_style`` in
    a profile's ``s3`` says otherwise. A bucket name with dots matches no certificate.
    """
    from botocore.configprovider import ConfiguredEndpointProvider

    profile = settings.get_scoped_config()
    if profile.get("s3", {}).get("addressing_style") is not None or "." in bucket:
        return False
    given = endpoint or ConfiguredEndpointProvider(settings.full_config, profile, "s3").provide()
    return given is None or (urlsplit(given).hostname or "").endswith(_AWS)


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
