"""Chromium on a page of another site, which would change an open registry on the same machine; and on our own pages."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

import httpx
import pytest
from playwright.sync_api import Browser, Page

from tests.kit.forged import refused, state, writes
from tests.kit.library import fill
from tests.kit.serving import served
from tests.kit.shelf import Shelf
from tests.web.kit import Site, open_reader

FETCH: Final = """async ([url, body]) => {
  const sent = {method: "POST", mode: "no-cors", credentials: "include", headers: {"Content-Type": "text/plain"}, body};
  return (await fetch(url, sent)).type;
}"""
BEACON: Final = "([url, body]) => navigator.sendBeacon(url, new Blob([body], {type: 'text/plain'}))"
FORM: Final = """([url, name]) => {
  const form = Object.assign(document.createElement("form"), {action: url, method: "post", enctype: "text/plain"});
  form.append(Object.assign(document.createElement("input"), {name, value: '"}'}));
  document.body.append(form);
  form.submit();
}"""
SANDBOX: Final = """async ([url, body]) => {
  const frame = Object.assign(document.createElement("iframe"), {sandbox: "allow-scripts"});
  const given = [url, {method: "POST", mode: "no-cors", body}].map((one) => JSON.stringify(one)).join();
  frame.srcdoc = `<script>fetch(${given})
    .finally(() => parent.postMessage("sent", "*"))</script>`;
  const sent = new Promise((resolve) => addEventListener("message", resolve, {once: true}));
  document.body.append(frame);
  await sent;
}"""
WITH_TOKEN: Final = """async (url) => {
  try {
    await fetch(url, {method: "PUT", headers: {"Authorization": "Bearer reg_none"}});
    return "sent";
  } catch (error) { return error.name; }
}"""


class _Evil(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>evil</title><link rel=icon href=data:,><p>Nothing to see here.")

    def log_message(self, *_: object) -> None:
        pass


@dataclass(frozen=True)
class Machine:
    """A machine with an open registry, and a server of another site's page."""

    shelf: Shelf
    address: str
    evil: int  # port


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    shelf = fill(tmp_path_factory.mktemp("open"), hidden=False)
    evil = ThreadingHTTPServer(("127.0.0.1", 0), _Evil)
    threading.Thread(target=evil.serve_forever, daemon=True).start()
    with served(shelf.registry) as address:
        yield Machine(shelf, address, evil.server_port)
    evil.shutdown()
    evil.server_close()
    shelf.close()


@pytest.fixture
def window(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    context.set_default_timeout(60_000)
    yield context.new_page()
    context.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_page_of_another_site_publishes_nothing(machine: Machine, window: Page, host: str) -> None:
    """Of another port, which is of the same site, and of another name of this machine, which is of another one."""
    registry, site = machine.shelf.registry, f"http://{host}:{machine.evil}"
    before, asked = state(registry), writes(machine.shelf, 21)
    known = len(refused(registry))
    for method, path, body in asked:
        window.goto(site)
        given = [f"{machine.address}{path}", body.decode()]
        if method == "POST":
            assert window.evaluate(FETCH, given) == "opaque"
            assert window.evaluate(BEACON, given)
            window.evaluate(SANDBOX, given)
        assert window.evaluate(WITH_TOKEN, given[0]) == "TypeError"
    window.goto(site)
    name = '{"organization": "tiny", "name": "forged", "more": "'
    with window.expect_navigation() as led:
        window.evaluate(FORM, [f"{machine.address}/hf/api/repos/create", name])
    assert led.value is not None
    assert led.value.status == 403
    assert "(cross_site)" in window.inner_text("body")
    assert state(registry) == before
    why = [one["why"] for one in refused(registry)[: len(refused(registry)) - known]]
    assert any(site in one for one in why)
    assert any("hides its address" in one for one in why)
    with httpx.Client(base_url=machine.address, timeout=60) as program:  # what was sent would do it
        plain = {"Content-Type": "text/plain"}
        created = program.post("/hf/api/repos/create", content=f'{name}="}}\r\n', headers=plain)
        assert created.status_code in (200, 409), created.text


def test_our_own_pages_go_on(machine: Machine, browser: Browser) -> None:
    registry = machine.shelf.registry
    for name, address in (("ours", machine.address), ("named", machine.address.replace("127.0.0.1", "localhost"))):
        with open_reader(browser, Site(address, registry, {})) as somebody:
            somebody.open("/edit/tiny/a@1")
            somebody.fill("New tag for @1", name)
            somebody.press("Tag it", within="main")
        assert name in {tag for one in registry.log("tiny/a").revisions for tag in one.tags}
