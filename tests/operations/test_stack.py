"""The stack of infra/compose.yaml as real servers: who may come in, what they keep, and a family on them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.operations.pools import Workers
from tests.operations.stack import CANARY, Stack, running_stack, status
from tests.tiny import CONFIG, run_effnet, write_tiny

POOLED = CONFIG + "compute: {work_pool: effnet-gpu}\n"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("stack")) as stack:
        yield stack


@pytest.mark.parametrize(
    ("server", "path", "data"),
    [
        ("prefect", "/api/flow_runs/filter", b"{}"),
        ("prefect", "/api/admin/version", None),
        ("prefect", "/api/deployments/filter/health", b"{}"),
        ("mlflow", "/api/2.0/mlflow/runs/create", b'{"experiment_id": "0"}'),
        ("mlflow", "/api/2.0/mlflow/experiments/search?max_results=1", None),
        ("mlflow", "/ajax-api/3.0/jobs", None),
        ("mlflow", "/api/2.0/mlflow-artifacts/artifacts/../../../etc/passwd", None),
        ("mlflow", "/get-artifact?path=x&run_uuid=y", None),
    ],
)
def test_nobody_comes_in_without_a_login(stack: Stack, server: str, path: str, data: bytes | None) -> None:
    headers = {"Content-Type": "application/json"}
    assert status(stack.url(server) + path, data=data, **headers) in (401, 403, 404)
    assert status(stack.url(server) + path, "someone:else", data=data, **headers) in (401, 403, 404)


def test_who_has_the_login_comes_in(stack: Stack) -> None:
    environment = stack.environment
    assert status(stack.url("prefect") + "/api/admin/version", environment["PREFECT_API_AUTH_STRING"]) == 200
    login = f"{environment['MLFLOW_TRACKING_USERNAME']}:{environment['MLFLOW_TRACKING_PASSWORD']}"
    search = stack.url("mlflow") + "/api/2.0/mlflow/experiments/search?max_results=1"
    assert status(search, login) == 200
    assert status(search, login, Host="evil.example:5000") == 403  # DNS rebinding


@pytest.mark.slow
def test_family_on_the_stack_leaves_no_secret_anywhere(stack: Stack, tmp_path: Path) -> None:
    environment = stack.environment
    store = tmp_path / "store"
    done = run_effnet("doctor", "--store", store, "--json", cwd=tmp_path, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    levels = {each["check"]: each["level"] for each in json.loads(done.stdout)}
    assert levels["Prefect"] == levels["MLflow"] == levels["clock"] == "ok"

    root = Path(__file__).parents[2]
    done = run_effnet("deploy", "--store", store, "--project", root, cwd=tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    workers = Workers(environment["PREFECT_API_URL"], tmp_path / "workers", environment)
    workers.start("effnet-gpu", "one")
    try:
        done = run_effnet("family", write_tiny(tmp_path, POOLED), "--json", cwd=tmp_path, **environment)
    finally:
        workers.kill()
    assert done.returncode == 0, done.stderr
    family = json.loads(done.stdout)
    assert all(member["mlflow_run_id"] for member in family["members"])
    assert stack.sql("mlflow", "select count(*) from runs where status = 'FINISHED'").strip() != "0"
    assert CANARY not in done.stdout + done.stderr
    searched = 0
    for folder in (tmp_path, stack.folder):
        for path in folder.rglob("*"):
            if path.is_file() and path.name != "basic_auth.ini":
                searched += 1
                assert CANARY.encode() not in path.read_bytes(), path
    assert searched > 50
    assert CANARY not in stack.dump()


def test_doctor_says_what_is_wrong_with_a_server(stack: Stack, tmp_path: Path) -> None:
    wrong = stack.environment | {"MLFLOW_TRACKING_PASSWORD": "wrong", "PREFECT_API_AUTH_STRING": "a:b"}
    done = run_effnet("doctor", cwd=tmp_path, **wrong)
    assert done.returncode == 70
    assert "401" in done.stdout
    assert "set PREFECT_API_AUTH_STRING" in done.stdout
    assert "set MLFLOW_TRACKING_USERNAME and _PASSWORD" in done.stdout
    away = stack.environment | {"PREFECT_API_URL": "http://127.0.0.1:9/api"}
    done = run_effnet("doctor", cwd=tmp_path, **away)
    assert "is the Prefect server running, and is the address right?" in done.stdout
