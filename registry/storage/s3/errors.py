"""Maps answers of an S3 store to errors of this package. No message contains a credential or a signed URL."""

from __future__ import annotations

from typing import Any, Final

from registry.errors import NotAllowedError, NotFoundError, RegistryError, UnavailableError

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
    """The HTTP status of a store's answer; 0 if there was none."""
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
