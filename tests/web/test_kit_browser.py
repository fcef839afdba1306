"""The readers of the tests notice what they are there to notice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.web.kit import Site, chromium, open_reader

GOOD = "<!doctype html><html lang=en><title>t</title><main><h1>Good</h1></main>"
PAGES = {
    "/good": GOOD,
    "/favicon.ico": GOOD,
    "/inline": GOOD + "<script>globalThis.hacked=1</script>",
    "/style": GOOD + "<p style='color:red'>x</p>",
    "/image": GOOD + "<img alt=x src='http://127.0.0.2:9/x.png'>",
    "/throws": GOOD + "<script src=/throws.js></script>",
    "/throws.js": "throw new Error('no')",
    "/hacked": GOOD + "<script src=/hacked.js></script>",
    "/hacked.js": "globalThis.hacked=1",
    "/pale": GOOD + "<p>pale <img src='data:image/gif;base64,R0lGODlhAQABAAAAACw='></p>",
}
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Pages with a fault each."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = PAGES.get(self.path)
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", "text/javascript" if self.path.endswith(".js") else "text/html")
            self.send_header("Content-Security-Policy", POLICY)
            self.end_headers()
            self.wfile.write((body or GOOD).encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    nobody: Any = None
    yield Site(f"http://127.0.0.1:{server.server_address[1]}", nobody, {})
    server.shutdown()
    thread.join()
    server.server_close()


def faults_of(browser: Browser, site: Site, path: str, **options: Any) -> list[str]:
    """What a reader notes who goes to a page."""
    with open_reader(browser, site, **options) as made:
        made.page.goto(site.address + path)
        made.look()
        made.page.wait_for_timeout(100)  # what was refused is told a moment later
        found = list(made.faults)
        made.faults.clear()
        made.page.goto("about:blank")
    return found


@pytest.mark.long_but("/inline-True-script", "/image-False-asks another host", "/missing-False-404")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "javascript", "told"),
    [
        ("/inline", True, "script"),
        ("/style", True, "style"),
        ("/style", False, "style"),
        ("/image", True, "asks another host"),
        ("/image", False, "asks another host"),
        ("/missing", True, "404"),
        ("/missing", False, "404"),
    ],
)
def test_a_fault_of_a_page_is_noted(browser: Browser, site: Site, path: str, javascript: bool, told: str) -> None:
    assert any(told in one for one in faults_of(browser, site, path, javascript=javascript))


@pytest.mark.parametrize("javascript", [True, False])
def test_a_page_without_faults_has_none(browser: Browser, site: Site, javascript: bool) -> None:
    assert faults_of(browser, site, "/good", javascript=javascript) == []


@pytest.mark.parametrize(("path", "told"), [("/throws", "no"), ("/hacked", "an attack ran")])
def test_what_ran_is_noted(browser: Browser, site: Site, path: str, told: str) -> None:
    assert any(told in one for one in faults_of(browser, site, path))


def test_a_fault_fails(browser: Browser, site: Site) -> None:
    with pytest.raises(AssertionError, match="asks another host"), open_reader(browser, site) as made:
        made.open("/image")


def test_a_page_that_few_can_read_is_noted(browser: Browser, site: Site) -> None:
    with open_reader(browser, site) as made:
        made.open("/good")
        assert made.axe() == []
        made.open("/pale")
        assert [one.split()[0] for one in made.axe()] == ["image-alt", "region"]


def test_without_chromium_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("CHROMIUM", "/nowhere/chromium")
    with pytest.raises(AssertionError, match="apt-get install -y --no-install-recommends chromium"):
        chromium()
