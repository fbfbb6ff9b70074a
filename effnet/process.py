"""What every child process of a family does: stop when asked, stop when its parent is gone, fail in one line."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from effnet import machine
from effnet.errors import ConfigError, DataError, EffnetError

# Set by the parent that holds the other end of the child's standard input. End of file there means that the
# parent is gone, however it ended: nobody is left to take the result, so the child saves its state and stops.
PARENT_PIPE = "EFFNET_PARENT_PIPE"

# Set in a process that does one job after the other: the Unix time in seconds at which it began the one that it does.
BEGUN = "EFFNET_BEGUN"

LOGS = "EFFNET_LOGS"  # names the folder for tracebacks: of the store that a command works in

_LINE = 300  # characters of a library's own line that are kept
_FULL = 1 << 20  # bytes: a disk with less room counts as full
GRACE_SECONDS = 20.0  # a process that is asked to stop has this long to save; Prefect kills a flow run after 30

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_PR_SET_PDEATHSIG = 1  # prctl.h
_stopping = False  # a plain value: the signal handler that sets it must not wait for a lock
_PARENT_GONE = "the process that started it is gone"
_on_parent_gone: Callable[[str], None] | None = None  # of the job that this process does; a thread waits for it
_parent_gone = False
WARNING = "warning: "  # lines that begin so are shown to the person at the terminal


def child_main(main: Callable[[], None]) -> NoReturn:
    """Run `main` and leave with the exit code of what happened; errors are one line on standard error."""
    no_tracebacks()
    code = 0
    try:
        try:
            main()
        except Exception as error:
            machine.raise_if_broken(error)
            raise
    except Exception as error:
        line, code = last_resort(error)
        _print(line)
    if stopping():  # at once: threads may be waiting for a server that is away
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def last_resort(error: BaseException) -> tuple[str, int]:
    """Return the line and the exit code for an error that nobody foresaw; its traceback goes into a file.

    The file lies in the folder that `LOGS` names, or in the system's for temporary files. An error is written once,
    however often this is called. A full or read-only disk is not a bug: it is reported as such, whatever error a
    library raised for it.
    """
    told = (str(error), error.exit_code) if isinstance(error, EffnetError) else None
    if told and told[1] != EffnetError.exit_code:
        return told
    what = told[0] if told else _named(error)
    if full := _full_disk(error):
        return f"{full}: the disk is full ({what}); make room and run the same command again", DataError.exit_code
    if told:
        return told
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        line = f"{error.filename}: a read-only file system; use a store that can be written (--store), or a copy"
        return line, ConfigError.exit_code
    path = getattr(error, "_effnet_report", None) or _write_report(error)
    with contextlib.suppress(AttributeError, TypeError):
        error._effnet_report = path  # type: ignore[attr-defined]
    where = f"the traceback is in {path}" if path else "its traceback could not be written"
    return f"an error that effnet did not expect ({what}); {where}, please report it", EffnetError.exit_code


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _full_disk(error: BaseException) -> str | None:
    """Return the file or the folder whose disk is full, if that is what an error comes from."""
    folder = os.environ.get(LOGS)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return str(error.filename or folder or os.getcwd())
    while folder and not os.path.isdir(folder):  # the folder for tracebacks is made with the first of them
        folder = os.path.dirname(folder)
    with contextlib.suppress(OSError):
        if folder and shutil.disk_usage(folder).free < _FULL:
            return folder
    return None


def report_to(folder: Path) -> None:
    """Let this process and its children write tracebacks into a folder, instead of the system's temporary one."""
    os.environ[LOGS] = str(folder)


def no_tracebacks() -> None:
    """Keep failures beside the main work from printing tracebacks: threads, destructors, what libraries log."""
    threading.excepthook = lambda given: _print_line(given.exc_value)
    sys.unraisablehook = lambda given: _print_line(given.exc_value)
    sys.excepthook = lambda _kind, error, _trace: _print_line(error)
    logging.raiseExceptions = False
    if logging.getLogRecordFactory() is not _record:
        logging.setLogRecordFactory(_record)


def _record(*arguments: Any, **options: Any) -> logging.LogRecord:
    """Make a log record without a traceback: for an error it holds one line, and where the rest is."""
    record = logging.LogRecord(*arguments, **options)
    error = record.exc_info[1] if record.exc_info else None
    record.exc_info = None
    if error is not None:
        told = last_resort(error)[0] if record.levelno >= logging.ERROR else _named(error)
        record.msg, record.args = f"{_first_line(record)} [{told}]", ()
    return record


def _first_line(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except Exception:  # arguments that do not fit: logging an error must not raise another one
        text = str(record.msg)
    return next(iter(text.splitlines()), "")[:_LINE]


def _print_line(error: BaseException | None) -> None:
    if error is not None and not isinstance(error, SystemExit | KeyboardInterrupt):
        _print(WARNING + last_resort(error)[0])


def _write_report(error: BaseException) -> str | None:
    """Write an error's traceback to a file of its own; return where, or None if no folder takes it."""
    text = "".join(traceback.format_exception(error))
    for folder in (os.environ.get(LOGS), tempfile.gettempdir()):
        if not folder:
            continue
        with contextlib.suppress(OSError, ValueError):
            os.makedirs(folder, exist_ok=True)
            number, path = tempfile.mkstemp(".txt", "traceback-", folder)
            with open(number, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
            return path
    return None


def keep_memory() -> None:
    """Let the C library keep memory that is freed, and give it out again, instead of returning it to the system.

    A training step frees and allocates the same large tensors over and over; each time the system has to clear their
    pages again. On two cores that costs half of the time (benchmarks/train.py). Does nothing where there is no glibc.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)


def keep_nice() -> None:
    """Keep the niceness in a new session: the system divides processors among sessions first, whatever `nice` says.

    Linux's autogroups (sched(7)) compare `nice` values only within a session; each session has one of its own.
    """
    with contextlib.suppress(OSError):  # a system without them
        Path("/proc/self/autogroup").write_text(str(os.nice(0)))


def die_with_parent() -> None:
    """Let the system kill this process when the one that started it is gone (Linux; elsewhere nothing happens).

    For ranks: without their launcher nobody would tell them that another rank is gone, and they would wait for it.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:  # it was gone already
            os.kill(os.getpid(), signal.SIGKILL)


def say(line: str) -> None:
    """Note something in the log."""
    _print(line)


def warn(line: str) -> None:
    """Say something that the person should know, and go on."""
    _print(WARNING + line)


def stop_on_signals(request: Callable[[str], None]) -> None:
    """Call `request` with a reason on SIGTERM, on SIGINT and when the parent is gone; `stopping` is true from then."""

    def stop(reason: str) -> None:
        note_stopping()
        request(reason)

    global _on_parent_gone
    signal.signal(signal.SIGTERM, lambda *_: stop("asked to stop"))
    signal.signal(signal.SIGINT, lambda *_: stop("asked to stop"))
    if os.environ.get(PARENT_PIPE):
        if _on_parent_gone is None:
            threading.Thread(target=_watch_parent, daemon=True).start()
        _on_parent_gone = stop
        if _parent_gone:  # it went before this job could ask to be told
            stop(_PARENT_GONE)


def note_stopping(asked: bool = True) -> None:
    """Let all waits of this process know that it was asked to stop."""
    global _stopping
    _stopping = asked


def stopping() -> bool:
    """Say whether this process was asked to stop: then nothing is waited for longer than it takes to save."""
    return _stopping


def process_started() -> float:
    """Return the Unix time in seconds at which this process began, or the job that it does."""
    import psutil  # imported here: every import delays the command's start

    return float(os.environ.get(BEGUN) or psutil.Process().create_time())


def _print(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _watch_parent() -> None:
    # Unbuffered: the interpreter cannot shut down while a daemon thread holds the buffer's lock.
    while os.read(0, 1):
        pass
    global _parent_gone
    _parent_gone = True
    if _on_parent_gone:
        _on_parent_gone(_PARENT_GONE)
