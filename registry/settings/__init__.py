"""Settings: one table of the environment variables that the registry reads.

They are read at the composition roots only (the command line, `registry.connect`). A ``REGISTRY_*`` variable that is
not in the table is refused, because a misspelt setting that is silently ignored is worse than none.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from registry.errors import UsageError
from registry.settings.parsers import (
    MAX_AUTHOR,
    MAX_KEPT,
    MAX_RANK,
    MAX_WORKERS,
    parse_address,
    parse_author,
    parse_base,
    parse_database,
    parse_duration,
    parse_every,
    parse_folder,
    parse_kept,
    parse_metric,
    parse_networks,
    parse_open_networks,
    parse_parents,
    parse_path,
    parse_rank,
    parse_reference,
    parse_share,
    parse_size,
    parse_store,
    parse_switch,
    parse_token,
    parse_workers,
    redact_all,
    redact_url,
)

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
        meaning="For the resolver in vLLM: truncate an adapter of a larger rank, with this relative error at most.",
        form="a number between 0 and 1, such as 0.05",
        default="an adapter of a larger rank is refused",
        parse=parse_share,
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
