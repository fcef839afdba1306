"""Which distribution is installed: adapter-registry, or the part of it that works against a service."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

from registry.errors import UnavailableError

WHOLE: Final = "adapter-registry"
CLIENT: Final = "adapter-registry-client"


def is_whole() -> bool:
    """Whether what works on bytes and databases is installed besides what works against a service."""
    return find_spec(f"{__package__}.services") is not None


def installed() -> str:
    """The name of the distribution."""
    return WHOLE if is_whole() else CLIENT


def works_on_bytes() -> bool:
    """Whether all of it works: what keeps bytes stands on file locks of POSIX, which Windows lacks."""
    return is_whole() and find_spec("fcntl") is not None


def need_whole(to: str, otherwise: str = "") -> None:
    """Go on where the whole distribution is installed and works; ``to`` says what for, ``otherwise`` what would help.

    Raises:
        UnavailableError: ``client_only``.
    """
    if not is_whole():
        raise UnavailableError(
            f"The distribution {WHOLE} is needed to {to}, and only {CLIENT} is installed here: pip install {WHOLE}"
            f"{otherwise}.",
            code="client_only",
        )
    if not works_on_bytes():
        raise UnavailableError(
            f"Linux or macOS is needed to {to}: on this system only what works against a service does.",
            code="client_only",
        )
