"""Pictures of every page of the gallery, light and dark, wide and narrow, for people to judge: ``make screenshots``.

``python -m tests.web.screenshots [FOLDER [NAME...]]``; names are those of `tests.web.page_table`.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Collection, Iterator
from itertools import groupby
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser

from tests.kit.gallery import make_gallery
from tests.web.kit import NARROW, WIDE, Reader, Scheme, Site, open_browser, open_reader, open_site
from tests.web.page_table import PAGES, PageRow, page_path

SIZES: Final = {"wide": WIDE, "narrow": NARROW}
SCHEMES: Final[tuple[Scheme, ...]] = ("light", "dark")


def take(folder: Path, names: Collection[str] = ()) -> Iterator[Path]:
    """Write the pictures, of all pages or those that are named; yields each file."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row for row in PAGES if not names or row.name in names]
    with tempfile.TemporaryDirectory() as work:
        gallery = make_gallery(Path(work) / "gallery")
        with open_site(gallery.folder, gallery.secrets) as site, open_browser() as browser:
            for size in SIZES:
                for scheme in SCHEMES:
                    yield from _of_look(browser, site, folder, rows, size, scheme)


def _of_look(
    browser: Browser, site: Site, folder: Path, rows: list[PageRow], size: str, scheme: Scheme
) -> Iterator[Path]:
    for who, group in groupby(sorted(rows, key=lambda row: row.who or ""), key=lambda row: row.who):
        with open_reader(browser, site, size=SIZES[size], scheme=scheme) as reader:
            if who is not None:
                reader.sign_in(who)
            for row in group:
                yield _picture(reader, row, folder / f"{row.name}-{size}-{scheme}.png")


def _picture(reader: Reader, row: PageRow, file: Path) -> Path:
    reader.open(page_path(reader.site, row), status=row.status)
    reader.page.screenshot(path=file, full_page=True, animations="disabled")
    return file


def main(folder: Path, names: Collection[str]) -> None:
    """Take them and name them."""
    for file in take(folder, names):
        print(file)


if __name__ == "__main__":
    main(Path(sys.argv[1] if sys.argv[1:] else "screenshots"), sys.argv[2:])
