"""A strict walk over a tar archive by positioned reads: nothing is extracted, nothing irregular is accepted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

from effnet.errors import DataError

BLOCK = 512
_FILE, _FOLDER = (b"0", b"\0"), b"5"
_LONG_NAME, _PAX, _PAX_GLOBAL = b"L", b"x", b"g"
_MAX_EXTENSION = 1 << 20  # bytes of a long name or a PAX header

Read: TypeAlias = Callable[[int, int], bytes]  # (offset, length) -> bytes, shorter at the end of the file


class Member(NamedTuple):
    """A regular file in an archive."""

    name: str
    offset: int  # of its first byte, in the file that holds the archive
    size: int


def walk(read: Read, where: str, start: int = 0, size: int | None = None) -> Iterator[Member]:
    """Yield every regular file of the archive that lies at `start`, `size` bytes long (to the end if not given).

    Raises:
        DataError: naming `where` and the byte, if a header does not match its checksum, a member is not a plain file
            or folder, a name leads outside or occurs twice, or the archive is cut short.
    """
    position, names = start, set[str]()
    long_name, long_size = None, None
    while block := _header(read, position, where, start, size):
        kind, name, length = _parse(block, where, position)
        body = position + BLOCK
        if kind in (_LONG_NAME, _PAX, _PAX_GLOBAL):
            position = body + -(-length // BLOCK) * BLOCK
            stated = _extension(kind, read, body, length, where)
            long_name, long_size = stated[0] or long_name, long_size if stated[1] is None else stated[1]
            continue
        name, length = long_name or name, length if long_size is None else long_size
        if length < 0:
            raise DataError(f"{where}: byte {position}: a size of {length} bytes; refused")
        long_name, long_size = None, None
        if kind != _FOLDER:
            text = _check(kind, name, where, position)
            if text in names:
                raise DataError(f"{where}: byte {position}: '{text}' occurs twice")
            names.add(text)
            if size is not None and body + length > start + size:
                raise DataError(f"{where}: byte {body}: '{text}' goes beyond the end of the archive; get it again")
            yield Member(text, body, length)
        position = body + -(-length // BLOCK) * BLOCK


def _header(read: Read, position: int, where: str, start: int, size: int | None) -> bytes | None:
    """Return the next header, or None at the archive's end: two blocks of zeros."""

    def block(at: int) -> bytes:
        return read(at, BLOCK) if size is None or at + BLOCK <= start + size else b""

    found = block(position)
    if any(found) and len(found) == BLOCK:
        return found
    if len(found) < BLOCK or len(second := block(position + BLOCK)) < BLOCK:
        raise DataError(f"{where}: byte {position}: cut short, the mark at its end is missing; get it again")
    if any(second):
        raise DataError(f"{where}: byte {position}: zeros where a file should be; the archive is damaged")
    return None


def _extension(kind: bytes, read: Read, body: int, length: int, where: str) -> tuple[bytes | None, int | None]:
    """Return the name and the size that an extended header states for the next member; None for what it omits."""
    if length > _MAX_EXTENSION:
        raise DataError(f"{where}: byte {body}: an extended header of {length} bytes; refused")
    extension = read(body, length)
    if kind == _LONG_NAME:
        return extension.rstrip(b"\0"), None
    return _pax(extension, where, body) if kind == _PAX else (None, None)


def _parse(block: bytes, where: str, position: int) -> tuple[bytes, bytes, int]:
    """Return type, name and size of a header."""
    try:
        stated = int(block[148:156].split(b"\0")[0].strip() or b"0", 8)
        length = int(block[124:136].split(b"\0")[0].strip() or b"0", 8)
    except ValueError as error:
        raise DataError(f"{where}: byte {position}: no tar header here; the archive is damaged") from error
    if stated != sum(block) - sum(block[148:156]) + 8 * 32:
        raise DataError(f"{where}: byte {position}: the header does not match its checksum; the archive is damaged")
    name = block[:100].split(b"\0")[0]
    if block[257:263] == b"ustar\0" and (prefix := block[345:500].split(b"\0")[0]):
        name = prefix + b"/" + name
    if any(block[:100][len(block[:100].split(b"\0")[0]) :]):
        raise DataError(f"{where}: byte {position}: a name with a zero byte inside; refused")
    return block[156:157], name, length


def _pax(extension: bytes, where: str, position: int) -> tuple[bytes | None, int | None]:
    """Return the path and the size that a PAX header states; None for what it omits."""
    values: dict[bytes, bytes] = {}
    rest = extension
    try:
        while rest.strip(b"\0"):
            length = int(rest.split(b" ", 1)[0])
            record, rest = rest[:length], rest[length:]
            if length < 5 or not record.endswith(b"\n"):
                raise ValueError
            key, _, value = record[:-1].split(b" ", 1)[1].partition(b"=")
            values[key] = value
        size = values.get(b"size")
        if any(key.startswith(b"GNU.sparse") for key in values):
            raise DataError(f"{where}: byte {position}: a sparse file; refused")
        return values.get(b"path"), None if size is None else int(size)
    except (ValueError, IndexError) as error:
        raise DataError(f"{where}: byte {position}: a broken extended header") from error


def _check(kind: bytes, name: bytes, where: str, position: int) -> str:
    """Return the member's name, or refuse it."""
    try:
        text = name.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: byte {position}: a name that is not UTF-8") from error
    if kind not in _FILE:
        raise DataError(f"{where}: byte {position}: '{text}' is a link or device, not a file; refused")
    if not text or text.startswith("/") or ".." in text.split("/") or not text.isprintable():
        raise DataError(f"{where}: byte {position}: {text!r} is not a valid name for a file in an archive; refused")
    return text.removeprefix("./")
