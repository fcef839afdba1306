"""@huggingface/hub, the Hub's client for JavaScript: every call of its README, against a service.

`make test-long ONLY=javascript` installs it by npm and runs these tests; elsewhere they are skipped, and say so.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from registry.schemas.protocol import hub_form
from tests.clients.test_page import SECTIONS
from tests.clients.tree import Tree
from tests.kit import write_adapter
from tests.root import ROOT

pytestmark = pytest.mark.long
PLACE = Path(os.environ.get("CLIENTS_JS", Path(sys.prefix, "clients-js"))).absolute() / "node_modules"
PROGRAM = ROOT / "tests" / "clients" / "javascript" / "program.mjs"
REPO = "llama/support.french"
COMMIT = re.compile("[0-9a-f]{40}")


@dataclass
class Node:
    """A process of node that does calls, one after the other."""

    process: subprocess.Popen[str]
    folder: Path

    def ask(self, do: str, **given: Any) -> dict[str, Any]:
        """What came of a call."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps({"do": do, "given": given}), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        assert line, (self.folder / "said").read_text()
        found: dict[str, Any] = json.loads(line)
        return found

    def value(self, do: str, **given: Any) -> Any:
        found = self.ask(do, **given)
        assert "value" in found, found
        return found["value"]

    def refused(self, do: str, status: int, words: str, **given: Any) -> None:
        found = self.ask(do, **given)
        assert found.get("status") == status, found
        assert words in found["error"]


@pytest.fixture(scope="module")
def installed() -> None:
    if shutil.which("node") is None or not (PLACE / "@huggingface" / "hub").is_dir():
        pytest.skip(f"no node, or no @huggingface/hub in {PLACE}: `make test-long ONLY=javascript` installs it by npm")


@pytest.fixture(params=["hf", "hf-lora"])
def view(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def node(installed: None, tree: Tree, tmp_path: Path, view: str) -> Iterator[Node]:
    (tmp_path / "node_modules").symlink_to(PLACE)
    shutil.copy(PROGRAM, tmp_path)
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "HF_ENDPOINT": f"{tree.service.url}/{view}",
        "HF_TOKEN": hub_form(tree.token("writer")[1]),
    }
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(
            ["node", PROGRAM.name], cwd=tmp_path, env=environ,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True,
        )  # fmt: skip
    with process:
        yield Node(process, tmp_path)
        process.kill()


def wanted(tree: Tree, view: str, folder: Path) -> dict[str, str]:
    """The files of the repo as `fetch` writes them, and their sha256."""
    kind: Any = {"hf": "merged", "hf-lora": "lora"}[view]
    tree.registry.fetch(REPO.replace(".", "/"), folder, kind=kind)
    found = {one.name: one.read_bytes() for one in folder.iterdir() if one.name != "registry-receipt.json"}
    return {name: hashlib.sha256(data).hexdigest() for name, data in found.items()}


def test_what_it_reads(tree: Tree, node: Node, view: str, tmp_path: Path) -> None:
    files = wanted(tree, view, tmp_path / "fetched")
    weights = {"hf": "model.safetensors", "hf-lora": "adapter_model.safetensors"}[view]
    assert node.value("whoAmI")["auth"]["accessToken"]["role"] == "write"
    listed = node.value("listModels", search={"owner": "llama"}, additionalFields=["tags"])
    assert REPO in {one["name"] for one in listed}
    assert len({one["id"] for one in listed}) == len(listed)
    info = node.value("modelInfo", name=REPO, additionalFields=["sha", "filePaths"])
    assert COMMIT.fullmatch(info["sha"])
    assert set(info["filePaths"]) == files.keys()
    node.value("checkRepoAccess", repo=REPO)
    node.refused("checkRepoAccess", 404, "There is no adapter llama/nothing", repo="llama/nothing")
    assert [node.value("repoExists", repo=one) for one in (REPO, "llama/nothing")] == [True, False]
    every = node.value("listFiles", repo=REPO, recursive=True, expand=True)
    assert {one["path"] for one in every} == files.keys()
    assert {one["lastCommit"]["id"] for one in every} == {info["sha"]}
    paths = node.value("pathsInfo", repo=REPO, paths=[weights, "none"], expand=True)
    assert [one["path"] for one in paths] == [weights]
    for name, digest in files.items():
        assert node.value("fileExists", repo=REPO, path=name) is True
        size = node.value("fileDownloadInfo", repo=REPO, path=name)["size"]
        found = node.value("downloadFile", repo=REPO, path=name)
        assert (found["size"], found["sha256"]) == (size, digest)
        for revision in ("r1", "HEAD", info["sha"]):
            assert node.value("fileDownloadInfo", repo=REPO, path=name, revision=revision)["size"] == size
    raw = node.value("downloadFile", repo=REPO, path="README.md", raw=True)
    assert raw["sha256"] == files["README.md"]
    pointer = node.value("downloadFile", repo="llama/_", path="model.safetensors", raw=True)["text"]
    assert pointer.startswith("version https://git-lfs.github.com/spec/v1\noid sha256:")
    assert node.value("fileExists", repo=REPO, path="none") is False
    assert node.value("downloadFile", repo=REPO, path="none") is None
    cache = str(tmp_path / "cache")
    cached = Path(node.value("downloadFileToCacheDir", repo=REPO, path=weights, cacheDir=cache))
    assert hashlib.sha256(cached.read_bytes()).hexdigest() == files[weights]
    snapshot = Path(node.value("snapshotDownload", repo=REPO, cacheDir=cache))
    assert snapshot == cached.parent
    assert snapshot.name == info["sha"]
    assert {one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in snapshot.iterdir()} == files
    commits = node.value("listCommits", repo=REPO, batchSize=1)
    assert commits[0]["oid"] == info["sha"]
    assert node.value("countCommits", repo=REPO) == len(commits)
    metadata = node.value("parseSafetensorsMetadata", repo=REPO, path=weights, computeParametersCount=True)
    assert metadata["header"].keys() - {"__metadata__"}
    node.refused("listDatasets", 404, "the Hub views serve models by repo id", limit=1)


def test_what_it_uploads(tree: Tree, node: Node, view: str, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "made", tree.bases["llama"], ["q_proj", "v_proj"], r=2, seed=91 + len(view))
    pair = [{"file": str(folder / name)} for name in ("adapter_config.json", "adapter_model.safetensors")]
    repo = f"llama/js{len(view)}"
    made = node.value("createRepo", repo=repo, private=True, license="mit")
    assert (made["id"], made["repoUrl"]) == (repo, f"{tree.service.url}/{view}/models/{repo}")
    node.refused("createRepo", 409, "exists already", repo=repo)
    commit = node.value("uploadFiles", repo=repo, files=[*pair, {"path": "file.txt", "text": "Hello"}])["commit"]["oid"]
    (revision,) = tree.registry.log(repo).revisions
    tree.registry.fetch(f"{repo}@1", tmp_path / "back", kind="published")
    for one in pair:
        name = Path(one["file"]).name
        assert (tmp_path / "back" / name).read_bytes() == (folder / name).read_bytes()
    assert not (tmp_path / "back" / "file.txt").exists()
    assert node.value("modelInfo", name=repo, additionalFields=["sha"])["sha"] == commit
    node.value("uploadFile", repo=repo, file={"path": "README.md", "text": "---\nlicense: mit\n---\n# By node\n"})
    assert "By node" in tree.registry.card(repo).text
    steps = node.value("uploadFilesWithProgress", repo=repo, files=pair)
    assert steps[-1]["commit"]["oid"] == commit
    card = {"operation": "addOrUpdate", "path": "README.md", "text": "# Again\n"}
    node.value("commit", repo=repo, title="a card", operations=[card], parentCommit=commit)
    node.refused("commit", 412, "has a newer revision", repo=repo, title="x", operations=[card], parentCommit="0" * 40)
    node.refused("deleteFile", 422, "a push can't delete files", repo=repo, path="README.md")
    node.refused("deleteRepo", 422, "use `registry delete`", repo=repo)
    node.refused("createBranch", 422, "no branch but main", repo=repo, branch="dev")
    node.refused("uploadFile", 422, "no pull requests", repo=repo, isPullRequest=True, file={"path": "a", "text": "b"})
    node.refused("uploadFiles", 422, "push what is in made by itself", repo=f"{repo}x", files=[{"file": str(folder)}])
    assert [one.number for one in tree.registry.log(repo).revisions] == [revision.number]


def test_a_token_in_the_other_form_is_not_sent(node: Node, tree: Tree) -> None:
    found = node.ask("whoAmI", accessToken=tree.token()[1])
    assert (found["kind"], found["error"]) == ("TypeError", "Your access token must start with 'hf_'")


def test_the_lines_of_the_page(node: Node, tree: Tree) -> None:
    (lines,) = re.findall(r"^```js\n(.*?)^```$", SECTIONS["JavaScript"], flags=re.MULTILINE | re.DOTALL)
    (node.folder / "page.mjs").write_text(lines + "console.log(config.model_type);\n")
    environ = {
        "PATH": os.environ["PATH"],
        "HF_ENDPOINT": f"{tree.service.url}/hf",
        "HF_TOKEN": hub_form(tree.token()[1]),
    }
    done = subprocess.run(
        ["node", "page.mjs"], cwd=node.folder, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {"config.json", "model.safetensors", "llama"} <= set(done.stdout.split())
