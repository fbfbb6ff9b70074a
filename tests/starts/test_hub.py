"""Weights from the Hugging Face hub, through its own library, from a server that speaks its API."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from effnet.store import sha256_file
from tests.hub import COMMIT, Hub, serving
from tests.tiny import clean_environment, run_effnet

CONFIG = """\
family: photos
data: {source: {kind: folder, train: photos}}
members: {published: [efficientnet_lite0, efficientnet_lite1]}
weights: hf://timm/tf_{name}.in1k
"""
PLAN = ("plan", "photos.yaml", "--num-classes", "2")


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as hub:
        for number in (0, 1):
            files = {"model.safetensors": b"weights %d" % number, "pytorch_model.bin": b"a pickle"}
            hub.files[f"timm/tf_efficientnet_lite{number}.in1k"] = files
        yield hub


def environment(hub: Hub, folder: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1"}


def start_of(address: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Print what `fetch_start` returns; in a process of its own, as the library reads its settings when imported."""
    script = (
        "import sys; from pathlib import Path; from effnet.process import child_main; from effnet.starts import "
        "fetch_start\nchild_main(lambda: print(fetch_start(sys.argv[1], Path(sys.argv[2])).model_dump_json()))"
    )
    return subprocess.run(
        [sys.executable, "-c", script, address, str(folder / "cache")],
        env=clean_environment() | env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_plan_names_the_file_and_its_commit_and_downloads_nothing(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "photos.yaml").write_text(CONFIG)
    done = run_effnet(*PLAN, cwd=tmp_path, **environment(hub, tmp_path))
    assert done.returncode == 0, done.stderr
    for number in (0, 1):
        address = f"hf://timm/tf_efficientnet_lite{number}.in1k@{COMMIT}/model.safetensors"
        assert f"Lite{number} starts from {address}\n" in done.stdout
    assert (hub.asked("HEAD"), hub.asked("GET")) == (2, 0), hub.requests


def test_all_that_is_missing_is_told_in_one_line(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "photos.yaml").write_text(CONFIG.replace("lite1]", "lite1, efficientnet_lite2, efficientnet_b0]"))
    hub.files["timm/tf_efficientnet_lite1.in1k"].pop("model.safetensors")
    hub.gated.add("timm/tf_efficientnet_b0.in1k")
    done = run_effnet(*PLAN, cwd=tmp_path, **environment(hub, tmp_path))
    assert done.returncode == 2
    assert done.stderr == (
        "effnet: weights: hf://timm/tf_efficientnet_lite1.in1k: it has no model.safetensors; only safetensors are "
        "read, never pickles; "
        f"hf://timm/tf_efficientnet_lite2.in1k: no such repository on {hub.url}, or it is private (HF_TOKEN); "
        "hf://timm/tf_efficientnet_b0.in1k: its owner wants to be asked first; do so on its page, and set HF_TOKEN\n"
    )
    assert hub.asked("GET") == 0


def test_fetched_once_pinned_and_used_without_the_hub(hub: Hub, tmp_path: Path) -> None:
    env, address = environment(hub, tmp_path), "hf://timm/tf_efficientnet_lite0.in1k"
    first = start_of(address, tmp_path, **env)
    assert first.returncode == 0, first.stderr
    start = json.loads(first.stdout)
    assert start["origin"] == f"{address}@{COMMIT}/model.safetensors"
    assert Path(start["path"]).read_bytes() == b"weights 0"
    assert start["sha256"] == sha256_file(Path(start["path"]))
    assert start_of(address, tmp_path, **env).stdout == first.stdout
    assert hub.asked("GET") == 1
    offline = start_of(address, tmp_path, HF_HUB_OFFLINE="1", **env)
    assert offline.stdout == first.stdout
    away = start_of(address, tmp_path, **env | {"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert away.stdout == first.stdout
    asked = hub.asked("HEAD")
    assert start_of(f"{address}@{COMMIT}", tmp_path, **env).stdout == first.stdout
    assert hub.asked("HEAD") == asked  # a commit that is in the cache needs no question
    hub.commit = "d" * 40
    hub.files["timm/tf_efficientnet_lite0.in1k"]["model.safetensors"] = b"weights of another day"
    moved = json.loads(start_of(address, tmp_path, **env).stdout)
    assert moved["origin"] == f"{address}@{hub.commit}/model.safetensors"
    assert moved["sha256"] != start["sha256"]
    assert start_of(f"{address}@{COMMIT}", tmp_path, **env).stdout == first.stdout


@pytest.mark.parametrize(
    ("address", "env", "code", "told"),
    [
        ("hf://timm/tf_efficientnet_lite1.in1k", {"HF_HUB_OFFLINE": "1"}, 75, "HF_HUB_OFFLINE forbids to ask the hub"),
        ("hf://timm/tf_efficientnet_lite1.in1k", {"HF_ENDPOINT": "http://127.0.0.1:9"}, 75, "does not answer, and the"),
        ("hf://timm/tf_efficientnet_lite1.in1k@v9", {}, 2, "it has no revision v9"),
        ("hf://timm/tf_efficientnet_lite1.in1k/pytorch_model.bin", {}, 2, "others can hold code"),
        ("hf://timm", {}, 2, "write hf://OWNER/REPOSITORY"),
        ("hf://timm/x/../../etc.safetensors", {}, 2, "write hf://OWNER/REPOSITORY"),
    ],
)
def test_what_cannot_be_is_one_line_within_seconds(
    hub: Hub, tmp_path: Path, address: str, env: dict[str, str], code: int, told: str
) -> None:
    began = time.monotonic()
    done = start_of(address, tmp_path, **environment(hub, tmp_path) | env)
    assert time.monotonic() - began < 20
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


def test_a_hub_that_says_nothing_is_given_up_within_seconds(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        env = {"HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}", "HF_HOME": str(tmp_path / "hf")}
        began = time.monotonic()
        done = start_of("hf://timm/tf_efficientnet_lite0.in1k", tmp_path, **env)
    assert time.monotonic() - began < 25  # of which the library's own waits are most
    assert done.returncode == 75
    assert done.stderr.count("\n") == 1, done.stderr


def test_what_arrives_damaged_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.damage = True
    done = start_of("hf://timm/tf_efficientnet_lite0.in1k", tmp_path, **environment(hub, tmp_path))
    assert done.returncode == 65, done.stderr
    assert "what arrived is not what the hub has, and was removed" in done.stderr.splitlines()[-1]
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    hub.damage = False
    done = start_of("hf://timm/tf_efficientnet_lite0.in1k", tmp_path, **environment(hub, tmp_path))
    assert done.returncode == 0, done.stderr


def test_without_the_library_the_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "without").mkdir()
    (tmp_path / "without/huggingface_hub.py").write_text("raise ImportError")
    paths = os.pathsep.join([str(tmp_path / "without"), os.environ.get("PYTHONPATH", "")])
    done = start_of("hf://timm/tf_efficientnet_lite0.in1k", tmp_path, PYTHONPATH=paths)
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'effnet[hub]'" in done.stderr
