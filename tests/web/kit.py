"""People in front of a browser: Chromium on the pages of a real service, and everything that went wrong on the way.

A reader's journey fails on any violation of the policy for content, error on the console, exception, dialog, or request
to another host, or out of the path that the service is below, wherever it happened. Playwright keeps an event loop in
the thread that it runs in, so a browser is open only as long as the tests of one module run.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, Response, sync_playwright

from registry.http.access import Anonymous
from registry.services.local import LocalRegistry
from tests.kit.serving import served

Scheme = Literal["light", "dark"]
WIDE: Final = (1280, 900)
NARROW: Final = (390, 844)
_INSTALL: Final = "apt-get install -y --no-install-recommends chromium fonts-dejavu-core"
_WATCH: Final = """
document.addEventListener("securitypolicyviolation", (event) => {
  console.error(`policy violated: ${event.violatedDirective} by ${event.blockedURI} at ${event.sourceFile}`);
});
"""


def chromium() -> str:
    """The program; raises `AssertionError`, saying how to install it."""
    for name in (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name) if name else None
        if found:
            return found
    raise AssertionError(
        "The tests of the pages drive Chromium, and there is none on this machine: on Debian `" + _INSTALL + "` "
        "installs it; elsewhere set CHROMIUM to the program."
    )


@contextmanager
def open_browser() -> Iterator[Browser]:
    """A browser without windows."""
    program = chromium()
    with sync_playwright() as playwright:
        # As root there is no sandbox, and in a container little shared memory; the tests visit our own pages only.
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        try:
            yield browser
        finally:
            browser.close()


@dataclass(frozen=True)
class Site:
    """A service that readers visit, the registry that it serves, and the secrets of its tokens."""

    address: str
    registry: LocalRegistry
    secrets: Mapping[str, str]


@contextmanager
def open_site(
    folder: Path, secrets: Mapping[str, str], *, anonymous: Anonymous = "none", scratch: Path | None = None
) -> Iterator[Site]:
    """Serve the registry in a folder."""
    registry = LocalRegistry.open(folder, actor="ops", cache_folder=scratch or folder.with_name(f"{folder.name}-cache"))
    try:
        with served(registry, anonymous=anonymous) as address:
            yield Site(address, registry, secrets)
    finally:
        registry.close()


@dataclass
class Reader:
    """Somebody with a browser window of their own."""

    site: Site
    context: BrowserContext
    page: Page
    javascript: bool
    faults: list[str] = field(default_factory=list)
    expected: set[int] = field(default_factory=set)  # statuses of errors that this reader wants to see

    def open(self, path: str, *, status: int = 200) -> Response:
        """Go to a page by its path, query included."""
        self.expected |= {status} if status >= 400 else set()
        response = self.page.goto(self.site.address + path)
        assert response is not None
        self._expect(status, response.status, path)
        self.look()
        return response

    def click(self, name: str, *, role: Any = "link", within: str | None = None, status: int = 200) -> None:
        """Follow a link, or press a button, by what it is called; waits for the page that it leads to."""
        self.expected |= {status} if status >= 400 else set()
        place = self.page.locator(within) if within else self.page
        with self.page.expect_navigation() as led:
            place.get_by_role(role, name=name, exact=True).first.click()
        self._expect(status, led.value.status, name)
        self.look()

    def _expect(self, wanted: int, found: int, what: str) -> None:
        if found != wanted:
            raise AssertionError(f"{what} answers {found}, and {wanted} is expected: {self.text[:500]}")

    def press(self, name: str, *, within: str | None = None, status: int = 200) -> None:
        """Press a button that sends a form."""
        self.click(name, role="button", within=within, status=status)

    def fill(self, label: str, text: str, *, within: str | None = None) -> None:
        """Write into the field with a label."""
        (self.page.locator(within) if within else self.page).get_by_label(label, exact=True).first.fill(text)

    def sign_in(self, who: str, *, status: int = 200) -> None:
        """By the form, with the token of somebody."""
        self.sign_in_with(self.site.secrets[who], status=status)

    def sign_in_with(self, secret: str, *, status: int = 200) -> None:
        self.open("/sign-in")
        self.fill("Token", secret)
        self.press("Sign in", within="main", status=status)

    @property
    def text(self) -> str:
        """What the page says, as it is laid out."""
        return self.page.inner_text("body")

    @property
    def path(self) -> str:
        """Where the reader is: path and query."""
        parts = urlsplit(self.page.url)
        return parts.path + (f"?{parts.query}" if parts.query else "")

    def axe(self) -> list[str]:
        """Faults of the page for people who can't see it well, or use no mouse: all that axe-core finds."""
        found: Any = Axe().run(self.page, options={"resultTypes": ["violations"]}).response
        return [
            f"{one['id']} ({one['impact']}): {one['help']}: "
            + "; ".join(str(node["html"])[:160] for node in one["nodes"][:4])
            for one in found["violations"]
        ]

    def look(self) -> None:
        """Note it where an attack ran on this page."""
        if self.page.evaluate("typeof globalThis.hacked") != "undefined":
            self.faults.append(f"{self.page.url}: an attack ran")

    def note_console(self, message: ConsoleMessage) -> None:
        wanted = [f"status of {status} " for status in self.expected]
        if message.type in ("error", "warning") and not any(one in message.text for one in wanted):
            self.faults.append(f"{self.page.url}: console: {message.text} {message.location}")

    def note_request(self, request: Request) -> None:
        ours = (self.site.address + "/", "data:", "blob:")
        if not request.url.startswith(ours):
            self.faults.append(f"{self.page.url}: asks another host: {request.url}")

    def check(self) -> None:
        """Fail on what went wrong."""
        if self.faults:
            raise AssertionError("\n".join(self.faults[:20]))


@contextmanager
def open_reader(
    browser: Browser,
    site: Site,
    *,
    javascript: bool = True,
    size: tuple[int, int] = WIDE,
    scheme: Scheme = "light",
    cookies: Any = None,
) -> Iterator[Reader]:
    """A reader whose faults fail at the end."""
    context = browser.new_context(
        java_script_enabled=javascript,
        viewport={"width": size[0], "height": size[1]},
        color_scheme=scheme,
        locale="en-GB",
        timezone_id="Europe/Paris",
        permissions=["clipboard-read", "clipboard-write"],
        storage_state=cookies,
    )
    context.set_default_timeout(20_000)
    context.add_init_script(_WATCH)
    reader = Reader(site, context, context.new_page(), javascript)
    context.on("console", reader.note_console)
    context.on("request", reader.note_request)
    context.on("weberror", lambda error: reader.faults.append(f"{reader.page.url}: {error.error}"))
    reader.page.on("dialog", lambda dialog: reader.faults.append(f"{reader.page.url}: a dialog: {dialog.message}"))
    try:
        yield reader
        reader.look()
    finally:
        with suppress(Exception):  # a window that crashed: what failed is told already
            context.close()
    reader.check()
