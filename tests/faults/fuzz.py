"""`python -m tests.faults.fuzz KIND COUNT`: so many inputs of a kind, in a process with little memory.

Every one is used as a command would, and must be taken, or refused with an EffnetError, within seconds. Prints how many
were taken and refused; the first that did something else is shown by Hypothesis, made small.
"""

from __future__ import annotations

import collections
import io
import json
import resource
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from effnet.arch.cost import count as cost
from effnet.arch.spec import Architecture
from effnet.config import given_coefficients, load_baseline, load_config
from effnet.errors import EffnetError
from effnet.evaluation.images import pixels_of
from effnet.family import plan_members
from effnet.models.build import build
from effnet.models.weights import load_weights, save_weights
from tests.tiny import BASELINE, CONFIG, write_tiny

CPU_SECONDS, SECONDS, MEMORY = 10, 60, 2 << 30
OUTCOMES: collections.Counter[str] = collections.Counter()
FOLDER = Path(tempfile.mkdtemp())


class Hang(BaseException):
    """It takes too long; nothing that catches errors catches this."""


def bounded(use: Callable[[], object]) -> None:
    """Use an input; whatever it raises but an EffnetError of one clear text is a finding."""
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        use()
        OUTCOMES["taken"] += 1
    except EffnetError as error:
        assert str(error)
        assert error.exit_code in (2, 65), error
        OUTCOMES["refused"] += 1
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def hang(*_: object) -> None:
    raise Hang


# What people and their editors make of a value; and what only malice does.
ODD = st.sampled_from(
    ["", "~", "null", "[]", "{}", "-1", "0", "1e999", ".nan", ".inf", "9" * 5000, "0b" + "1" * 9000, "1:" * 500 + "1",
     "2001-99-99", "2001-01-01", '"\\0"', '"\\ud800"', "é" * 300, "*x", "&x [*x]", "!!set {a}", "!!binary x", "!!int x",
     "!!python/object/apply:os.system [id]", "[" * 3000, "{" * 300, "'", '"', "true", "yes", "- -", "? x", "\t",
     "/dev/zero", "/proc/self/mem", "../" * 200, "x" * 5000, "s3://", "s3://bucket", "[1, [2, [3]]]", "1_000", "0x10"]
)  # fmt: skip
BOMB = "a0: &a0 [" + "1," * 9 + "1]\n" + "".join(f"a{n + 1}: &a{n + 1} [{f'*a{n},' * 10}]\n" for n in range(9))


def edited(text: str) -> st.SearchStrategy[bytes]:
    """Return strategies of a text with values replaced, lines cut, doubled and moved, and bytes changed."""
    lines = text.splitlines(keepends=True)
    numbers = st.integers(0, len(lines) - 1)

    def values(rows: list[tuple[int, str]]) -> bytes:
        changed = list(lines)
        for row, value in rows:
            head, colon, _ = changed[row].partition(":")
            changed[row] = f"{head}{colon} {value}\n"
        return "".join(changed).encode(errors="surrogatepass")

    def moved(order: list[int]) -> bytes:
        return "".join(lines[row] for row in order).encode()

    def cut(changes: list[tuple[int, int]]) -> bytes:
        data = bytearray(text.encode())
        for place, byte in changes:
            data[place % len(data)] = byte
        return bytes(data)

    given = ODD | st.text(max_size=20) | st.integers().map(str) | st.floats().map(str)
    return st.one_of(
        st.lists(st.tuples(numbers, given), max_size=4).map(values),
        st.lists(numbers, max_size=len(lines)).map(moved),
        st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=6).map(cut),
        st.integers(0, len(text)).map(lambda end: text.encode()[:end]),
        st.binary(max_size=60),
        st.just((BOMB + text).encode()),
    )  # fmt: skip


def config(data: bytes) -> None:
    path = FOLDER / "family.yaml"
    path.write_bytes(data)

    def use() -> None:
        settings = load_config(path)
        baseline = load_baseline(settings, FOLDER)
        if coefficients := given_coefficients(settings):
            plan_members(baseline, settings, coefficients, 10)

    bounded(use)


def architecture(data: bytes) -> None:
    path = FOLDER / "network.yaml"
    path.write_bytes(data)
    bounded(lambda: cost(Architecture.load(path), 1000))


def weights(data: bytes) -> None:
    path = FOLDER / "weights.pt"
    path.write_bytes(data)
    bounded(lambda: load_weights(path, Architecture.load(FOLDER / "tiny-baseline.yaml")))


def image(given: object) -> None:
    bounded(lambda: pixels_of(given))


def weights_files() -> st.SearchStrategy[bytes]:
    write_tiny(FOLDER)
    network = build(Architecture.load(FOLDER / "tiny-baseline.yaml"), 3, seed=0)
    save_weights(FOLDER / "w.safetensors", network)
    whole, old, header = io.BytesIO(), io.BytesIO(), (FOLDER / "w.safetensors").read_bytes()
    torch.save(network.state_dict(), whole)
    torch.save(network.state_dict(), old, _use_new_zipfile_serialization=False)
    numbers = st.floats() | st.integers() | st.text(max_size=9) | st.none()
    objects = st.recursive(numbers, nest)
    saved = objects.map(lambda value: (torch.save(value, buffer := io.BytesIO()), buffer.getvalue())[1])
    broken = [damaged(data) for data in (whole.getvalue(), old.getvalue(), header)]
    return st.one_of(*broken, st.binary(max_size=99), saved)


def nest(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner)


def damaged(data: bytes, focus: int = 3000) -> st.SearchStrategy[bytes]:
    """Return strategies of bytes cut short or changed, more often near their beginning and end, where structure is."""

    def change(changes: list[tuple[int, int]], end: int) -> bytes:
        broken = bytearray(data)
        for place, byte in changes:
            broken[place] = byte
        return bytes(broken[: len(data) - end])

    last = len(data) - 1
    places = st.integers(0, min(focus, last)) | st.integers(max(0, last - focus), last) | st.integers(0, last)
    changes = st.lists(st.tuples(places, st.integers(0, 255)), max_size=5)
    return st.builds(change, changes, st.just(0) | st.integers(0, len(data)))


def images() -> st.SearchStrategy[object]:
    from PIL import Image

    files = []
    for kind, mode in (("png", "RGB"), ("png", "RGBA"), ("png", "L"), ("jpeg", "RGB"), ("jpeg", "CMYK"), ("gif", "P")):
        buffer = io.BytesIO()
        Image.effect_noise((20, 14), 90).convert(mode).save(buffer, kind)
        files.append(buffer.getvalue())
    broken = st.one_of(*(damaged(data, 200) for data in files), st.binary(max_size=50))
    plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
    nested = st.recursive(plain, nest)
    return st.lists(broken | nested, max_size=3) | nested | broken


KINDS: dict[str, tuple[Callable[..., None], Callable[[], st.SearchStrategy[object]]]] = {
    "config": (config, lambda: edited(CONFIG + "coefficients: [1.2, 1.1, 1.15]\n")),
    "architecture": (architecture, lambda: edited(BASELINE)),
    "weights": (weights, weights_files),
    "image": (image, images),
}


def main(kind: str, number: int) -> None:
    write_tiny(FOLDER)
    torch.set_num_threads(1)
    check, inputs = KINDS[kind]
    strategy = inputs()
    signal.signal(signal.SIGPROF, hang)
    signal.signal(signal.SIGALRM, hang)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
    run = settings(max_examples=number, deadline=None, database=None, derandomize=True, suppress_health_check=quiet)
    run(given(strategy)(lambda found: check(found)))()
    print(json.dumps(OUTCOMES))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
