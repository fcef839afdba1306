"""huggingface_hub's own tests, as far as they make sense, against a service of this registry.

    python -m tests.clients.own_tests [--source FOLDER] [PYTEST...]

Its source distribution has them: it is fetched from the package index, in the version that is installed, or is in
FOLDER, a checkout or what was unpacked. They run with a conftest and constants of ours. What is about another kind of
Hub is skipped there or named here, with the reason; any other failure is one of the registry, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from typing import Final

from registry.app import service_app
from registry.services.local import LocalRegistry
from tests.kit import plain_base
from tests.kit.library import running
from tests.root import ROOT

OWN: Final = ROOT / "tests" / "clients" / "own"
FILES: Final = (
    "file_download", "snapshot_download", "hf_file_system", "lfs", "commit_api", "tree_cache", "cache_layout",
    "cache_no_symlinks", "local_folder", "upload_pipeline", "offline_utils", "utils_errors", "utils_pagination",
)  # fmt: skip
REPLACED: Final[dict[str, dict[str, str]]] = {
    # Base models keep no pickles, by whose names the tests call files of any bytes.
    "": {'.bin"': '.dat"'},
    # There are no data sets here: the same of models.
    "test_hf_file_system": {'repo_type="dataset"': 'repo_type="model"', 'f"datasets/{': 'f"{'},
}
"""What reads otherwise in the tests, of one file or of all."""
_BESIDE, _PULLS, _THEIRS = "files that a base model has beside", "pull requests", "a repo, or a file, of the Hub itself"
NOT_HERE: Final[dict[str, str]] = {
    "test_download_from_a_gated_repo_with_hf_hub_download": "gated repos",
    "test_hf_hub_download_custom_cache_permission": _THEIRS,
    "test_download_from_a_renamed_repo_with_hf_hub_download": _THEIRS,
    "test_hf_hub_url_with_endpoint": _THEIRS,
    "test_get_hf_file_metadata_basic": _THEIRS,
    "test_get_hf_file_metadata_from_a_lfs_file": _THEIRS,
    "test_dry_run_cache_dir": _THEIRS,
    "TestNormalizeEtag::test_resolve_endpoint": _THEIRS,
    "TestExtraLargeFileDownloadPaths": _THEIRS,
    "test_scan_and_delete_cache_no_symlinks": _THEIRS,
    "test_paginate_hf_api": _THEIRS,
    "test_cache_layout.TestCacheFileLayout": _THEIRS,
    "test_hf_file_system_file_can_handle_gzipped_file": _THEIRS,
    "OnAwfulFilenames": "names of files that Windows has not are refused",
    "test_try_to_load_from_cache_specific_pr_revision_exists": _PULLS,
    "TestHfFileSystemRepositoryRO::test_glob_with_revision": _PULLS,
    "TestHfFileSystemRepositoryRO::test_read_file_with_revision": _PULLS,
    "TestHfFileSystemRepositoryRO::test_list_data_directory_with_revision": _PULLS,
    "TestHfFileSystemRepositoryRW::test_remove_file_with_revision": _PULLS,
    "TestHfFileSystemRepositoryRO::test_glob": _BESIDE,
    "TestHfFileSystemRepositoryRO::test_list_root_directory": _BESIDE,
    "TestHfFileSystemRepositoryRO::test_find_root_directory": _BESIDE,
    "test_exists_after_repo_creation": "a repo of that name",
    "test_private_repo_and_file_cached_locally": "a config.json that is no JSON",
    "test_metadata_not_ok_and_revision_is_a_commit_hash": "a second commit of what is no adapter",
    "test_metadata_not_ok_and_lfs_file_and_sha256_match": "an ETag that is the sha256: ours are of renderings",
    "test_passing_token_false_is_respected": "reading without a token",
}
"""Tests that fail for a reason that is none of the registry's, by a part of their names."""


def fetched(to: Path) -> Path:
    """The source distribution of the installed version, unpacked."""
    version = importlib.metadata.version("huggingface_hub")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    command = [*pip, "--no-binary", ":all:", "--no-build-isolation", f"huggingface_hub=={version}", "--dest", str(to)]
    if subprocess.run(command, check=False).returncode:
        raise SystemExit(
            f"The source of huggingface_hub {version} can't be fetched from the package index: give a folder that has "
            "its tests/, as `make test-long ONLY=hub-own HUB_SOURCE=FOLDER`."
        )
    (archive,) = to.glob("huggingface_hub-*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(to, filter="data")
    return to / archive.name.removesuffix(".tar.gz")


def adapted(source: Path, to: Path) -> Path:
    """A copy of the tests with our conftest and constants."""
    place = to / "own"
    shutil.copytree(source / "tests", place / "tests_of_hub", ignore=shutil.ignore_patterns("conftest.py"))
    (place / "tests_of_hub" / "__init__.py").touch()
    shutil.copy(OWN / "adapted_conftest.py", place / "tests_of_hub" / "conftest.py")
    constants = place / "tests_of_hub" / "testing_constants.py"
    text = constants.read_text(encoding="utf-8")
    text += (
        "\nimport os\n"
        "TOKEN = OTHER_TOKEN = ENTERPRISE_TOKEN = os.environ['OWN_TESTS_TOKEN']\n"
        "ENDPOINT_PRODUCTION = ENDPOINT_STAGING = os.environ['HF_ENDPOINT']\n"
        "ENDPOINT_PRODUCTION_URL_SCHEME = ENDPOINT_PRODUCTION + '/{repo_id}/resolve/{revision}/{filename}'\n"
        "DUMMY_MODEL_ID = 'dummy/_'\n"
        "DUMMY_MODEL_ID_REVISION_ONE_SPECIFIC_COMMIT = os.environ['OWN_TESTS_COMMIT']\n"
    )
    constants.write_text(text, encoding="utf-8")
    for file in (place / "tests_of_hub").glob("test_*.py"):
        text = file.read_text(encoding="utf-8")
        for old, new in REPLACED.get(file.stem, {}).items() | REPLACED[""].items():
            text = text.replace(old, new)
        file.write_text(text, encoding="utf-8")
    return place


def main() -> int:
    about = argparse.ArgumentParser(prog="python -m tests.clients.own_tests", description="Run the client's own tests.")
    about.add_argument("--source", metavar="FOLDER", type=Path, help="its source (default: fetched)")
    asked, more = about.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="own-tests-") as scratch:
        return run(asked.source or fetched(Path(scratch)), Path(scratch), more)


def run(source: Path, scratch: Path, more: list[str]) -> int:
    """Run them against a service; 0 if what makes sense passes."""
    registry = LocalRegistry.open(scratch / "registry", create=True)
    base = plain_base(scratch / "dummy")
    (base.folder / "pytorch_model.dat").write_bytes(bytes(range(256)) * 256)
    registry.add_base("dummy", base.folder)
    secret = registry.create_token("admin", name="own tests").secret
    with running(service_app(registry)) as address:
        endpoint = f"{address}/hf"
        from huggingface_hub import HfApi

        commit = HfApi(endpoint=endpoint, token=secret).model_info("dummy/_").sha
        packages = [str(ROOT), *filter(None, [os.path.abspath(os.environ.get("OWN_TESTS_PACKAGES", ""))])]  # noqa: PTH100
        environ = {
            **os.environ,
            "HF_ENDPOINT": endpoint,
            "HF_TOKEN": secret,
            "HF_HOME": str(scratch / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "PYTHONPATH": os.pathsep.join(packages),
            "OWN_TESTS_TOKEN": secret,
            "OWN_TESTS_COMMIT": commit or "",
            "OWN_TESTS_REGISTRY": str(scratch / "registry"),
        }
        place = adapted(source, scratch)
        files = [f"tests_of_hub/test_{name}.py" for name in FILES]
        files = [file for file in files if (place / file).is_file()]
        options = ["-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(place), "--tb=short"]
        options += ["--disable-warnings", "--continue-on-collection-errors", "--junitxml", str(scratch / "found.xml")]
        command = [sys.executable, "-m", "pytest", *options, *files, *more]
        subprocess.run(command, cwd=place, env=environ, check=False)
    registry.close()
    return told(scratch / "found.xml")


def told(results: Path) -> int:
    """Say what came of them; 0 if nothing failed that makes sense here."""
    if not results.is_file():
        print("pytest wrote no results.")
        return 1
    passed: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    failed = []
    for case in ElementTree.parse(results).iter("testcase"):
        name = f"{case.get('classname', '').removeprefix('tests_of_hub.')}::{case.get('name')}"
        known = next((reason for part, reason in NOT_HERE.items() if part in name), None)
        if (skipped := case.find("skipped")) is not None:
            reasons[re.sub(r"^Skipped: ", "", skipped.get("message", ""))[:120]] += 1
        elif case.find("failure") is None and case.find("error") is None:
            passed[name.partition(".")[0].partition("::")[0]] += 1
        elif known is not None:
            reasons[known] += 1
        else:
            failed.append(name)
    print(f"\n{sum(passed.values())} pass: {', '.join(f'{name} {count}' for name, count in sorted(passed.items()))}")
    for reason, count in reasons.most_common():
        print(f"{count:4} not here: {reason}")
    for name in failed:
        print(f"FAILED {name}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
