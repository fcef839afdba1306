"""Archives of strangers: what comes out of one is plain files, within bounds, and goes with the context."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from registry.errors import InvalidAdapterError, NotFoundError, RegistryError, UnavailableError, UsageError
from registry.folders import archive_entries
from registry.folders.archives import Opened, opened
from registry.progress import SILENT
from registry.schemas.form import Schema

FILES = {"lora/adapter_config.json": b"{}", "lora/adapter_model.safetensors": b"weights" * 1000}
Damage = Callable[[bytes], bytes]


def no_pickles(pickle: Path, _: Path) -> None:
    raise AssertionError(f"{pickle} is read")


@pytest.fixture(autouse=True)
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files are, of which none is left."""
    (place := tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    yield place
    assert list(place.iterdir()) == []


def read(archive: Path) -> dict[str, bytes]:
    with opened(no_pickles, SILENT) as through:
        root = through.folder(archive)
        assert stat.S_IMODE(root.stat().st_mode) == 0o700
        return {file.relative_to(root).as_posix(): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def zipped(place: Path, files: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(place, "w", how) as out:
        for name, data in files.items():
            out.writestr(name, data)
    return place


def tarred(place: Path, *entries: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(place, "w:gz" if place.name.endswith("gz") else "w") as out:
        for info, data in entries:
            info.size = info.size or len(data)
            out.addfile(info, io.BytesIO(data))
    return place


def entry(name: str, data: bytes = b"x", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def of_files(place: Path) -> Path:
    if place.suffix == ".zip":
        return zipped(place, FILES)
    return tarred(place, entry(".", b"", type=tarfile.DIRTYPE), *(entry(f"./{name}", FILES[name]) for name in FILES))


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.TGZ"])
def test_what_is_in_it_comes_out_and_is_gone_afterwards(name: str, tmp_path: Path) -> None:
    archive = of_files(tmp_path / name)
    assert read(archive) == FILES
    with opened(no_pickles, SILENT) as through:
        inner = through.folder(archive / "lora")
        assert (inner / "adapter_config.json").read_bytes() == b"{}"
        assert (inner / "adapter_config.json").stat().st_mtime > 4e9  # a time that says nothing
        assert through.named(inner) == archive / "lora"
        assert through.told(f"{inner} is it") == f"{archive / 'lora'} is it"
        assert through.folder(tmp_path) == tmp_path
        with pytest.raises(NotFoundError, match=r"has no 'lora/other': at its top it holds lora\."):
            through.folder(archive / "lora/other")
        assert through.one(archive) == inner


def test_a_zip_of_64_bits_and_one_that_stores(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "large.zip", "w") as out:
        for name, data in FILES.items():
            with out.open(name, "w", force_zip64=True) as file:
                file.write(data)
    assert read(tmp_path / "large.zip") == FILES
    assert read(zipped(tmp_path / "stored.zip", FILES, zipfile.ZIP_STORED)) == FILES


LINKS = {
    "symbolic link": entry("lora/w", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "symbolic link inside": entry("lora/w", b"", type=tarfile.SYMTYPE, linkname="x"),
    "hard link": entry("lora/w", b"", type=tarfile.LNKTYPE, linkname="lora/x"),
    "device": entry("lora/w", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=5),
    "pipe": entry("lora/w", b"", type=tarfile.FIFOTYPE),
}


@pytest.mark.parametrize("what", LINKS)
def test_a_tar_with_anything_but_files_is_refused(what: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidAdapterError, match="and no file, so it is not unpacked") as caught:
        read(tarred(tmp_path / "x.tar.gz", entry("lora/x"), LINKS[what]))
    assert caught.value.code == "bad_archive"


def test_a_sparse_file_is_none_that_is_taken(tmp_path: Path) -> None:
    data = (tarred(tmp_path / "x.tar", entry("lora/x", type=tarfile.GNUTYPE_SPARSE))).read_bytes()
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(InvalidAdapterError) as caught:
        read(tmp_path / "x.tar")
    assert caught.value.code == "bad_archive"


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_a_zip_with_anything_but_files_is_refused(kind: int, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as out:
        info = zipfile.ZipInfo("lora/w")
        info.external_attr = (kind | 0o777) << 16
        out.writestr(info, "/etc/passwd")
    with pytest.raises(InvalidAdapterError, match="and no file, so it is not unpacked"):
        read(tmp_path / "x.zip")


NAMES = {
    "../out.txt": "path_traversal",
    "lora/../../out.txt": "path_traversal",
    "/tmp/out.txt": "path_traversal",
    "lora//out.txt": "path_traversal",
    "lora\\..\\..\\out.txt": "bad_archive",
    "C:/out.txt": "bad_archive",
    "lora/nul.txt": "bad_archive",
    "lora/out\x01.txt": "bad_archive",
    "/".join("abcdefghijklmnopqrstuvw"): "bad_archive",
    "n" * 300: "bad_archive",
}


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leads_out_or_that_no_folder_can_hold_is_refused(name: str, kind: str, tmp_path: Path) -> None:
    place = tmp_path / f"x.{kind}"
    archive = zipped(place, {name: b"x"}) if kind == "zip" else tarred(place, entry(name))
    with pytest.raises(InvalidAdapterError) as caught:
        read(archive)
    assert caught.value.code == NAMES[name]
    assert str(archive) in str(caught.value)
    assert not list(tmp_path.rglob("out*"))


def test_names_with_nul_and_names_twice_and_names_that_differ_in_case(tmp_path: Path) -> None:
    for name, put in (("adapter_config.json~.txt", b"adapter_config.json\0.txt"), ("other", b"fixed")):
        archive = zipped(tmp_path / "x.zip", {"fixed": b"1", name: b"2"})
        archive.write_bytes(archive.read_bytes().replace(name.encode(), put))
        with pytest.raises(InvalidAdapterError) as caught:
            read(archive)
        assert caught.value.code == "bad_archive"
    with pytest.raises(InvalidAdapterError, match="two entries with the name"):
        read(tarred(tmp_path / "x.tar", entry("lora/x"), entry("./lora/x", b"other")))
    with pytest.raises(InvalidAdapterError, match="upper and lower case"):
        read(tarred(tmp_path / "x.tar", entry("lora/x"), entry("LORA/x")))
    with pytest.raises(InvalidAdapterError, match="needs a folder of that name"):
        read(zipped(tmp_path / "x.zip", {"lora": b"", "lora/x": b""}))


def test_a_bomb_is_refused_before_it_is_written(tmp_path: Path, room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_entries, "FREE_SIZE", 1 << 20)
    zeros = bytes(8 << 20)
    monkeypatch.setattr(Opened, "_write", lambda *_: pytest.fail("it is written"))
    for archive in (zipped(tmp_path / "x.zip", {"x": zeros}), tarred(tmp_path / "x.tgz", entry("x", zeros))):
        with pytest.raises(InvalidAdapterError, match=r"becomes more than .* MB") as caught:
            read(archive)
        assert caught.value.code == "bad_archive"
    assert list(room.iterdir()) == []


def test_a_tar_that_claims_less_than_is_in_its_stream_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies behind the last entry, and headers of any length, are as bounded as files."""
    monkeypatch.setattr(archive_entries, "FREE_SIZE", 1 << 20)
    monkeypatch.setattr(archive_entries, "MAX_ENTRIES", 10)
    monkeypatch.setattr(archive_entries, "MAX_HEAD", 1 << 20)
    plain = tarred(tmp_path / "x.tar", entry("x")).read_bytes()
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(plain + bytes(4 << 20)))
    with pytest.raises(InvalidAdapterError, match="becomes more than"):
        read(tmp_path / "x.tar.gz")
    header = entry("x", type=tarfile.XHDTYPE, size=3 << 20)[0].tobuf()
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(header + b"30 comment=" + bytes(3 << 20)))
    with pytest.raises(InvalidAdapterError, match="a header of it is too long"):
        read(tmp_path / "x.tar.gz")


def test_too_many_entries_and_too_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = of_files(tmp_path / "x.tar")
    with monkeypatch.context() as patch:
        patch.setattr(archive_entries, "MAX_ENTRIES", 2)
        with pytest.raises(InvalidAdapterError, match="has more than 2 entries"):
            read(archive)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(UnavailableError, match="set TMPDIR to a larger disk") as caught:
        read(archive)
    assert caught.value.code == "disk_full"


def test_a_list_of_entries_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_entries, "MAX_HEAD", 1000)
    with pytest.raises(InvalidAdapterError, match="list of entries is too long"):
        read(zipped(tmp_path / "x.zip", {f"{number:040}": b"" for number in range(50)}))


def _encrypted(data: bytes) -> bytes:
    at = data.index(b"PK\x01\x02")
    return data[:6] + b"\x01" + data[7 : at + 8] + b"\x01" + data[at + 9 :]


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _negative(data: bytes) -> bytes:
    """A size below zero, which would lead back to what was read."""
    head = bytearray(data[512:1024])  # behind that of the folder
    head[124:136] = (-1024).to_bytes(12, "big", signed=True)
    head[148:156] = b"        "
    head[148:156] = b"%06o\0 " % sum(head)
    return data[:512] + bytes(head) + data[1024:]


DAMAGED: dict[str, tuple[str, Damage]] = {
    "encrypted": ("x.zip", _encrypted),
    "zip cut off": ("x.zip", _half),
    "no zip": ("x.zip", lambda _: b"PK\x03\x04 and nothing"),
    "zip with other bytes": ("x.zip", lambda data: data[:60] + bytes([data[60] ^ 255]) + data[61:]),
    "zip with a size that lies": ("x.zip", lambda data: data.replace((7000).to_bytes(4, "little"), b"\x05\0\0\0")),
    "tar cut off at an entry": ("x.tar", lambda data: data[:1536]),
    "tar cut off in an entry": ("x.tar", _half),
    "no tar": ("x.tar", lambda _: b"no tar at all"),
    "empty tar": ("x.tar", lambda _: b""),
    "tar with a broken header": ("x.tar", lambda data: data[:1536] + b"?" + data[1537:]),
    "tar of two": ("x.tar", lambda data: data + data),
    "size below zero": ("x.tar", _negative),
    "gzip cut off": ("x.tar.gz", lambda data: data[:-6]),
    "gzip with other bytes": ("x.tar.gz", lambda data: data[:-8] + b"\0\0\0\0" + data[-4:]),
    "gzip of no tar": ("x.tar.gz", lambda _: gzip.compress(b"no tar at all")),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_what_is_damaged_or_encrypted_is_refused_as_a_whole(what: str, tmp_path: Path) -> None:
    name, damage = DAMAGED[what]
    archive = of_files(tmp_path / name)
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(InvalidAdapterError) as caught:
        read(archive)
    assert caught.value.code == "bad_archive"
    assert str(archive) in str(caught.value)


def test_compression_that_may_ask_for_any_memory_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidAdapterError, match="compressed by method 14, and only deflate is read"):
        read(zipped(tmp_path / "x.zip", FILES, zipfile.ZIP_LZMA))


@pytest.mark.parametrize("problem", [KeyboardInterrupt, SystemExit, MemoryError])
def test_an_interruption_leaves_nothing(
    problem: type[BaseException], tmp_path: Path, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = of_files(tmp_path / "x.zip")

    def interrupted(*_: object) -> None:
        assert list(room.iterdir())
        raise problem

    monkeypatch.setattr(Opened, "_write", interrupted)
    with pytest.raises(problem):
        read(archive)
    assert list(room.iterdir()) == []


def test_errors_name_the_archive(tmp_path: Path) -> None:
    archive = of_files(tmp_path / "x.zip")
    with (
        pytest.raises(NotFoundError, match=r"no such thing in .*x\.zip/lora") as caught,
        opened(no_pickles, SILENT) as it,
    ):
        raise NotFoundError(f"There is no such thing in {it.folder(archive / 'lora')}.", code="missing_file")
    assert caught.value.code == "missing_file"
    assert "unpacked" not in str(caught.value)


def test_of_several_adapters_one_is_to_be_named(tmp_path: Path) -> None:
    pair = {"adapter_config.json": b"{}", "adapter_model.safetensors": b""}
    several = zipped(
        tmp_path / "two.zip", {f"{folder}/{name}": pair[name] for folder in ("legal", "support") for name in pair}
    )
    words = (
        f"{several} holds 2 adapters: give one of them, {several}/legal, {several}/support; or bring in all with "
        f"`registry import {several} --plan FILE`."
    )
    with pytest.raises(UsageError) as caught, opened(no_pickles, SILENT) as it:
        it.one(several)
    assert str(caught.value) == words
    run = zipped(
        tmp_path / "run.zip", {f"{folder}{name}": pair[name] for folder in ("", "checkpoint-9/") for name in pair}
    )
    notes = zipped(tmp_path / "notes.zip", {"todo.txt": b"buy milk"})
    nested = zipped(tmp_path / "nested.zip", {"inner.zip": run.read_bytes()})
    with opened(no_pickles, SILENT) as it:
        assert it.one(run, "adapter") == it.folder(run)
    for archive, said in ((notes, "holds no adapter;"), (nested, r"inner.zip: it lies in an archive: unpack it")):
        with pytest.raises(RegistryError, match=said), opened(no_pickles, SILENT) as it:
            it.one(archive, "adapter")


@pytest.mark.parametrize("name", ["plain", 'a "b"', "back\\slash", "é\t"])
def test_an_answer_calls_what_was_unpacked_by_its_archive(tmp_path: Path, name: str) -> None:
    class Told(Schema):
        place: str

    (tmp_path / name).mkdir()
    archive = zipped(tmp_path / name / "x.zip", FILES)
    with opened(no_pickles, SILENT) as through:
        root = through.folder(archive)
        assert through.answer(Told(place=f"{root}/lora")) == Told(place=f"{archive}/lora")
