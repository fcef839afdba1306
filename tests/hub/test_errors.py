"""What is not there, what may not be seen, and what can't be made.

Warnings, which clients print before an error: where that error may not have the reason, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from registry.app import service_app
from registry.http.limits import Limits
from registry.schemas.protocol import VIEWS
from registry.services import hub_repos
from registry.services.artifacts import commits
from registry.tensors.artifacts import plan
from tests.hub.conftest import WEIGHTS, assert_missing, fill, sha
from tests.kit import RawTensor, plain_base, read_tensors, write_tensors
from tests.kit.library import Library, running, with_tokens
from tests.kit.recipes import Recipe, write_recipes
from tests.kit.shelf import Shelf
from tests.kit.variants import MAKERS, VARIANTS

REPOS = ["tiny/q", "tiny/a.q", "tiny/a.x.y", "none/_", "none/a", "Tiny/a", "tiny/A", "tiny/a..x", "tiny/-", "tiny/é"]


@pytest.mark.parametrize(("view", "repo"), [*(("hf", repo) for repo in REPOS), *((view, "tiny/q") for view in VIEWS)])
def test_no_such_repo(reader: httpx.Client, view: str, repo: str) -> None:
    for method, address in (
        ("GET", f"/api/models/{repo}"),
        ("GET", f"/api/models/{repo}/revision/main"),
        ("GET", f"/api/models/{repo}/tree/main"),
        ("GET", f"/api/models/{repo}/refs"),
        ("GET", f"/api/models/{repo}/commits/main"),
        ("POST", f"/api/models/{repo}/paths-info/main"),
        ("GET", f"/{repo}/resolve/main/config.json"),
        ("HEAD", f"/{repo}/resolve/main/config.json"),
    ):
        assert_missing(reader.request(method, f"/{view}{address}"), "RepoNotFound")


NAMES = ["r9", "r0", "1", "nothing", "secret", "0" * 40, "feature%2Fx", "a%3Ab", "%C3%A9", "r1%20"]


@pytest.mark.parametrize(("view", "name"), [*(("hf", name) for name in NAMES), *((view, "r9") for view in VIEWS)])
def test_no_such_revision(reader: httpx.Client, view: str, name: str) -> None:
    for method, address in (
        ("GET", f"/api/models/tiny/a/revision/{name}"),
        ("GET", f"/api/models/tiny/a/tree/{name}/sub%2Ffolder"),
        ("GET", f"/api/models/tiny/a/commits/{name}"),
        ("POST", f"/api/models/tiny/a/paths-info/{name}"),
        ("GET", f"/tiny/a/resolve/{name}/config.json"),
        ("HEAD", f"/tiny/a/resolve/{name}/config.json"),
    ):
        assert_missing(reader.request(method, f"/{view}{address}"), "RevisionNotFound")


def test_a_commit_of_another_view_or_repo_is_none_of_this_one(reader: httpx.Client) -> None:
    for commit in (sha(reader, "hf-lora", "tiny/a"), sha(reader, "hf", "tiny/a.x"), sha(reader, "hf", "tiny/_")):
        assert_missing(reader.get(f"/hf/api/models/tiny/a/revision/{commit}"), "RevisionNotFound")
    published = sha(reader, "hf-published", "tiny/a")
    other = published[:28] + "0" * 12  # nothing makes copies otherwise
    assert_missing(reader.get(f"/hf-published/api/models/tiny/a/revision/{other}"), "RevisionNotFound")


ODD = ["/%00", "/tiny%2Fa%2Fresolve%2Fmain%2Fx", "/api/models/tiny%2Fa%2Frevision%2Fmain", "/tiny%2Fa/resolve/main/x"]


@pytest.mark.parametrize("address", ODD)
def test_odd_addresses_are_answered_as_any_other(reader: httpx.Client, address: str) -> None:
    answer = reader.get(f"/hf{address}")
    assert_missing(answer, answer.headers["x-error-code"])


def test_a_line_end_is_a_character_as_any_other(reader: httpx.Client) -> None:
    commit = sha(reader, "hf", "tiny/a")
    for name in ("a%0Ab", "%0A", "config.json%0A", "a%0D%0Ab", "folder/a%0Ab"):
        for revision in ("main", commit):
            for method in ("HEAD", "GET"):
                answer = reader.request(method, f"/hf/tiny/a/resolve/{revision}/{name}")
                assert_missing(answer, "EntryNotFound", commit=commit)
        assert_missing(reader.get(f"/hf/api/models/tiny/a/tree/main/x{name}"), "EntryNotFound", commit=commit)
    for address in ("revision/main%0A", "revision/a%0Ab", "tree/main%0A", "commits/a%0Ab", "commits/%0A"):
        assert_missing(reader.get(f"/hf/api/models/tiny/a/{address}"), "RevisionNotFound")
    assert_missing(reader.post("/hf/api/models/tiny/a/paths-info/main%0A"), "RevisionNotFound")
    assert_missing(reader.get("/hf/api/models/tiny/a%0A"), "RepoNotFound")


def test_the_api_keeps_its_own_form(reader: httpx.Client) -> None:
    for address in ("/api/v1/nothing/resolve/main/x", "/hfx/tiny/a", "/hfx"):
        answer = reader.get(address)
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


# ------------------------------------------------------------------ tokens


@pytest.mark.parametrize("who", ["nobody", "revoked", "stranger"])
def test_without_a_good_token_there_is_no_repo(service: str, library: Library, who: str) -> None:
    headers = {"Authorization": "Bearer reg_stranger"} if who == "stranger" else library.headers(who)
    for method, address in (("GET", "/hf/api/models/tiny/a"), ("HEAD", "/hf/tiny/a/resolve/main/config.json"),
                            ("GET", "/hf/tiny/nothing/resolve/main/x"), ("GET", "/hf/nothing")):  # fmt: skip
        answer = httpx.request(method, service + address, headers=headers)
        assert_missing(answer, "RepoNotFound", status=401)
        assert answer.headers["www-authenticate"] == "Bearer"


def test_refusals_are_noted(service: str, library: Library) -> None:
    answer = httpx.get(f"{service}/hf-lora/tiny/a/resolve/main/x", headers={"Authorization": "Bearer stranger"})
    assert answer.status_code == 401
    noted = library.registry.events(limit=1)[0]
    assert noted.action == "refused"
    assert "/hf-lora/{namespace}/{name}/resolve/{revision}/{path}" in str(noted.detail)


@pytest.mark.parametrize("view", VIEWS)
def test_what_a_token_may_not_see_is_not_there(service: str, library: Library, reader: httpx.Client, view: str) -> None:
    seen = httpx.Client(base_url=service, headers=library.headers("reader of a"))
    hidden, nothing = seen.get(f"/{view}/api/models/tiny/b.y"), seen.get(f"/{view}/api/models/tiny/c.y")
    assert_missing(hidden, "RepoNotFound")
    assert hidden.text.replace("tiny/b", "P") == nothing.text.replace("tiny/c", "P")
    commit = sha(reader, view, "tiny/b.y")
    assert_missing(seen.head(f"/{view}/tiny/b.y/resolve/{commit}/config.json"), "RepoNotFound")
    assert_missing(
        seen.get(f"/hf-lora/api/models/tiny/_/revision/{sha(reader, 'hf-lora', 'tiny/b')}"), "RevisionNotFound"
    )
    assert_missing(seen.get("/hf-lora/api/models/tiny/_/revision/secret"), "RevisionNotFound")
    for repo in ("tiny/a", "tiny/a.x", "tiny/_"):
        assert sha(seen, view, repo) == sha(reader, view, repo)
    seen.close()


def test_above_a_scope_is_composed_and_not_shown(service: str, library: Library, reader: httpx.Client) -> None:
    secret = library.registry.create_token("reader", name="of x", scopes=["tiny/a/x"]).secret
    with httpx.Client(base_url=service, headers={"Authorization": f"Bearer {secret}"}) as inside:
        for view in VIEWS:
            assert_missing(inside.get(f"/{view}/api/models/tiny/a"), "RepoNotFound")
            address = f"/{view}/tiny/a.x/resolve/{sha(inside, view, 'tiny/a.x')}/{WEIGHTS[view]}"
            assert inside.get(address).content == reader.get(address).content


# ------------------------------------------------------------------ what can't be made


def test_commits_outlive_what_main_means(shelf_service: tuple[Library, httpx.Client]) -> None:
    library, client = shelf_service
    before = {view: sha(client, view, "tiny/a") for view in VIEWS}
    kept = {
        view: client.get(f"/{view}/tiny/a/resolve/{commit}/{WEIGHTS[view]}").content for view, commit in before.items()
    }
    _publish_again(library)
    library.registry.tag("tiny/a@3", "prod")
    for view, commit in before.items():
        assert sha(client, view, "tiny/a") == sha(client, view, "tiny/a", "prod") != commit
        assert sha(client, view, "tiny/a", commit) == commit == sha(client, view, "tiny/a", "r2")
        answer = client.get(f"/{view}/tiny/a/resolve/{commit}/{WEIGHTS[view]}")
        assert (answer.content, answer.headers["x-repo-commit"]) == (kept[view], commit)


def _publish_again(library: Library) -> None:
    out = library.shelf.folder()
    library.registry.fetch("tiny/b", out, kind="published")
    library.registry.publish(out, "tiny/a")


def test_a_commit_of_another_arithmetic_is_not_here_and_not_gone(
    shelf_service: tuple[Library, httpx.Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, client = shelf_service
    before = {view: sha(client, view, "tiny/a.x") for view in VIEWS}
    for module in (commits, plan, hub_repos):
        monkeypatch.setattr(module, "fingerprint", lambda: "another")
    now = {view: sha(client, view, "tiny/a.x") for view in VIEWS}
    assert now["hf-published"] == before["hf-published"]  # copied: made in one way
    for view in ("hf", "hf-lora"):
        assert now[view] != before[view]
        assert now[view][:28] == before[view][:28]
        for method, address in (
            ("GET", f"/{view}/api/models/tiny/a.x/revision/{before[view]}"),
            ("HEAD", f"/{view}/tiny/a.x/resolve/{before[view]}/{WEIGHTS[view]}"),
            ("GET", f"/{view}/tiny/a.x/resolve/{before[view]}/{WEIGHTS[view]}"),
        ):
            answer = client.request(method, address)
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) > 0
            assert now[view] in answer.headers["x-error-message"]
            assert "x-error-code" not in answer.headers


def test_what_was_retracted_is_told_and_not_handed_out(shelf_service: tuple[Library, httpx.Client]) -> None:
    library, client = shelf_service
    pinned = {(view, repo): sha(client, view, repo, name) for view in VIEWS
              for repo, name in (("tiny/a", "r1"), ("tiny/a.x", "main"))}  # fmt: skip
    library.registry.retract("tiny/a@1", reason="poisoned\nséance")
    for (view, repo), commit in pinned.items():
        for name in (commit, "r1", "prod", *(["main"] if repo == "tiny/a.x" else [])):
            for address in (
                f"/{view}/{repo}/resolve/{name}/{WEIGHTS[view]}",
                f"/{view}/api/models/{repo}/revision/{name}",
            ):
                message = assert_missing(client.get(address), "RevisionNotFound")
                assert "poisoned s?ance" in message
    refs = client.get("/hf/api/models/tiny/a/refs").json()
    assert [one["name"] for one in refs["tags"]] == ["r2"]
    assert refs["branches"]
    gone = client.get("/hf/api/models/tiny/a.x/refs").json()
    assert (gone["branches"], gone["tags"]) == ([], [])
    assert len(client.get("/hf/api/models/tiny/a/commits/main").json()) == 2


def test_a_service_with_too_much_to_do_says_so_in_the_form_of_the_hub(tmp_path: Path) -> None:
    library = with_tokens(fill(tmp_path))
    limits = Limits(computed=0, queue=0)
    with (
        running(service_app(library.registry, limits=limits), limits) as address,
        httpx.Client(base_url=address, headers=library.headers("reader")) as client,
    ):
        answer = client.get(f"/hf/tiny/a/resolve/{sha(client, 'hf', 'tiny/a')}/model.safetensors")
        assert answer.status_code == 429  # on which clients wait
        assert answer.headers["retry-after"] == "1"
        assert "x-error-message" in answer.headers
        assert set(answer.json()) == {"error"}
    library.shelf.close()


def test_a_damaged_blob_is_an_error_and_no_missing_file(shelf_service: tuple[Library, httpx.Client]) -> None:
    library, client = shelf_service
    commit = sha(client, "hf-published", "tiny/b")
    entries = client.get(f"/hf-published/api/models/tiny/b/tree/{commit}").json()
    weights = next(entry for entry in entries if entry["path"] == WEIGHTS["hf-published"])
    for file in (library.shelf.root / "registry").rglob(f"*{weights['lfs']['oid'][4:]}*"):
        file.chmod(0o644)
        file.write_bytes(bytes(weights["size"]))
    answer = client.get(f"/hf-published/tiny/b/resolve/{commit}/{WEIGHTS['hf-published']}")
    assert answer.status_code == 500
    assert "x-error-code" not in answer.headers
    assert answer.headers["x-error-message"]


# ------------------------------------------------------------------ registries of one machine


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    made = Shelf(tmp_path)
    yield made
    made.close()


@contextmanager
def opened(shelf: Shelf) -> Iterator[httpx.Client]:
    with running(service_app(shelf.registry, "open")) as address, httpx.Client(base_url=address, timeout=120) as client:
        yield client


def test_a_path_that_no_adapter_equals_has_no_revision_as_one(shelf: Shelf) -> None:
    base = shelf.base("tiny", MAKERS["attention"])
    recipes = [VARIANTS["attention"]["plain"], replace(VARIANTS["attention"]["beside"], seed=1)]
    for folder, path in zip(write_recipes(shelf.folder(), base, recipes), ("tiny/a", "tiny/a/b"), strict=True):
        shelf.registry.publish(folder, path)
    with opened(shelf) as client:
        assert client.get("/hf/api/models/tiny/a.b").status_code == 200
        assert client.get("/hf-lora/api/models/tiny/a").status_code == 200
        for method, asked in (
            ("GET", "/api/models/tiny/a.b"),
            ("HEAD", "/tiny/a.b/resolve/main/adapter_config.json"),
            ("GET", "/tiny/a.b/resolve/r1/adapter_model.safetensors"),
        ):
            answer = client.request(method, f"/hf-lora{asked}")
            message = assert_missing(answer, "RevisionNotFound")
            assert "no single PEFT adapter equals this path" in message
            assert answer.headers["x-hf-warning"] == f"not_composable tiny/a.b; {message}"


def test_what_only_values_show_is_told_before_the_first_byte(shelf: Shelf) -> None:
    """Rows of zeros under DoRA: what a child adds to them has no form on the original base."""
    base = shelf.base("tiny", plain_base)
    recipes = [Recipe(targets=("one",), dora=True), Recipe(targets=("one",), seed=1)]
    first, second = write_recipes(shelf.folder(), base, recipes)
    tensors = read_tensors(first / "adapter_model.safetensors")
    for name, raw in tensors.items():
        if name.endswith("lora_magnitude_vector"):
            tensors[name] = RawTensor.of(raw.values * 0, raw.dtype)
    write_tensors(first / "adapter_model.safetensors", tensors)
    shelf.registry.publish(first, "tiny/a")
    shelf.registry.publish(second, "tiny/a/b")
    with opened(shelf) as client:
        address = f"/hf-lora/tiny/a.b/resolve/{sha(client, 'hf-lora', 'tiny/a.b')}/adapter_model.safetensors"
        answer = client.get(address, headers={"Range": "bytes=-8"})
        assert "magnitude of 0" in assert_missing(answer, "RevisionNotFound")


def test_a_registry_without_tokens_is_open_to_its_machine_only(shelf: Shelf) -> None:
    shelf.base("tiny", plain_base)
    with running(service_app(shelf.registry, "open")) as address:
        assert httpx.get(f"{address}/hf/api/models/tiny/_").json()["id"] == "tiny/_"
        answer = httpx.get(f"{address}/hf/api/models/tiny/_", headers={"Host": "elsewhere.example"})
        assert_missing(answer, "RepoNotFound", status=403)


WARNING = "x-hf-warning"


def test_clients_are_warned_of_what_they_may_never_print(shelf_service: tuple[Library, httpx.Client]) -> None:
    """Their command prints an error of its own where it knows the code; a warning it prints before."""
    library, client = shelf_service
    library.registry.retract("tiny/a@1", reason="poisoned;\nséance " + "x" * 1500)
    for address in ("/hf/tiny/a/resolve/r1/config.json", "/hf/api/models/tiny/a/revision/prod"):
        for method in ("GET", "HEAD"):
            answer = client.request(method, address)
            topic, _, sentence = answer.headers[WARNING].partition("; ")
            assert topic == "retracted tiny/a"
            assert sentence == answer.headers["x-error-message"]
            assert "poisoned; s?ance" in sentence
    assert client.get("/hf-lora/api/models/tiny/a.x").headers[WARNING].startswith("retracted tiny/a.x; ")
    stranger = {"Authorization": "Bearer reg_stranger"}
    for address, topic in (
        ("/api/models/tiny/a", "bad_token tiny/a"),
        ("/ti;ny/%0Aa%0A/resolve/main/x", "bad_token ti?ny/ a"),
        (f"/tiny/{'a' * 3000}/resolve/main/x", f"bad_token tiny/{'a' * 241}"),
        ("/api/whoami-v2", "bad_token"),
    ):
        answer = client.get(f"/hf{address}", headers=stranger)
        assert answer.headers[WARNING] == f"{topic}; {answer.headers['x-error-message']}"


def test_what_is_only_not_there_is_no_warning(reader: httpx.Client) -> None:
    """Clients ask whether something exists, and are answered that it doesn't."""
    for method, address in (
        ("GET", "/api/models/tiny/q"),
        ("GET", "/api/models/none/a"),
        ("GET", "/api/models/tiny/a/revision/nothing"),
        ("GET", f"/api/models/tiny/a/revision/{'0' * 40}"),
        ("GET", "/api/models/tiny/a/revision/feature%2Fx"),
        ("HEAD", "/tiny/a/resolve/main/nothing.json"),
        ("HEAD", "/tiny/a/resolve/r9/config.json"),
        ("GET", "/api/models"),
    ):
        assert WARNING not in reader.request(method, f"/hf{address}").headers
