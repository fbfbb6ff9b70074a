"""Plain tar files, written quickly and the same way every time.

Python's tarfile builds an object and copies through a stream for every member. Here a header is a patched template and
a sample goes out in one `writev` with its neighbours. What is written is ordinary ustar: `tar`, `tarfile`, webdataset
and DALI read it.
"""

from __future__ import annotations

import os
from typing import Any

BLOCK = 512
END = bytes(2 * BLOCK)  # marks the end of an archive
_MAX_NAME, _MAX_SIZE = 100, 8**11  # of ustar without extensions
_GATHER = 64  # buffers per writev; the system's own limit is 1,024


_OWNER, _TIME = b"0000644\0" + b"0000000\0" * 2, b"\0" + b"00000000000\0"
_TAIL = b"0" + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2 + bytes(167)
_CONSTANT_SUM = sum(_OWNER) + sum(_TIME) + sum(_TAIL) + 8 * ord(" ")  # the checksum field counts as spaces


def header(name: str, size: int) -> bytes:
    """Return the 512-byte ustar header of a regular file: mode 0644, owner 0, time 0.

    Raises:
        ValueError: if the name is not plain ASCII of 1..100 bytes, or the size is not below 8 GiB.
    """
    raw = name.encode("ascii")
    if not 0 < len(raw) <= _MAX_NAME or not 0 <= size < _MAX_SIZE:
        raise ValueError(f"a tar member's name has 1..{_MAX_NAME} bytes, its size is below 8 GiB: {name!r}, {size}")
    length = b"%011o" % size
    checksum = sum(raw) + sum(length) + _CONSTANT_SUM
    return b"%b%b%b%b%06o\0 %b" % (raw.ljust(100, b"\0"), _OWNER, length, _TIME, checksum, _TAIL)


def padding(size: int) -> bytes:
    """Return the zeros that fill a member's last block."""
    return _ZEROS[: -size % BLOCK]


class TarWriter:
    """Appends members to an open file and a running checksum (anything with `update`, as from hashlib or xxhash)."""

    def __init__(self, descriptor: int, checksum: Any) -> None:
        self.position = 0  # bytes written or waiting
        self._descriptor, self._checksum = descriptor, checksum
        self._waiting: list[bytes] = []

    def add(self, name: str, data: bytes) -> int:
        """Append a file; return the position of its first byte."""
        offset = self.position + BLOCK
        for piece in (header(name, len(data)), data, padding(len(data))):
            if piece:
                self._waiting.append(piece)
                self.position += len(piece)
        if len(self._waiting) >= _GATHER:
            self.flush()
        return offset

    def finish(self) -> None:
        """Write the end of the archive."""
        self._waiting.append(END)
        self.position += len(END)
        self.flush()

    def flush(self) -> None:
        """Write what is waiting."""
        pieces, self._waiting = self._waiting, []
        for piece in pieces:
            self._checksum.update(piece)
        written, total = os.writev(self._descriptor, pieces), sum(map(len, pieces))
        while written < total:  # a signal or a nearly full disk cuts a write short
            rest = memoryview(b"".join(pieces))[written:]
            written += os.write(self._descriptor, rest)


_ZEROS = bytes(BLOCK)
