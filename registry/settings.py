"""Settings: one table of the environment variables that the registry reads.

They are read at the composition roots only (the command line, `registry.connect`). A ``REGISTRY_*`` variable that is
not in the table is refused, because a misspelt setting that is silently ignored is worse than none.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from registry.errors import UsageError
from registry.reference import check_base_name

PREFIX: Final = "REGISTRY_"
_MAX_AUTHOR: Final = 128
_MAX_RANK: Final = 1 << 16
_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kMGT]i?B|B)?")
_UNITS: Final = {"B": 1} | {
    prefix + suffix: step**power
    for power, prefix in enumerate("kMGT", start=1)
    for suffix, step in (("B", 1000), ("iB", 1024))
}
_DURATION: Final = re.compile(r"([0-9]{1,9}) ?([smhd])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
# What Kubernetes puts into pods for each Service named registry, or registry-...
_OF_A_SERVICE: Final = re.compile(
    r"REGISTRY_([A-Z0-9_]+_)?(SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)=.*"
    r"|REGISTRY_([A-Z0-9_]+_)?PORT=(tcp|udp|sctp)://[^/]+:[0-9]+"
)
_DATABASE: Final = re.compile(r"postgresql(\+psycopg)?://.+|sqlite:///.+", re.DOTALL)
_BUCKET: Final = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^?#]*)?")
_ADDRESS: Final = re.compile(r"https?://[^/?#@]+(/[^?#]*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Setting:
    """One environment variable: what it means, how its text is read and what holds without it."""

    name: str
    meaning: str
    form: str  # what a value looks like, for messages and the reference
    default: str  # in words
    parse: Callable[[str], Any]
    shown: Callable[[str], str] = repr  # what messages may have of a text, also a malformed one, that may hold a secret


@dataclass(frozen=True)
class Settings:
    """The values of all settings, parsed and checked; None means that the variable is not set."""

    url: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    author: str | None = None
    cache_dir: Path | None = None
    cache_size: int | None = None
    cache: int | None = None
    database_url: str | None = field(default=None, repr=False)
    store_url: str | None = field(default=None, repr=False)
    store_public_url: str | None = field(default=None, repr=False)
    proxy_blobs: bool = False
    gc_grace: int | None = None  # seconds
    trusted_proxies: tuple[str, ...] = ()  # networks
    vllm_base: str | None = None
    vllm_max_rank: int | None = None
    vllm_max_error: float | None = None
    debug: bool = False


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


def without_password(url: str) -> str:
    """A URL as it may be shown, rather with too little: who asks, before the last @, and a query are left out."""
    scheme, mark, rest = url.partition("://") if "://" in url else ("", "", url)
    _, user, place = rest.rpartition("@")
    place, query, _ = place.partition("?")
    return f"{scheme}{mark}{user and '***@'}{place}{query and '?***'}"


def _hidden(_text: str) -> str:
    return "not readable (it may hold a secret and is not shown)"


def _shown_url(text: str) -> str:
    return repr(without_password(text))


def _parse_switch(text: str) -> bool:
    if text not in {"0", "1"}:
        raise ValueError(text)
    return text == "1"


def _parse_author(text: str) -> str:
    if len(text) > _MAX_AUTHOR or not text.isprintable():
        raise ValueError(text)
    return text


def _parse_folder(text: str) -> Path:
    return Path(text).expanduser()


def _parse_token(text: str) -> str:
    # It travels in a header: anything else was cut out or pasted badly.
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(text)
    return text


def _parse_database(text: str) -> str:
    if not _DATABASE.fullmatch(text):
        raise ValueError(text)
    return text


def _parse_store(text: str) -> str:
    if "\0" in text or ("://" in text and not _BUCKET.fullmatch(text)):
        raise ValueError(text)
    return text


def _parse_address(text: str) -> str:
    if not _ADDRESS.fullmatch(text):
        raise ValueError(text)
    return text.rstrip("/")


def _parse_base(text: str) -> str:
    try:
        return check_base_name(text)
    except UsageError as error:
        raise ValueError(text) from error


def _parse_rank(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= _MAX_RANK or len(text) > 9:
        raise ValueError(text)
    return int(text)


def _parse_share(text: str) -> float:
    share = float(text)
    if not 0 < share < 1:
        raise ValueError(text)
    return share


def _parse_networks(text: str) -> tuple[str, ...]:
    return tuple(str(ipaddress.ip_network(part.strip())) for part in text.split(","))


SETTINGS: Final[dict[str, Setting]] = {
    "url": Setting(
        name="REGISTRY_URL",
        meaning="Where the registry is. The option --url wins over it.",
        form="a folder, or http(s)://HOST",
        default="the database and the store below, else what `registry login` chose, else the user's data folder",
        parse=str,
        shown=_shown_url,
    ),
    "token": Setting(
        name="REGISTRY_TOKEN",
        meaning="Shows a registry over HTTP who asks. It is sent to the host of REGISTRY_URL and to no other.",
        form="the secret that `registry token create` printed",
        default="what `registry login` keeps for that host",
        parse=_parse_token,
        shown=_hidden,
    ),
    "author": Setting(
        name="REGISTRY_AUTHOR",
        meaning="Who publishes: the author of new revisions and the actor in events.",
        form=f"a printable text of at most {_MAX_AUTHOR} characters",
        default="the name of the user who is logged in",
        parse=_parse_author,
    ),
    "cache_dir": Setting(
        name="REGISTRY_CACHE_DIR",
        meaning="Where fetch puts an artifact when no output folder is given.",
        form="a folder",
        default="the user's cache folder",
        parse=_parse_folder,
    ),
    "cache_size": Setting(
        name="REGISTRY_CACHE_SIZE",
        meaning="How many bytes of fetched artifacts the cache keeps; the least recently used go first.",
        form="a size such as 500MB or 20GiB",
        default="20GiB",
        parse=parse_size,
    ),
    "cache": Setting(
        name="REGISTRY_CACHE",
        meaning="How much memory `serve` takes to keep what many requests need; the least recently used goes first.",
        form="a size such as 512MiB or 2GiB, or 0",
        default="2GiB; 0 keeps nothing but open files",
        parse=parse_size,
    ),
    "database_url": Setting(
        name="REGISTRY_DATABASE_URL",
        meaning="The database of a team's registry: for `serve`, `db upgrade`, and for working on it in process.",
        form="postgresql://USER:PASSWORD@HOST:PORT/DATABASE, or sqlite:///FILE",
        default="the folder that is served has its own",
        parse=_parse_database,
        shown=_hidden,  # passwords may also stand in a query, or in a form that is no URL
    ),
    "store_url": Setting(
        name="REGISTRY_STORE_URL",
        meaning="Where a team's registry keeps bytes; endpoint and credentials are those of the AWS_* variables.",
        form="s3://BUCKET/PREFIX, or a folder that all replicas share",
        default="the folder that is served has its own",
        parse=_parse_store,
        shown=_shown_url,
    ),
    "store_public_url": Setting(
        name="REGISTRY_STORE_PUBLIC_URL",
        meaning="Where clients reach the S3 endpoint, where that is not AWS_ENDPOINT_URL; presigned requests go there.",
        form="http(s)://HOST",
        default="the endpoint that the service uses",
        parse=_parse_address,
        shown=_shown_url,
    ),
    "proxy_blobs": Setting(
        name="REGISTRY_PROXY_BLOBS",
        meaning="Let all bytes go through the service: for clients that can't reach the store.",
        form="0 or 1",
        default="0: with S3, bytes go between client and bucket",
        parse=_parse_switch,
    ),
    "gc_grace": Setting(
        name="REGISTRY_GC_GRACE",
        meaning="How old bytes that nothing needs must be before `gc` collects them.",
        form="a duration such as 90d, 12h or 30m",
        default="24h",
        parse=parse_duration,
    ),
    "trusted_proxies": Setting(
        name="REGISTRY_TRUSTED_PROXIES",
        meaning="Proxies before the service whose X-Forwarded-For and X-Forwarded-Proto are believed.",
        form="addresses or networks, such as 10.0.0.7,172.16.0.0/12",
        default="none: the address of the connection is the client's",
        parse=_parse_networks,
    ),
    "vllm_base": Setting(
        name="REGISTRY_VLLM_BASE",
        meaning="For the resolver in vLLM: which base model of the registry vLLM serves.",
        form="the name of a base model",
        default="read from what vLLM serves, where that came from the registry; else the resolver has no adapters",
        parse=_parse_base,
    ),
    "vllm_max_rank": Setting(
        name="REGISTRY_VLLM_MAX_RANK",
        meaning="For the resolver in vLLM: the rank that vLLM was started with as --max-lora-rank.",
        form=f"a number from 1 to {_MAX_RANK}",
        default="16, as in vLLM",
        parse=_parse_rank,
    ),
    "vllm_max_error": Setting(
        name="REGISTRY_VLLM_MAX_ERROR",
        meaning="For the resolver in vLLM: truncate an adapter of a larger rank, with this relative error at most.",
        form="a number between 0 and 1, such as 0.05",
        default="an adapter of a larger rank is refused",
        parse=_parse_share,
    ),
    "debug": Setting(
        name="REGISTRY_DEBUG",
        meaning="Show the Python traceback of every error on the command line.",
        form="0 or 1",
        default="0",
        parse=_parse_switch,
    ),
}

# Each says what it needs, so that a setting that nothing would read is not taken for one that works.
_TOGETHER: Final = (
    ("store_url", "database_url", "the rows that say what lies in a store are in a database"),
    ("database_url", "store_url", "the bytes that a database tells of lie in a store"),
    ("store_public_url", "store_url", "it is the address of an S3 store"),
)


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Read all settings from environment variables; an empty value counts as not set.

    Raises:
        UsageError: a value is malformed, a ``REGISTRY_*`` variable is not a setting, or two contradict each other.
    """
    by_name = {setting.name: field for field, setting in SETTINGS.items()}
    values: dict[str, Any] = {}
    for name in sorted(environ):
        if not name.startswith(PREFIX) or not environ[name] or _OF_A_SERVICE.fullmatch(f"{name}={environ[name]}"):
            continue
        if name not in by_name:
            raise _unknown(name, list(by_name))
        setting = SETTINGS[by_name[name]]
        try:
            values[by_name[name]] = setting.parse(environ[name])
        except (ValueError, RuntimeError):
            # Without the cause: it has the text, and tracebacks are shown.
            raise UsageError(f"{name} is {setting.shown(environ[name])}, but {setting.form} is expected.") from None
    settings = Settings(**values)
    _check_together(settings)
    return settings


def _check_together(settings: Settings) -> None:
    for one, needed, why in _TOGETHER:
        if getattr(settings, one) is not None and getattr(settings, needed) is None:
            raise UsageError(
                f"{SETTINGS[one].name} is set and {SETTINGS[needed].name} is not, but {why}: set both, or neither."
            )
    if settings.store_public_url is None:
        return
    if settings.store_url is not None and not settings.store_url.startswith("s3://"):
        raise UsageError(
            "REGISTRY_STORE_PUBLIC_URL is set, but REGISTRY_STORE_URL is the folder "
            f"{SETTINGS['store_url'].shown(settings.store_url)}, "
            "which clients reach through the service only; unset it."
        )
    if settings.proxy_blobs:
        raise UsageError(
            "REGISTRY_PROXY_BLOBS=1 lets all bytes go through the service, so that nobody would use "
            "REGISTRY_STORE_PUBLIC_URL; unset one of them."
        )


def _unknown(name: str, known: list[str]) -> UsageError:
    near = difflib.get_close_matches(name, known, n=1)
    advice = f"did you mean {near[0]}?" if near else f"the settings are {', '.join(sorted(known))}."
    return UsageError(f"{name} is not a setting of the registry; {advice}")
