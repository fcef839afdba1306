"""The pages below a path of somebody else's host, behind a real proxy that takes the path away."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from registry.app import service_app
from registry.services.local import LocalRegistry
from tests.kit.gallery import Gallery
from tests.kit.gallery_story import LLAMA
from tests.kit.library import running
from tests.kit.servers_home import Home, free_port, output, wait_until
from tests.web.kit import Site, open_reader

CADDY = Path(sys.executable).with_name("caddy")
CADDYFILE = """\
{{
    admin off
    auto_https off
    persist_config off
}}
http://127.0.0.1:{port} {{
    handle_path /team/* {{
        reverse_proxy {service}
    }}
    respond "not ours" 418
}}
"""


@pytest.fixture
def below(gallery: Gallery, own_home: Home, tmp_path: Path) -> Iterator[Site]:
    """A service of the gallery that is reached below ``/team`` only."""
    shutil.copytree(gallery.folder, tmp_path / "gallery")
    address = f"http://127.0.0.1:{(port := free_port())}/team"
    registry = LocalRegistry.open(tmp_path / "gallery", cache_folder=tmp_path / "cache")
    with running(service_app(registry, public_url=address)) as service:
        room = own_home.room("caddy")
        (room / "Caddyfile").write_text(CADDYFILE.format(port=port, service=service.removeprefix("http://")))
        command = [str(CADDY), "run", "--adapter", "caddyfile", "--config", str(room / "Caddyfile")]
        process = own_home.run(command, room)
        wait_until(lambda: "serving initial configuration" in output(room), process, room, "Caddy")
        yield Site(address, registry, gallery.secrets)
        process.kill()
        process.wait()
        own_home.forget(process)
    registry.close()


@pytest.mark.slow
def test_a_journey_below_a_prefix(browser: Browser, below: Site) -> None:
    """Whatever is followed, loaded or sent stays below it: anything else is noted as a request to another place."""
    with open_reader(browser, below) as somebody:
        somebody.open(f"/tree/{LLAMA}/support/french", status=401)
        somebody.fill("Token", below.secrets["admin"])
        somebody.press("Sign in", within="main")
        assert somebody.path == f"/team/tree/{LLAMA}/support/french"
        for name in ("Models", "Activity", "Jobs", "Admin", "Health"):
            somebody.click(name, within="[aria-label=Pages]")
            assert somebody.path.startswith("/team")
        somebody.open(f"/tree/{LLAMA}?view=drawing")
        followed = {one.get_attribute("href") for one in somebody.page.locator("a[href]").all()}
        assert all(one and one.startswith(("/team/", "#", "http")) for one in followed), followed
        somebody.open(f"/edit/{LLAMA}/support@5")
        somebody.press("Move to @5", within="tr:has(th :text-is('staging'))")
        assert somebody.path.startswith(f"/team/edit/{LLAMA}/support@5")
        assert below.registry.resolve(f"{LLAMA}/support@staging").reference == f"{LLAMA}/support@5"
        somebody.open(f"/use/{LLAMA}/support")
        assert f"REGISTRY_URL={below.address}" in somebody.text
        somebody.press("Sign out")
        assert somebody.path == "/team/sign-in"
