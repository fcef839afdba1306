"""Run by test_folder: followers that are killed at each change that they make to the file system."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from registry.folders.receipts import read_receipt
from registry.services.local import LocalRegistry
from tests.follow.conftest import Following
from tests.services.fault_worker import killed_at

NAMES = ("net/top@prod", "net/other@prod")


def opened(root: Path) -> LocalRegistry:
    return LocalRegistry.open(root / "registry", cache_folder=root / "cache")


def led_to(room: Path) -> dict[str, str]:
    """What each name leads to, whose bytes are those of its receipt."""
    found = {}
    for place in room.iterdir() if room.is_dir() else ():
        if not place.name.startswith("."):
            receipt = read_receipt(place)
            assert receipt is not None, place
            assert (place / "adapter_model.safetensors").stat().st_size > 0
            found[place.name] = receipt.reference
    return found


def main(root: Path) -> None:
    room, kills, step, turn = root / "served", 0, 0, 1
    Following(opened(root), room, NAMES, {"keep_for": 0.0}).round()
    while True:
        step += 1
        registry = opened(root)
        turn = 3 - turn
        registry.tag(f"net/top@{turn}", "prod")
        registry.close()

        def work(clock: float = 1e9 + step) -> None:  # time has passed, so that it sweeps, too
            Following(opened(root), room, NAMES, {"keep_for": 0.0}, clock=clock).round()

        before = led_to(room)
        was_killed = killed_at(step, work)
        after = led_to(room)
        assert before.keys() == after.keys() == {"net--top@prod", "net--other@prod"}, (step, before, after)
        assert after["net--top@prod"] in {"net/top@1", "net/top@2"}
        registry = opened(root)
        again = Following(registry, room, NAMES, {"keep_for": 0.0}, clock=1e9 + step + 0.5)
        again.round()
        again.clock += 1
        again.round()
        assert led_to(room)["net--top@prod"] == f"net/top@{turn}", step
        left = [one.name for one in (room / ".revisions").iterdir() if one.name.startswith(".") and one.name != ".lock"]
        assert left == [], (step, left)
        assert not [one.name for one in room.iterdir() if one.name.endswith(".new")]
        registry.close()
        if not was_killed:
            break
        kills += 1
    sys.stdout.write(json.dumps({"kills": kills}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
