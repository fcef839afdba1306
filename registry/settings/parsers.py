"""Parsers of settings, and redaction of their values."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from registry.errors import UsageError
from registry.reference import Path as TreePath
from registry.reference import Reference, check_base_name

MAX_AUTHOR: Final = 128
MAX_EVERY: Final = 999_999_999
MAX_KEPT: Final = 10_000
MAX_RANK: Final = 1 << 16
MAX_WORKERS: Final = 64
_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kMGT]i?B|B)?")
_UNITS: Final = {"B": 1} | {
    prefix + suffix: step**power
    for power, prefix in enumerate("kMGT", start=1)
    for suffix, step in (("B", 1000), ("iB", 1024))
}
_DURATION: Final = re.compile(r"([0-9]{1,9}) ?([smhd])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DATABASE: Final = re.compile(r"postgresql(\+psycopg)?://.+|sqlite:///.+", re.DOTALL)
_BUCKET: Final = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^?#]*)?")
_METRIC: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,63}")
_WIDEST: Final = {4: 8, 6: 7}  # bits of 10.0.0.0/8 and fc00::/7
_ADDRESS: Final = re.compile(r"https?://[^/?#@]+(/[^?#]*)?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes of a size such as ``500MB``, ``20GiB`` or ``1048576``; units of 1000 and, with ``i``, of 1024."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError(text)
    return int(float(match[1]) * _UNITS[match[2] or "B"])


def parse_duration(text: str) -> int:
    """Seconds of a duration such as ``90d``, ``12h``, ``30m`` or ``45s``."""
    match = _DURATION.fullmatch(text.strip())
    if not match:
        raise ValueError(text)
    return int(match[1]) * _SECONDS[match[2]]


def redacted(url: str) -> str:
    """A URL without credentials (all before the last @) and without its query."""
    scheme, mark, rest = url.partition("://") if "://" in url else ("", "", url)
    _, user, place = rest.rpartition("@")
    place, query, _ = place.partition("?")
    return f"{scheme}{mark}{user and '***@'}{place}{query and '?***'}"


def redact_all(_text: str) -> str:
    """A placeholder for any value."""
    return "not readable (it may hold a secret and is not shown)"


def redact_url(text: str) -> str:
    """The quoted URL, redacted."""
    return repr(redacted(text))


def parse_switch(text: str) -> bool:
    """``0`` or ``1``."""
    if text not in {"0", "1"}:
        raise ValueError(text)
    return text == "1"


def parse_author(text: str) -> str:
    """A printable text that is not too long."""
    if len(text) > MAX_AUTHOR or not text.isprintable():
        raise ValueError(text)
    return text


def parse_folder(text: str) -> Path:
    """A folder, ``~`` being the user's home."""
    return Path(text).expanduser()


def parse_token(text: str) -> str:
    """A secret that fits into a header."""
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(text)
    return text


def parse_database(text: str) -> str:
    """The URL of a database."""
    if not _DATABASE.fullmatch(text):
        raise ValueError(text)
    return text


def parse_store(text: str) -> str:
    """A bucket or a folder."""
    if "\0" in text or ("://" in text and not _BUCKET.fullmatch(text)):
        raise ValueError(text)
    return text


def parse_address(text: str) -> str:
    """http(s)://HOST without a slash at its end."""
    if not _ADDRESS.fullmatch(text) or not text.isprintable() or " " in text:
        raise ValueError(text)
    found = urlsplit(text)  # raises for brackets that are not closed, and of a port that is none when it is read
    if not found.hostname or found.port == 0:
        raise ValueError(text)
    return text.rstrip("/")


def parse_base(text: str) -> str:
    """The name of a base model."""
    try:
        return check_base_name(text)
    except UsageError as error:
        raise ValueError(text) from error


def parse_path(text: str) -> str:
    """The path of an adapter."""
    try:
        path = TreePath.parse(text)
    except UsageError as error:
        raise ValueError(text) from error
    if path.is_base:
        raise ValueError(text)
    return text


def parse_reference(text: str) -> str:
    """A reference."""
    try:
        Reference.parse(text)
    except UsageError as error:
        raise ValueError(text) from error
    return text


def parse_every(text: str) -> str | int:
    """``end``, ``save``, or a number of steps."""
    return text if text in {"end", "save"} else _whole_number(text, MAX_EVERY)


def parse_kept(text: str) -> int:
    """How many revisions stay."""
    return _whole_number(text, MAX_KEPT)


def parse_metric(text: str) -> str:
    """The name of a metric."""
    if _METRIC.fullmatch(text) is None:
        raise ValueError(text)
    return text


def parse_rank(text: str) -> int:
    """A rank."""
    return _whole_number(text, MAX_RANK)


def parse_workers(text: str) -> int:
    """How many workers a service has."""
    return _whole_number(text, MAX_WORKERS)


def _whole_number(text: str, most: int) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= most or len(text) > 9:
        raise ValueError(text)
    return int(text)


def parse_share(text: str) -> float:
    """A number between 0 and 1."""
    share = float(text)
    if not 0 < share < 1:
        raise ValueError(text)
    return share


def parse_parents(text: str) -> str:
    """``any``, ``stated`` or ``proven``."""
    if text not in {"any", "stated", "proven"}:
        raise ValueError(text)
    return text


def parse_networks(text: str) -> tuple[str, ...]:
    """Addresses or networks, separated by commas."""
    return tuple(str(ipaddress.ip_network(part.strip())) for part in text.split(","))


def parse_open_networks(text: str) -> tuple[str, ...]:
    """Like `parse_networks`, without one that is wider than a private one can be: it would open all there are."""
    found = parse_networks(text)
    for network in map(ipaddress.ip_network, found):
        if network.prefixlen < _WIDEST[network.version]:
            raise ValueError(text)
    return found
