"""A folder without tokens takes what clients of each generation push, as programs say nothing of a page."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.machines import ClientSet, Machine, step
from tests.kit import plain_base, write_adapter
from tests.kit.serving import served
from tests.kit.shelf import Shelf

pytestmark = pytest.mark.slow


def test_clients_without_a_token_push_to_an_open_registry(clients: ClientSet, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    base = shelf.base("tiny", plain_base)
    folder = write_adapter(tmp_path / "made", base, list(base.modules)[:2], r=2, seed=5)
    with served(shelf.registry) as address:
        user = Machine(clients, tmp_path / "machine", f"{address}/hf")
        try:
            user.shell(f"hf upload tiny/whole {folder} . 2>&1")
            (commit,) = user.run(step("schedule", repo="tiny/scheduled", folder=str(folder)))
            user.run(step("asked", call="create_tag", repo_id="tiny/whole", tag="best"))
            create = f'{address}/hf/api/repos/create -d \'{{"organization": "tiny", "name": "new"}}\''
            user.shell(f"curl -sSf {create}")
            user.shell(f"curl -sSf -H 'Origin: null' {create}", exit_code=22)
        finally:
            user.leave()
    whole, scheduled = (shelf.registry.log(f"tiny/{name}").revisions for name in ("whole", "scheduled"))
    assert [one.tags for one in whole] == [("best",)]
    assert [one.digest for one in scheduled] == [whole[0].digest]
    assert commit
    assert [one.detail["code"] for one in shelf.registry.events(limit=99) if one.action == "refused"] == ["cross_site"]
    shelf.close()
