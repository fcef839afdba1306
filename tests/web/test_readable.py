"""Every page can be used by people who see it badly, have no mouse, or hold a telephone: axe-core finds nothing."""

from __future__ import annotations

import pytest

from tests.web.conftest import OpenReader
from tests.web.kit import NARROW, Scheme, Site
from tests.web.page_table import PAGES, PageRow, page_path

QUICK = {"home", "adapter"}
IN_CI = {"tree", "tensors", "edit", "compare", "search", "admin"}  # those with forms and tables of their own


def _mark(row: PageRow) -> pytest.MarkDecorator:
    return pytest.mark.slow if row.name in IN_CI else pytest.mark.long


ROWS = [pytest.param(row, id=row.name, marks=() if row.name in QUICK else _mark(row)) for row in PAGES]
AT_LENGTH = [pytest.param(row, id=row.name, marks=() if row.name in QUICK else pytest.mark.long) for row in PAGES]


@pytest.mark.slow_on("adapter")
@pytest.mark.long_on("dark")
@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_a_page(reader: OpenReader, site: Site, row: PageRow, scheme: Scheme) -> None:
    somebody = reader(row.who, scheme=scheme)
    somebody.open(page_path(site, row), status=row.status)
    assert somebody.axe() == []


@pytest.mark.parametrize("row", AT_LENGTH)
def test_a_page_fits_a_narrow_screen(reader: OpenReader, site: Site, row: PageRow) -> None:
    somebody = reader(row.who, size=NARROW, scheme="dark")
    somebody.open(page_path(site, row), status=row.status)
    wider = somebody.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wider == 0
    assert somebody.axe() == []
