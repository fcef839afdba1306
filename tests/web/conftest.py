"""The gallery, made once a run; a service of it and a browser for the tests of a module; readers for each test."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.kit.gallery import Gallery, make_gallery
from tests.kit.pages import Visitor
from tests.kit.servers_home import held
from tests.web.kit import Reader, Site, open_browser, open_reader, open_site

OpenReader = Callable[..., Reader]
Visitors = Mapping[str | None, Visitor]


@pytest.fixture(scope="session")
def gallery(table_folder: Path) -> Gallery:
    """The gallery, made by the first process of the run that needs it; nothing changes this one."""
    place = table_folder.parent / "gallery"
    noted = place.with_suffix(".json")
    with held(place.with_suffix(".lock")):
        if not noted.exists():
            shutil.rmtree(place, ignore_errors=True)
            noted.write_text(json.dumps(dict(make_gallery(place).secrets)))
    return Gallery(place, json.loads(noted.read_text()))


@pytest.fixture(scope="module")
def site(gallery: Gallery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A service of a copy of the gallery, which the tests of a module may change."""
    folder = tmp_path_factory.mktemp("site") / "gallery"
    shutil.copytree(gallery.folder, folder)
    with open_site(folder, gallery.secrets) as opened:
        yield opened


@pytest.fixture(scope="module")
def visitors(site: Site) -> Iterator[Visitors]:
    """Everybody who has a token, signed in without a browser, and a stranger (None)."""
    with ExitStack() as opened:
        made: dict[str | None, Visitor] = {None: opened.enter_context(Visitor(site.address))}
        for who, secret in site.secrets.items():
            if who != "revoked":
                made[who] = opened.enter_context(Visitor(site.address))
                assert made[who].sign_in(secret).status_code == 303
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


@pytest.fixture
def reader(browser: Browser, site: Site) -> Iterator[OpenReader]:
    """Opens a window: ``reader()``, ``reader("admin")`` who is signed in, ``javascript=``, ``size=``, ``scheme=``."""
    with ExitStack() as windows:

        def open_one(who: str | None = None, **options: object) -> Reader:
            made = windows.enter_context(open_reader(browser, site, **options))  # type: ignore[arg-type]
            if who is not None:
                made.sign_in(who)
            return made

        yield open_one
