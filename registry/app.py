"""The composition root: turns the place of a registry and the settings into a registry that works."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from registry.distribution import need_whole, works_on_bytes
from registry.errors import UsageError
from registry.settings import Settings, read_settings, redacted

if TYPE_CHECKING:
    from fastapi import FastAPI

    from registry.client.addresses import Credentials
    from registry.client.remote import RemoteRegistry
    from registry.client.tensor_core import Arithmetic
    from registry.folders.staging import FetchCache
    from registry.http.access import Anonymous
    from registry.http.limits import Limits
    from registry.http.metrics import SharedValues
    from registry.http.server import Front
    from registry.memory import MemoryCache
    from registry.operations.registry import Registry
    from registry.progress import Progress
    from registry.schemas import ArtifactKind, Identity, Upgraded
    from registry.schemas.publishing import ImportDocument
    from registry.schemas.usage import Interface
    from registry.services.local import LocalRegistry
    from registry.storage.staging import StagingDriver
    from registry.transfer.publish_tree import BundleSource

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_CUT_SCHEME = re.compile(r"https?:", re.IGNORECASE)
_HOST = re.compile(
    r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\]):[0-9]{1,5}(?:/.*)?|localhost(?:/.*)?|[0-9]+(?:\.[0-9]+){3}(?:/.*)?"
)


@dataclass(frozen=True)
class Place:
    """Where a registry is; one of them is set, or none: the team's database and store that the settings name."""

    folder: Path | None = None
    address: str | None = None


def connect(url: str | PathLike[str] | None = None, token: str | None = None) -> LocalRegistry | RemoteRegistry:
    """Open the registry at ``url``; see `registry.connect`."""
    return open_registry(url, token, create=True, reach=True)


def open_registry(
    url: str | PathLike[str] | None = None,
    token: str | None = None,
    *,
    create: bool,
    reach: bool = False,
    interface: Interface = "fetch",
) -> LocalRegistry | RemoteRegistry:
    """Open the registry at ``url``; without ``create``, a folder that holds none raises `NotFoundError`.

    ``reach``: see at once whether anything answers at an address, rather than at the first call.
    ``interface``: through what weights will be requested, as uses are counted.
    """
    settings = read_settings(os.environ)
    place = find_place(url, settings)
    if place.address is not None:
        opened = _remote(place.address, token, settings, interface)
        if reach:
            opened.reach()
        return opened
    if token is not None:
        where = place.folder or "the team's database"
        raise UsageError(
            f"A token is only for a registry over HTTP, but {where} is opened in process; leave the token out."
        )
    return _in_process(place, settings, create=create, interface=interface)


def find_place(url: str | PathLike[str] | None, settings: Settings) -> Place:
    """Where the registry is: what is given, else set, else what login chose, else the user's data folder.

    Raises:
        UsageError: the place is neither a folder nor an address.
    """
    said = os.fspath(url) if url is not None else settings.url
    if said is None and settings.database_url is not None:
        return Place()
    if said is None:
        said = _credentials().default_url()
    if said is None:
        return Place(folder=_data_folder())
    if (match := _SCHEME.match(said)) is None and _CUT_SCHEME.match(said) is None:
        return Place(folder=_folder(said))
    if match is None or match[1].lower() not in {"http", "https"}:
        raise UsageError(f"{redacted(said)} is not a valid location of a registry; {_instead_of(match)}.")
    return Place(address=said)


def _instead_of(scheme: re.Match[str] | None) -> str:
    """What to give instead of an address with a scheme that is none of a registry."""
    of = "" if scheme is None else scheme[1].lower()
    if of.partition("+")[0] in {"postgresql", "postgres", "sqlite", "s3"}:
        return (
            "a database is named by REGISTRY_DATABASE_URL and its store by REGISTRY_STORE_URL, without --url or "
            "REGISTRY_URL"
        )
    return "give a folder or an address http(s)://HOST"


def _data_folder() -> Path:
    import platformdirs

    return platformdirs.user_data_path("adapter-registry", appauthor=False)


def _folder(said: str) -> Path:
    if said.startswith("hf:"):
        raise UsageError(
            f"{redacted(said)!r} is a repository of a Hub and no registry: `registry export REF hf:ORG/REPO` writes to "
            "one. For a folder of that name, put ./ before it."
        )
    if not said or "\0" in said:
        raise UsageError(f"The location of the registry is {said!r}, but a folder or an address is expected.")
    try:
        folder = Path(said).expanduser().absolute()
    except RuntimeError as error:
        raise UsageError(f"{said} refers to the home folder of an unknown user; give a folder.") from error
    if _HOST.fullmatch(said) and not os.path.exists(folder):  # noqa: PTH110 - raises nothing
        raise UsageError(
            f"{redacted(said)!r} is an address without its scheme: http://{redacted(said)} is expected. For a folder "
            "of that name, put ./ before it."
        )
    return folder


def _remote(address: str, token: str | None, settings: Settings, interface: Interface) -> RemoteRegistry:
    from registry.client.remote import RemoteRegistry

    secret = token if token is not None else _token_for(address, settings)
    whole = works_on_bytes() and find_spec("torch") is not None
    return RemoteRegistry(
        address,
        secret,
        cache=_cache(settings),
        arithmetic=_arithmetic if whole else None,
        interface=interface,
        planner=_planned_import if whole else None,
    )


def _token_for(address: str, settings: Settings) -> str | None:
    """The token for an address: that of the settings, if they name the same host, else the one that login stored."""
    from registry.client.addresses import Address

    asked = Address.parse(address)
    if settings.token is not None and settings.url is not None and asked.is_origin_of(settings.url):
        return settings.token
    return _credentials().token(address)


def _arithmetic() -> Arithmetic:
    from registry.services.local_merge import LocalArithmetic

    return LocalArithmetic()


def _planned_import(registry: Registry, target: BundleSource, source: str, progress: Progress) -> ImportDocument:
    from registry.services.local import planned_import

    return planned_import(registry, target, source, progress)


def _credentials() -> Credentials:
    from registry.client.addresses import Credentials

    return Credentials.of_user()


def _cache(settings: Settings) -> FetchCache:
    import platformdirs

    from registry.folders.staging import DEFAULT_LIMIT, FetchCache

    folder = settings.cache_dir or platformdirs.user_cache_path("adapter-registry", appauthor=False) / "fetched"
    return FetchCache(folder.absolute(), DEFAULT_LIMIT if settings.cache_size is None else settings.cache_size)


def _in_process(place: Place, settings: Settings, *, create: bool, interface: Interface = "fetch") -> LocalRegistry:
    where = f"the folder {place.folder}" if place.folder is not None else "the team's database"
    need_whole(f"open the registry in {where}", ", or name a service by --url, REGISTRY_URL or `registry login`")
    from registry.services.local import LocalRegistry

    if place.folder is not None:
        return LocalRegistry.open(
            place.folder,
            actor=settings.author,
            create=create,
            cache_folder=settings.cache_dir,
            cache_limit=settings.cache_size,
            parents=settings.parents,
            interface=interface,
            **_grace(settings),
        )
    if settings.database_url is None or settings.store_url is None:
        raise AssertionError("the settings name a database and a store together, or neither")
    return LocalRegistry.of(
        settings.database_url,
        _store(settings.store_url, settings),
        actor=settings.author,
        cache_folder=settings.cache_dir,
        cache_limit=settings.cache_size,
        parents=settings.parents,
        interface=interface,
        **_grace(settings),
    )


def _grace(settings: Settings) -> dict[str, float]:
    return {} if settings.gc_grace is None else {"gc_grace": float(settings.gc_grace)}


def _store(url: str, settings: Settings) -> StagingDriver:
    """Where a team's registry keeps bytes: a bucket, or a folder that all replicas share."""
    if url.startswith("s3://"):
        from registry.storage.s3 import S3Driver

        return S3Driver(url, public_url=settings.store_public_url, proxy_blobs=settings.proxy_blobs)
    from registry.storage.filesystem import FilesystemDriver

    return FilesystemDriver(Path(url).expanduser().absolute())


def serve(
    url: str | PathLike[str] | None = None,
    *,
    host: str,
    port: int,
    anonymous: Literal["none", "read"] = "none",
    workers: int | None = None,
) -> None:
    """Serve the registry at ``url``, a folder or the team's, until this process is requested to end.

    Args:
        url: a folder; None for what the settings say.
        host: an address of this machine, or a name of one.
        port: 0 takes a free one.
        anonymous: access without a token.
        workers: processes that answer on this port; None for what the settings say.

    Raises:
        UsageError: ``url`` is the address of a service.
        NotAllowedError: it may not be served at this address without tokens.
        UnavailableError: the database, the store or the port can't be used.
    """
    settings = read_settings(os.environ)
    place = _own_place(url, settings, "served")
    need_whole("serve a registry")
    from registry.http.server import open_front
    from registry.http.server import serve as serve_registry
    from registry.services.deployment import DATABASE

    count = workers or settings.workers or 1
    embedded = place.folder is not None
    new = place.folder is not None and not os.path.isfile(place.folder / DATABASE)  # noqa: PTH113 - raises nothing
    with ExitStack() as until:
        with closing(_in_process(place, settings, create=True)) as registry:
            registry.upgrade()
            if count == 1:
                serve_registry(
                    registry.with_memory(_memory(settings, 1)),
                    partial(
                        service_app,
                        public_url=settings.public_url,
                        upstream=settings.upstream,
                        networks=settings.outgoing_networks,
                    ),
                    host=host,
                    port=port,
                    anonymous=anonymous,
                    embedded=embedded,
                    new=new,
                    trusted_proxies=settings.trusted_proxies,
                )
                return
            front = until.enter_context(
                open_front(registry, host=host, port=port, anonymous=anonymous, embedded=embedded, new=new)
            )
        _serve_with_workers(place, settings, front, count)


def _serve_with_workers(place: Place, settings: Settings, front: Front, count: int) -> None:
    from registry.http.limits import Limits
    from registry.http.workers import Work, serve_with_workers

    make = partial(_service_of_worker, place, front.access, count)
    given = Work(make, front.listener, Limits().divided(count), settings.trusted_proxies)
    serve_with_workers(front, given, count)


@contextmanager
def _service_of_worker(
    place: Place, access: Anonymous, count: int, limits: Limits, shared: SharedValues
) -> Iterator[FastAPI]:
    """The app of one of ``count`` workers, in a process of its own."""
    settings = read_settings(os.environ)
    with closing(_in_process(place, settings, create=False)) as registry:
        kept = registry.with_memory(_memory(settings, count))
        yield service_app(
            kept,
            access,
            limits,
            shared,
            public_url=settings.public_url,
            upstream=settings.upstream,
            networks=settings.outgoing_networks,
        )


def _memory(settings: Settings, workers: int) -> MemoryCache:
    """The cache of one of so many workers."""
    from registry.memory import DEFAULT_BUDGET, MemoryCache

    return MemoryCache((DEFAULT_BUDGET if settings.cache is None else settings.cache) // workers)


def service_app(
    registry: LocalRegistry,
    anonymous: Anonymous = "none",
    limits: Limits | None = None,
    shared: SharedValues | None = None,
    *,
    public_url: str | None = None,
    upstream: str | None = None,
    networks: Sequence[str] = (),
) -> FastAPI:
    """What answers over HTTP: every face of a registry; ``shared`` if this process is one of several workers.

    ``public_url`` is the address that users reach it by, None for the one that it listens on; ``upstream`` that of a
    Hub that the Hub views query for what is not here, and ``networks`` those queried besides public ones.
    """
    from registry.api.routes import ROUTERS
    from registry.http.service import build
    from registry.hub.upstream import Upstream
    from registry.hub.views import HUB
    from registry.web.routes import PAGES

    faces = (HUB, PAGES)
    app = build(registry, ROUTERS, faces, public_url=public_url, anonymous=anonymous, limits=limits, shared=shared)
    app.state.upstream = None if upstream is None else Upstream(upstream, networks)
    return app


def upgrade_database(url: str | PathLike[str] | None = None) -> Upgraded:
    """Bring the schema of the registry at ``url``, a folder or the team's, up to this program's."""
    settings = read_settings(os.environ)
    place = _own_place(url, settings, "upgraded")
    need_whole("upgrade a database")
    from registry.catalogue.database.database import Database, sqlite_url
    from registry.schemas import Upgraded
    from registry.services.deployment import DATABASE

    found = settings.database_url if place.folder is None else sqlite_url(place.folder / DATABASE)
    database = Database(found or "")
    try:
        done = database.prepare()
        after = database.version() or ""
        before, copy = (after, None) if done is None else (done.before, done.copy)
        return Upgraded(
            database=database.where,
            before=before,
            after=after,
            copied_to=None if copy is None else str(copy),
        )
    finally:
        database.dispose()


def _own_place(url: str | PathLike[str] | None, settings: Settings, what: str) -> Place:
    """A place that this process works on directly; what login chose does not count, since it is never that."""
    own = url if url is not None or settings.url or settings.database_url else _data_folder()
    place = find_place(own, settings)
    if place.address is not None:
        raise UsageError(
            f"{redacted(place.address)} is a service, which can't be {what} from here; give a folder, or set "
            "REGISTRY_DATABASE_URL and REGISTRY_STORE_URL."
        )
    return place


def hub_settings(url: str | PathLike[str] | None, view: ArtifactKind) -> dict[str, str]:
    """The environment in which clients of the Hub work with the service at ``url``, in one of its views.

    Raises:
        UsageError: the registry is a folder, or a team's database that is opened in process: it is not served.
    """
    settings = read_settings(os.environ)
    place = find_place(url, settings)
    if place.address is None:
        where = f"in the folder {place.folder}" if place.folder else "opened from its database in this process"
        raise UsageError(
            f"Hub clients need a service, but this registry is {where}: run `registry serve` and give its address with "
            "--url."
        )
    from registry.client.addresses import Address
    from registry.client.transport import for_hub_clients
    from registry.schemas.artifacts import KINDS
    from registry.schemas.protocol import HUB_ORIGIN

    token = _token_for(place.address, settings)
    found = {"HF_ENDPOINT": f"{Address.parse(place.address).url}/{KINDS[view].view}"}
    if token is not None:
        found["HF_TOKEN"] = for_hub_clients(place.address, token)
    # The token that somebody has for another Hub must not be sent to this one.
    found["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1" if token is None else "0"
    found["HF_HUB_DISABLE_XET"] = "1"  # large files are pushed by LFS; clients with hf_xet would insist on Xet
    found["HF_HUB_USER_AGENT_ORIGIN"] = HUB_ORIGIN  # tells the service that they won't
    return found


def log_in(url: str, token: str | None) -> Identity:
    """Check a token with the service at ``url``, keep it for that host, and make that registry the default.

    Raises:
        UnavailableError, NotAllowedError: the service can't be reached, or does not know the token; nothing is stored.
    """
    from registry.client.remote import RemoteRegistry

    with closing(RemoteRegistry(url, token, cache=_cache(read_settings(os.environ)))) as registry:
        identity = registry.whoami()
        _credentials().keep(registry.url, token)
    return identity


def log_out(url: str | None = None) -> str:
    """Forget the token of a service, by default of the one that login chose; answers with its address."""
    return _credentials().forget(url)
