"""Importing the repositories of an organisation of a Hub."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from registry.errors import NotFoundError
from tests.kit.hub_folder import HubFolders, hub_client
from tests.services.importing.plain_heap import PlainHeap
from tests.services.importing.test_import_plan import planned
from tests.services.publishing.parent_house import opened


@pytest.mark.slow
def test_the_repositories_of_an_organisation_come_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heap = PlainHeap(tmp_path / "heap").fill()
    heap.rubbish()
    places = {}
    with HubFolders() as hub, hub_client(monkeypatch, hub.url, tmp_path / "cache"), closing(opened(tmp_path)) as team:
        for name, named in (("support", "acme/Net-1B"), ("french", "acme/merged"), ("lost", "/old/merged-1")):
            folder = heap.run(f"on-hub-{name}", named, seed=len(name))
            if name == "support":
                heap.stepwise("on-hub", [folder])
            places[name] = f"hf:acme/{name}@{hub.add(f'acme/{name}', folder)}"
        places["tuned"] = f"hf:acme/tuned@{hub.add('acme/tuned', heap.tuned('on-hub-tuned'))}"
        places["net"] = f"hf:acme/Net-1B@{hub.add('acme/Net-1B', heap.base.folder)}"
        places["merged"] = f"hf:acme/merged@{hub.add('acme/merged', heap.folder / 'on-hub')}"
        hub.add("acme/mlx", heap.folder / "mlx")
        hub.add("other/legal", heap.legal)

        plan = team.plan_import("hf:acme")
        assert planned(plan.entries) == {
            places["net"]: ("add", "net-1b", None),
            places["support"]: ("publish", "support", places["net"]),
            places["french"]: ("publish", "french", places["support"]),
        }
        assert {one.folder.partition("@")[0]: one.action for one in plan.entries if one.action != "publish"} == {
            "hf:acme/Net-1B": "add",
            "hf:acme/lost": "undecided",
            "hf:acme/merged": "skip",
            "hf:acme/mlx": "refused",
            "hf:acme/tuned": "full",
        }
        assert next(one.parent for one in plan.entries if one.action == "full") == places["net"]
        assert {one.state for one in plan.apply()} == {"published"}
        assert team.search(path="net-1b/tuned").revisions[0].parent == "net-1b"
        french = team.search(path="net-1b/support/french").revisions[0]
        assert (french.parent, french.parent_known_by) == ("net-1b/support@1", "compared")
        assert (french.source or "").startswith(places["french"])
        assert {one.state for one in plan.apply()} == {"existing"}
        with pytest.raises(NotFoundError, match="hf:nobody has no repositories"):
            team.plan_import("hf:nobody")
