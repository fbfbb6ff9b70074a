"""Check a GPU machine and this package on it: facts, correctness, resuming, speed, memory, packing.

    python benchmarks/gpu.py OUT [--only SECTION ...] [--device cpu]

Each section is a process of its own with its own limit, and needs no network: what it trains on it makes up. OUT gets
one JSON file per section as it ends and gpu.md at the end. Exit code 70 if a check failed or a section broke. Without a
GPU the same code runs on the CPU with tiny sizes.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SECTIONS = {  # seconds at most
    "facts": 30, "correct": 150, "resume": 90, "rates": 180, "kernels": 100, "memory": 120, "packing": 80,
    "compiled": 150,
}  # fmt: skip


def main() -> None:
    """Run the sections that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--device")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.section:
        section(options.section, options.out, options.device)
        return
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"{options.out}: no folder to write to ({error.strerror})")
    found = [start(name, options.out, options.device) for name in options.only]
    page = "\n".join(told(one) for one in found)
    (options.out / "gpu.md").write_text(page)
    print(page)
    if any(one["problems"] for one in found):
        sys.exit(70)


def start(name: str, out: Path, device: str | None) -> dict[str, Any]:
    """Run a section in a process; return what it found."""
    command = [sys.executable, str(Path(__file__)), str(out), "--section", name]
    began = time.monotonic()
    log = out / f"{name}.log"
    with log.open("w") as output:
        try:
            code = subprocess.run(
                command + (["--device", device] if device else []), stdout=output, stderr=subprocess.STDOUT,
                timeout=SECTIONS[name], check=False,
            ).returncode  # fmt: skip
            problems = [f"ended with exit code {code}; see {log.name}"] if code else []
        except subprocess.TimeoutExpired:
            problems = [f"took longer than {SECTIONS[name]} s"]
    path = out / f"{name}.json"
    found = json.loads(path.read_text()) if path.exists() else {"numbers": {}, "checks": {}}
    problems += [check for check, passed in found["checks"].items() if not passed]
    whole = {"section": name, "seconds": round(time.monotonic() - began, 1), "problems": problems, **found}
    path.write_text(json.dumps(whole, indent=1) + "\n")
    print(f"{name}: {whole['seconds']} s; {'; '.join(problems) or 'all passed'}", flush=True)
    return whole


def section(name: str, out: Path, device: str | None) -> None:
    """Run one section here."""
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    import torch
    from gpukit.kit import Kit

    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with tempfile.TemporaryDirectory() as folder:
        found = importlib.import_module(f"gpukit.{name}").run(Kit(where, Path(folder)))
    (out / f"{name}.json").write_text(json.dumps(asdict(found), indent=1, default=str) + "\n")


def told(found: dict[str, Any]) -> str:
    """Return a section's findings as Markdown."""
    lines = [f"## {found['section']}: {found['seconds']} s", ""]
    lines += [f"* **{problem}**" for problem in found["problems"]]
    lines += [f"* {name}: {value}" for name, value in found["numbers"].items()]
    lines += [f"* passed: {check}" for check, passed in found["checks"].items() if passed]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
