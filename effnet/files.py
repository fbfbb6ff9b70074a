"""Files that somebody else made: opened only if they are files, and read no further than is sensible."""

from __future__ import annotations

import errno
import math
import os
import stat
from io import BufferedReader
from pathlib import Path
from urllib.parse import urlsplit


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading; never wait for one that is a pipe, a device or a socket.

    Raises:
        OSError: if it cannot be read, or is not a regular file; `strerror` says which.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # a name with a zero byte in it
        raise OSError(errno.EINVAL, "a name with a zero byte in it", repr(str(path))) from error
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "a folder, where a file is expected", str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "a pipe, a device or a socket, where a file is expected", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path, at_most: int | None = None) -> bytes:
    """Return a file's bytes, no more than `at_most`; see `open_regular` for what is raised."""
    with open_regular(path) as file:
        return file.read(-1 if at_most is None else at_most)


def reason(error: OSError) -> str:
    """Return a system error's message, for the middle of a line."""
    text = error.strerror or str(error) or type(error).__name__
    return text[:1].lower() + text[1:]


def one_line(text: str) -> str:
    """Return text on one line that a terminal shows as it is: what is not printable is escaped."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def without_password(uri: str) -> str:
    """Return a server's address without its user, its password and its query: what may be shown."""
    parts = urlsplit(uri)
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")
    return uri if uri.startswith("sqlite:") else shown.geturl()


def gigabytes(number: float) -> str:
    """Return bytes as people read them, rounded up: 147 GB, 26.8 GB, 0.00512 GB."""
    wanted = number / 1e9
    if wanted <= 0:
        return "0 GB"
    step = 10.0 ** min(0, math.floor(math.log10(wanted)) - 2)  # the third digit that counts, at most a whole gigabyte
    return f"{math.ceil(round(wanted / step, 6)) * step:,.{max(0, round(-math.log10(step)))}f} GB"
