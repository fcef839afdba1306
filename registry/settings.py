"""Settings: one table of the environment variables that the registry reads.

They are read at the composition roots only (the command line, `registry.connect`). A ``REGISTRY_*`` variable that is
not in the table is refused, because a misspelt setting that is silently ignored is worse than none.

Parsers of settings, and redaction of their values.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal
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
    """Like `parse_networks`, without one that is wider than a private one can be: it would open all of them."""
    found = parse_networks(text)
    for network in map(ipaddress.ip_network, found):
        if network.prefixlen < _WIDEST[network.version]:
            raise ValueError(text)
    return found


PREFIX: Final = "REGISTRY_"
# Service links: Kubernetes sets these in pods for each Service named registry, or registry-...
_OF_A_SERVICE: Final = re.compile(
    r"REGISTRY_([A-Z0-9_]+_)?(SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)=.*"
    r"|REGISTRY_([A-Z0-9_]+_)?PORT=(tcp|udp|sctp)://[^/]+:[0-9]+"
)


@dataclass(frozen=True)
class Setting:
    """One environment variable: what it means, how its text is read and what holds without it."""

    name: str
    meaning: str
    form: str  # what a value looks like, for messages and the reference
    default: str  # in words
    parse: Callable[[str], Any]
    redact: Callable[[str], str] = repr  # a text, malformed or not, as messages may show it


@dataclass(frozen=True)
class Settings:
    """The values of all settings, parsed and checked; None means that the variable is not set."""

    url: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    author: str | None = None
    cache_dir: Path | None = None
    cache_size: int | None = None
    cache: int | None = None
    workers: int | None = None
    database_url: str | None = field(default=None, repr=False)
    store_url: str | None = field(default=None, repr=False)
    store_public_url: str | None = field(default=None, repr=False)
    public_url: str | None = field(default=None, repr=False)
    upstream: str | None = None
    outgoing_networks: tuple[str, ...] = ()
    proxy_blobs: bool = False
    gc_grace: int | None = None  # seconds
    parents: Literal["any", "stated", "proven"] = "any"
    trusted_proxies: tuple[str, ...] = ()  # networks
    publish_path: str | None = None
    publish_every: str | int | None = None
    publish_keep_best: int | None = None
    publish_keep_last: int | None = None
    publish_metric: str | None = None
    publish_parent: str | None = None
    vllm_base: str | None = None
    vllm_max_rank: int | None = None
    vllm_max_error: float | None = None
    vllm_follow: bool = True
    engine_key: str | None = field(default=None, repr=False)
    debug: bool = False


SETTINGS: Final[dict[str, Setting]] = {
    "url": Setting(
        name="REGISTRY_URL",
        meaning="The registry to use. The option --url overrides it.",
        form="a folder, or http(s)://HOST",
        default="the database and the store below, else what `registry login` chose, else the user's data folder",
        parse=str,
        redact=redact_url,
    ),
    "token": Setting(
        name="REGISTRY_TOKEN",
        meaning="The token for a registry over HTTP. It is sent to the host of REGISTRY_URL and to no other.",
        form="the secret that `registry token create` printed",
        default="what `registry login` keeps for that host",
        parse=parse_token,
        redact=redact_all,
    ),
    "author": Setting(
        name="REGISTRY_AUTHOR",
        meaning="Your name: the author of new revisions and the actor in events.",
        form=f"a printable text of at most {MAX_AUTHOR} characters",
        default="the name of the user who is logged in",
        parse=parse_author,
    ),
    "cache_dir": Setting(
        name="REGISTRY_CACHE_DIR",
        meaning="Where fetch puts an artifact when no output folder is given.",
        form="a folder",
        default="the user's cache folder",
        parse=parse_folder,
    ),
    "cache_size": Setting(
        name="REGISTRY_CACHE_SIZE",
        meaning="The maximum size of the cache of fetched artifacts; the least recently used are removed first.",
        form="a size such as 500MB or 20GiB",
        default="20GiB",
        parse=parse_size,
    ),
    "cache": Setting(
        name="REGISTRY_CACHE",
        meaning="The maximum memory that `serve` uses as a cache; the least recently used values are removed first.",
        form="a size such as 512MiB or 2GiB, or 0",
        default="2GiB; 0 keeps nothing but open files",
        parse=parse_size,
    ),
    "workers": Setting(
        name="REGISTRY_WORKERS",
        meaning="How many processes of one `serve` answer on its port. They divide REGISTRY_CACHE.",
        form=f"a number from 1 to {MAX_WORKERS}",
        default="1",
        parse=parse_workers,
    ),
    "database_url": Setting(
        name="REGISTRY_DATABASE_URL",
        meaning="The database of a team's registry, for `serve`, `db upgrade` and opening it in process.",
        form="postgresql://USER:PASSWORD@HOST:PORT/DATABASE, or sqlite:///FILE",
        default="the folder that is served has its own",
        parse=parse_database,
        redact=redact_all,  # passwords may also stand in a query, or in a form that is no URL
    ),
    "store_url": Setting(
        name="REGISTRY_STORE_URL",
        meaning="Where a team's registry stores bytes; the AWS_* variables give endpoint and credentials.",
        form="s3://BUCKET/PREFIX, or a folder that all replicas share",
        default="the folder that is served has its own",
        parse=parse_store,
        redact=redact_url,
    ),
    "store_public_url": Setting(
        name="REGISTRY_STORE_PUBLIC_URL",
        meaning="The address of the S3 endpoint for clients, if it is not AWS_ENDPOINT_URL; presigned requests use it.",
        form="http(s)://HOST",
        default="the endpoint that the service uses",
        parse=parse_address,
        redact=redact_url,
    ),
    "public_url": Setting(
        name="REGISTRY_PUBLIC_URL",
        meaning="The address that people and programs reach this service by, a path prefix included; pages show it.",
        form="http(s)://HOST or http(s)://HOST/PREFIX",
        default="the address that `serve` listens on",
        parse=parse_address,
        redact=redact_url,
    ),
    "upstream": Setting(
        name="REGISTRY_UPSTREAM",
        meaning="A Hub that the Hub views ask, without a token, for models and data sets that are not this registry's.",
        form="http(s)://HOST or http(s)://HOST/PREFIX",
        default="none: the views have what the registry has",
        parse=parse_address,
        redact=redact_url,
    ),
    "outgoing_networks": Setting(
        name="REGISTRY_OUTGOING_NETWORKS",
        meaning="Networks that are not public and in which the service may ask other machines, as REGISTRY_UPSTREAM "
        "names one; an address in that setting itself counts as listed.",
        form="addresses or networks of /8 (IPv6: /7) at most, such as 10.20.0.0/16,fd12:3456::/32",
        default="none: only public addresses are asked",
        parse=parse_open_networks,
    ),
    "proxy_blobs": Setting(
        name="REGISTRY_PROXY_BLOBS",
        meaning="Send all bytes through the service, for clients that can't reach the store.",
        form="0 or 1",
        default="0: with S3, bytes go between client and bucket",
        parse=parse_switch,
    ),
    "gc_grace": Setting(
        name="REGISTRY_GC_GRACE",
        meaning="How long unneeded bytes are kept before `gc` collects them, and how long a delete can be undone.",
        form="a duration such as 90d, 12h or 30m",
        default="24h",
        parse=parse_duration,
    ),
    "parents": Setting(
        name="REGISTRY_PARENTS",
        meaning="How the parent of an adapter has to be known to be accepted: stated takes what is proven or stated, "
        "proven what is proven, and what a person gave with `--parent`.",
        form="any, stated or proven",
        default="any",
        parse=parse_parents,
    ),
    "trusted_proxies": Setting(
        name="REGISTRY_TRUSTED_PROXIES",
        meaning="Proxies in front of the service whose X-Forwarded-For and X-Forwarded-Proto are trusted.",
        form="addresses or networks, such as 10.0.0.7,172.16.0.0/12",
        default="none: the address of the connection is the client's",
        parse=parse_networks,
    ),
    "publish_path": Setting(
        name="REGISTRY_PUBLISH_PATH",
        meaning="For RegistryCallback: the path that a trainer's adapter is published at.",
        form="a path BASE/NAME",
        default="given in code",
        parse=parse_path,
    ),
    "publish_every": Setting(
        name="REGISTRY_PUBLISH_EVERY",
        meaning="For RegistryCallback: what of a training run is published.",
        form="end, save, or a number of steps",
        default="end",
        parse=parse_every,
    ),
    "publish_keep_best": Setting(
        name="REGISTRY_PUBLISH_KEEP_BEST",
        meaning="For RegistryCallback: how many of the run's best revisions stay.",
        form=f"a number from 1 to {MAX_KEPT}",
        default="all stay",
        parse=parse_kept,
    ),
    "publish_keep_last": Setting(
        name="REGISTRY_PUBLISH_KEEP_LAST",
        meaning="For RegistryCallback: how many of the run's last revisions stay.",
        form=f"a number from 1 to {MAX_KEPT}",
        default="all stay",
        parse=parse_kept,
    ),
    "publish_metric": Setting(
        name="REGISTRY_PUBLISH_METRIC",
        meaning="For RegistryCallback: the metric by which the best is told.",
        form="the name of a metric, such as eval_loss",
        default="the trainer's metric_for_best_model",
        parse=parse_metric,
    ),
    "publish_parent": Setting(
        name="REGISTRY_PUBLISH_PARENT",
        meaning="For RegistryCallback: the revision that the adapter is trained on.",
        form="a reference, such as llama/support@2",
        default="what the model was loaded from tells",
        parse=parse_reference,
    ),
    "vllm_base": Setting(
        name="REGISTRY_VLLM_BASE",
        meaning="For the resolver in vLLM: which base model of the registry vLLM serves.",
        form="the name of a base model",
        default="read from what vLLM serves, where that came from the registry; else the resolver has no adapters",
        parse=parse_base,
    ),
    "vllm_max_rank": Setting(
        name="REGISTRY_VLLM_MAX_RANK",
        meaning="For the resolver in vLLM: the rank that vLLM was started with as --max-lora-rank.",
        form=f"a number from 1 to {MAX_RANK}",
        default="16, as in vLLM",
        parse=parse_rank,
    ),
    "vllm_max_error": Setting(
        name="REGISTRY_VLLM_MAX_ERROR",
        meaning="For the resolver in vLLM: truncate an adapter of a larger rank, and write DoRA as the nearest plain "
        "LoRA, with this relative error at most.",
        form="a number between 0 and 1, such as 0.05",
        default="an adapter of a larger rank, or with DoRA, is refused",
        parse=parse_share,
    ),
    "vllm_follow": Setting(
        name="REGISTRY_VLLM_FOLLOW",
        meaning="For the resolver in vLLM: moved tags, retractions and deletions reach a running vLLM by themselves.",
        form="0 or 1",
        default="1",
        parse=parse_switch,
    ),
    "engine_key": Setting(
        name="REGISTRY_ENGINE_KEY",
        meaning="For `registry follow --to vllm=URL` and `sglang=URL`: the API key of the engines.",
        form="what the engine was started with as --api-key",
        default="none is sent",
        parse=parse_token,
        redact=redact_all,
    ),
    "debug": Setting(
        name="REGISTRY_DEBUG",
        meaning="Show the Python traceback of every error on the command line.",
        form="0 or 1",
        default="0",
        parse=parse_switch,
    ),
}

# Each says what it needs, so that a setting that nothing would read is not taken for one that works.
_TOGETHER: Final = (
    ("store_url", "database_url", "the rows that describe the contents of a store are in a database"),
    ("database_url", "store_url", "the bytes that a database describes are in a store"),
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
            raise UsageError(f"{name} is {setting.redact(environ[name])}, but {setting.form} is expected.") from None
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
            f"{SETTINGS['store_url'].redact(settings.store_url)}, which clients can only reach through the service; "
            "unset it."
        )
    if settings.proxy_blobs:
        raise UsageError(
            "REGISTRY_PROXY_BLOBS=1 sends all bytes through the service, so REGISTRY_STORE_PUBLIC_URL would not be "
            "used; unset one of them."
        )


def _unknown(name: str, known: list[str]) -> UsageError:
    near = difflib.get_close_matches(name, known, n=1)
    advice = f"did you mean {near[0]}?" if near else f"the settings are {', '.join(sorted(known))}."
    return UsageError(f"{name} is not a setting of the registry; {advice}")
