"""infra/: read by the tools that will read it, as far as that goes without a cloud or a daemon."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import hcl2
import pytest
import yaml

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
TERRAFORM = sorted((INFRA / "terraform").glob("*.tf"))
SECRETS = [line.split("=")[0] for line in (INFRA / ".env.example").read_text().splitlines() if re.match(r"\w+=", line)]


def tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def compose(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")} | environment
    command = [tool("docker-compose"), "-f", str(INFRA / "compose.yaml"), "--env-file", os.devnull, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


def composed(*profiles: str) -> dict[str, Any]:
    chosen = [word for profile in profiles for word in ("--profile", profile)]
    done = compose(*chosen, "config", "--format", "json", **dict.fromkeys(SECRETS, "example-secret"))
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_compose_itself_accepts_the_file_with_every_profile() -> None:
    services = composed("cpu", "gpu")["services"]
    assert {"postgres", "prefect", "mlflow", "s3", "worker", "trainer", "trainer-gpu"} <= services.keys()
    assert services["trainer-gpu"]["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    assert "trainer-gpu" not in composed()["services"]


@pytest.mark.parametrize("missing", SECRETS)
def test_compose_refuses_to_start_without_a_secret(missing: str) -> None:
    done = compose("config", "-q", **{name: "example-secret" for name in SECRETS if name != missing})
    assert done.returncode != 0
    assert missing in done.stderr


def test_stack_is_reached_from_this_machine_only_and_its_servers_ask_who_it_is() -> None:
    services = composed("cpu", "gpu")["services"]
    published = [port for service in services.values() for port in service.get("ports", ())]
    assert {port["host_ip"] for port in published} == {"127.0.0.1"}
    mlflow, prefect = services["mlflow"]["environment"], services["prefect"]["environment"]
    assert "basic-auth" in services["mlflow"]["command"]
    assert mlflow["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert mlflow["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
    assert "mlflow:5000" in mlflow["MLFLOW_SERVER_ALLOWED_HOSTS"]  # the name that workers call it by
    assert prefect["PREFECT_SERVER_API_AUTH_STRING"] == "example-secret:example-secret"
    assert prefect["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] != "*"
    for service in ("mlflow", "prefect", "worker", "trainer"):
        assert services[service]["environment"]["DO_NOT_TRACK"] == "true"


def test_dockerfile() -> None:
    done = subprocess.run(
        [tool("hadolint"), str(INFRA / "docker" / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    text = (INFRA / "docker" / "Dockerfile").read_text()
    for stage in re.split(r"(?m)^FROM ", text)[1:]:
        if "CMD" in stage:
            assert re.search(r"(?m)^USER (?!0|root)", stage)
            assert re.search(r'(?m)^ENTRYPOINT \["tini"', stage)  # signals reach Python
    for source in re.findall(r"(?m)^COPY (?!--from)(.+) \S+$", text):
        assert all((ROOT / path).exists() for path in source.split())


def test_kubernetes_manifests() -> None:
    path = INFRA / "kubernetes" / "effnet.yaml"
    done = subprocess.run(
        [tool("kubernetes-validate"), "--strict", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    documents = list(yaml.safe_load_all(path.read_text()))
    pods = [each["spec"]["template"]["spec"] for each in documents if each["kind"] in ("Deployment", "StatefulSet")]
    accounts = {each["metadata"]["name"] for each in documents if each["kind"] == "ServiceAccount"}
    assert len(pods) == 3
    for pod in pods:
        assert pod["serviceAccountName"] in accounts
        assert pod["securityContext"]["runAsNonRoot"]
        assert not pod["containers"][0]["securityContext"]["allowPrivilegeEscalation"]


def test_terraform_is_formatted() -> None:
    terraform = next(
        (Path(p) / "terraform" for p in os.environ["PATH"].split(":") if (Path(p) / "terraform").exists()), 0
    )
    if not terraform:
        pytest.skip("NO TERRAFORM HERE: its formatting is not checked")
    done = subprocess.run(
        [str(terraform), "fmt", "-check", "-diff", str(INFRA / "terraform")],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"TF_CLI_CONFIG_FILE": os.devnull},
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_everything_that_terraform_refers_to_exists_and_is_used() -> None:
    declared, text = set(), ""
    for path in TERRAFORM:
        text += path.read_text()
        parsed = hcl2.loads(path.read_text())
        for block, prefix in (("resource", ""), ("data", "data.")):
            for entry in parsed.get(block, []):
                for kind, named in entry.items():
                    declared |= {f"{prefix}{_bare(kind)}.{_bare(name)}" for name in named if not name.startswith("__")}
        for entry in parsed.get("variable", []):
            declared |= {f"var.{_bare(name)}" for name in entry}
        for entry in parsed.get("locals", []):
            declared |= {f"local.{_bare(name)}" for name in entry if not name.startswith("__")}
    assert len(declared) > 25
    used = set(re.findall(r"(?<![\w.])(?:var|local)\.\w+", text))
    used |= set(re.findall(r"(?<![\w.])(?:data\.)?aws_\w+\.\w+", text))
    assert used <= declared
    assert {name for name in declared if name.startswith(("var.", "local."))} <= used


def test_terraform_opens_nothing_and_keeps_the_bucket_private() -> None:
    text = "".join(path.read_text() for path in TERRAFORM)
    assert "ingress" not in text
    assert text.count("0.0.0.0/0") == 1  # out
    assert text.count("= true") >= 4
    for setting in ("block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets"):
        assert re.search(rf"{setting}\s+= true", text)
    assert "force_destroy" not in text  # its default: a bucket that holds something is not destroyed


def test_prefect_yaml_names_the_pools_that_deploy_makes_and_pins_the_version() -> None:
    from prefect import __version__

    from tasks.servers.deployment import FLOWS_POOL, TRAININGS_POOL

    project = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    assert {each["work_pool"]["name"] for each in project["deployments"]} == {FLOWS_POOL, TRAININGS_POOL}
    assert project["prefect-version"] == __version__


def test_scheduled_deployments_run_at_their_hour_one_at_a_time() -> None:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    scheduled = {each["name"]: each for each in deployments if each.get("schedules")}
    assert scheduled.keys() == {"digits", "imagenet"}
    hours = {
        name: [(each["cron"], each["timezone"], each.get("active", True)) for each in found["schedules"]]
        for name, found in scheduled.items()
    }
    assert hours == {"digits": [("0 3 * * *", "Etc/UTC", True)], "imagenet": [("0 4 1 * *", "Etc/UTC", False)]}
    for each in scheduled.values():
        assert each["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}


def _bare(name: str) -> str:
    return name.strip('"')
