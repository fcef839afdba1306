"""Error mapping: from an error to an HTTP status, by class, with exceptions by code."""

from __future__ import annotations

from typing import Final

from registry.errors import (
    AccuracyError,
    ConflictError,
    IntegrityError,
    InvalidAdapterError,
    InvalidBaseError,
    NotAllowedError,
    NotFoundError,
    RegistryError,
    RetractedError,
    UnavailableError,
    UsageError,
)

STATUSES: Final[dict[type[RegistryError], int]] = {
    UsageError: 400,
    NotFoundError: 404,
    RetractedError: 410,
    InvalidAdapterError: 422,
    InvalidBaseError: 422,
    ConflictError: 409,
    IntegrityError: 500,
    NotAllowedError: 403,
    AccuracyError: 422,
    UnavailableError: 503,
}
BY_CODE: Final[dict[str, int]] = {
    "bad_token": 401,
    "upload_mismatch": 422,  # the client's bytes are wrong, not the store's
    "copy_mismatch": 422,  # what the client says of its origin is wrong
    "wrong_base": 422,
    "too_large": 413,
    "other_version": 400,
    "too_slow": 408,
    "unexpected": 500,
}
CLIENT_GONE: Final = 499
"""In log and metrics, where nobody is left to be answered: the client hung up, or read too little (as nginx has it)."""
MALFORMED: Final = 422  # a payload or a parameter that the schema of the route refuses
RETRY_AFTER: Final = 5  # seconds
RETRY_BUSY: Final = 1


def status_of(error: RegistryError) -> int:
    """The status of an error: that of its code, else that of the nearest class in `STATUSES`."""
    by_class = next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), 500)
    return BY_CODE.get(error.code, by_class)


def retry_after(status: int, code: str) -> int | None:
    """Seconds until a retry makes sense; None where a retry changes nothing."""
    if status not in {429, 503}:
        return None
    return RETRY_BUSY if code == "busy" else RETRY_AFTER
