"""Our tar files are everybody's tar files, and a damaged or hostile archive is refused."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from effnet.data.tar.reader import Member, walk
from effnet.data.tar.writer import TarWriter, header
from effnet.errors import DataError

FILES = {"a.cls": b"7", "a.jpg": bytes(range(256)) * 9, "empty": b"", "block": b"x" * 512}


def written(path: Path, files: dict[str, bytes] = FILES) -> dict[str, int]:
    checksum = hashlib.sha256()
    with path.open("wb", buffering=0) as file:
        writer = TarWriter(file.fileno(), checksum)
        offsets = {name: writer.add(name, data) for name, data in files.items()}
        writer.finish()
    assert checksum.hexdigest() == hashlib.sha256(path.read_bytes()).hexdigest()
    assert writer.position == path.stat().st_size
    return offsets


def members(data: bytes) -> list[Member]:
    return list(walk(lambda offset, length: data[offset : offset + length], "here"))


def test_python_reads_what_we_write(tmp_path: Path) -> None:
    offsets = written(tmp_path / "a.tar", FILES | {f"file{number}": b"y" * number for number in range(300)})
    with tarfile.open(tmp_path / "a.tar") as tar:
        for member in tar:
            assert (member.mtime, member.uid, member.mode) == (0, 0, 0o644)
            assert member.offset_data == offsets[member.name]
            file = tar.extractfile(member)
            assert file is not None
            assert file.read() == FILES.get(member.name, b"y" * member.size)
        assert len(tar.getnames()) == 304


def test_we_read_what_we_and_python_write(tmp_path: Path) -> None:
    offsets = written(tmp_path / "a.tar")
    assert members((tmp_path / "a.tar").read_bytes()) == [
        Member(name, offsets[name], len(data)) for name, data in FILES.items()
    ]
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        names = ["short", "d/" * 60 + "e", "x" * 99] + (["y" * 180] if form != tarfile.USTAR_FORMAT else [])
        data = archive(*(tarfile.TarInfo(name) for name in names), form=form)
        assert [member.name for member in members(data)] == names


@pytest.mark.parametrize(("name", "size"), [("", 1), ("x" * 101, 1), ("é", 1), ("x", -1), ("x", 8**11)])
def test_impossible_headers_are_refused(name: str, size: int) -> None:
    with pytest.raises(ValueError, match=r"tar member|ascii"):
        header(name, size)


def archive(*infos: tarfile.TarInfo, form: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for info in infos:
            if info.isreg():
                info.size = info.size or 100
            tar.addfile(info, io.BytesIO(b"z" * info.size))
    return buffer.getvalue()


def made(name: str, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


HOSTILE: dict[str, Callable[[], bytes]] = {
    "parent folder": lambda: archive(made("../evil")),
    "parent folder inside": lambda: archive(made("a/../../evil")),
    "absolute": lambda: archive(made("/etc/evil")),
    "newline": lambda: archive(made("a\nb")),
    "symbolic link": lambda: archive(made("a", type=tarfile.SYMTYPE, linkname="/etc/passwd")),
    "hard link": lambda: archive(made("a", type=tarfile.LNKTYPE, linkname="b")),
    "device": lambda: archive(made("a", type=tarfile.CHRTYPE)),
    "fifo": lambda: archive(made("a", type=tarfile.FIFOTYPE)),
    "twice": lambda: archive(made("a"), made("a")),
    "absolute by PAX": lambda: archive(made("a", pax_headers={"path": "/evil"}), form=tarfile.PAX_FORMAT),
    "size of 2^60": lambda: archive(made("a", pax_headers={"size": str(2**60)}), form=tarfile.PAX_FORMAT),
    "negative size": lambda: archive(made("a", pax_headers={"size": "-5"}), form=tarfile.PAX_FORMAT),
    "zero byte in the name": lambda: with_name(b"a\0b"),
    "gzip": lambda: b"\x1f\x8b" + bytes(3000),
    "nothing": lambda: b"",
    "no end": lambda: archive(made("a"))[:1024],
}


def with_name(name: bytes) -> bytes:
    data = bytearray(archive(made("abc")))
    data[:100] = name.ljust(100, b"\0")
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_archives_are_refused(kind: str) -> None:
    with pytest.raises(DataError, match="here: byte"):
        members(HOSTILE[kind]())


def test_no_cut_and_no_damaged_header_goes_unseen(tmp_path: Path) -> None:
    """(tarfile and webdataset take a damaged header for the end of the archive.)"""
    written(tmp_path / "a.tar")
    data = (tmp_path / "a.tar").read_bytes()
    for cut in range(0, len(data), 64):
        with pytest.raises(DataError):
            members(data[:cut])
    for start in [member.offset - 512 for member in members(data)]:
        for at in range(start, start + 512, 7):
            with pytest.raises(DataError):
                members(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        with pytest.raises(DataError):
            members(data[:start] + bytes(512) + data[start + 512 :])
