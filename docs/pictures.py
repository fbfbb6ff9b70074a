"""Renew every picture and sample output of the documentation, from one run of the demo: `make pictures`.

Builds the family of configs/mnist.yaml in a scratch folder, photographs the report, MLflow's page and Prefect's in
Chromium, and writes docs/images/ and what stands between the markers in README.md. Every picture carries the key of the
build that it shows; demo.json holds its figures, and tests compare all of them. Latency is shown: do it on a machine
that does nothing else.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tasks.records.views import family_page

ROOT = Path(__file__).parents[1]
README, IMAGES = ROOT / "README.md", ROOT / "docs/images"
BUILD = "effnet build"  # the pictures' text field with the build's key
SAMPLE = re.compile(r"(?<=<!-- from make pictures -->\n```text\n).*?(?=```\n<!-- end -->)", re.DOTALL)
HELD_OUT = re.compile(r"(?<=with )[\d,]+(?= validation images)")
# Lines of the terminal that are left out of the sample: one for each training, and those about progress.
_LEFT_OUT = re.compile(r" *\d+:\d\d  (B[0-5]( seed \d+)?: |fit |[a-z ]+: \d+%)")
_WAIT = 60_000  # milliseconds, for a page
_REST = 5_000  # milliseconds, until drawings that move come to rest; the pages never stop asking their servers


def sample(lines: list[str], table: list[str]) -> str:
    """Return the sample output: what the terminal said, without most trainings, the table of members and the answer."""
    shown: list[str] = []
    for line in lines:
        if not _LEFT_OUT.match(line):
            shown.append(line)
        elif shown and shown[-1] != " ...":
            shown.append(" ...")
    return "\n".join([*shown, "", *table]) + "\n"


def main() -> None:
    """Build the family, take the pictures, write the files."""
    with tempfile.TemporaryDirectory(prefix="effnet-pictures-") as scratch:
        folder = Path(scratch)
        config = ROOT / "configs/mnist.yaml"
        done = _effnet("family", str(config), folder=folder)
        servers = json.loads(_effnet("up", "--json", folder=folder).stdout)
        try:
            (report,) = (folder / ".effnet/families").glob("*/report.html")
            for name, page in _photographs(servers, report).items():
                (folder / f"{name}.png").write_bytes(page)
        finally:
            _effnet("down", folder=folder)
        result = json.loads(report.with_name("family.json").read_bytes())  # run again, latencies may be measured anew
        shutil.copy(report.with_name("accuracy.png"), folder)
        for picture in folder.glob("*.png"):
            _publish(picture, result["key"])
    _write(done, result)


def _effnet(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder, without the settings of who runs this."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    command = [sys.executable, "-m", "flows.cli", *arguments]
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"effnet {' '.join(arguments)}: {done.stderr}")
    return done


def _photographs(servers: dict[str, str], report: Path) -> dict[str, bytes]:
    """Return PNGs of MLflow's runs, Prefect's flow run and the report, by name."""
    from playwright.sync_api import sync_playwright

    store = report.parents[2]
    door = store / "prefect/login.html"  # the page that logs in, where the server asks for it
    with sqlite3.connect(store / "mlflow.db") as database:
        ((experiment,),) = database.execute("select experiment_id from experiments where name = 'mnist'")
    with sqlite3.connect(store / "prefect/prefect.db") as database:
        ((run,),) = database.execute(
            "select r.id from flow_run r join flow f on f.id = r.flow_id where f.name = 'build_family'"
        )
    pages = {
        "mlflow": (family_page(servers["mlflow"], experiment), "B7", (1280, 640)),
        "prefect": (f"{servers['prefect']}/runs/flow-run/{run}", "Completed", (1000, 630)),
        "report": (report.as_uri(), "Members", (1280, 900)),
    }
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not path:
        sys.exit("make pictures needs Chromium: apt-get install chromium")
    found = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for name, (url, words, (width, height)) in pages.items():
            page = browser.new_page(viewport={"width": width, "height": height})
            if name == "prefect" and door.is_file():
                page.goto(door.as_uri())
                page.wait_for_url(re.compile("/(v2/)?dashboard"), timeout=_WAIT)
                page.get_by_text("Flow Runs").first.wait_for(timeout=_WAIT)  # who goes on sooner may lose the login
            page.goto(url)
            page.get_by_text(words).first.wait_for(timeout=_WAIT)
            page.wait_for_timeout(_REST)
            found[name] = page.screenshot()
            page.close()
        browser.close()
    return found


def _publish(picture: Path, build: str) -> None:
    """Write a picture into docs/images, with few colours, and the key of the build that it shows."""
    text = PngInfo()
    text.add_text(BUILD, build)
    few = Image.open(picture).convert("RGB").quantize(128)
    few.save(IMAGES / picture.name, pnginfo=text, optimize=True)


def _write(done: subprocess.CompletedProcess[str], result: dict[str, Any]) -> None:
    """Write demo.json and the README's sample."""
    table = "\n\n".join(done.stdout.strip("\n").split("\n\n")[:2]).splitlines()  # members; the answer
    shown = sample(done.stderr.splitlines(), [line.rstrip() for line in table])
    (IMAGES / "demo.json").write_text(json.dumps(result, indent=2) + "\n")
    text = SAMPLE.sub(lambda _: shown, README.read_text())
    README.write_text(HELD_OUT.sub(f"{result['val_samples']:,}", text))


if __name__ == "__main__":
    main()
