"""The job templates, on a real server, rendered by the classes of Prefect that will run them."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from docker.types import HostConfig
from kubernetes_validate import validate
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import Flow, FlowRun
from prefect.deployments import run_deployment
from prefect.states import Scheduled
from prefect.workers.process import ProcessWorker
from prefect_aws.workers.ecs_worker import ECSWorker
from prefect_docker.worker import DockerWorker
from prefect_kubernetes.worker import KubernetesWorker

from effnet.errors import ConfigError
from effnet.order import Order
from effnet.runs import RunFolder
from effnet.train import checkpoint
from tasks.compute.orders import PoolJob
from tasks.servers import deployment
from tasks.servers.deployment import POOL_TYPES, PoolType, pool_template
from tests.operations.pools import connected, kill_family, wait_until
from tests.s3_servers import MOTO
from tests.tiny import clean_environment

ROOT = Path(__file__).parents[2]
WORKERS = {"process": ProcessWorker, "docker": DockerWorker, "kubernetes": KubernetesWorker, "ecs": ECSWorker}


def rendered(
    url: str, pool_type: PoolType, job_variables: dict[str, Any], run: FlowRun | None = None, **settings: str
) -> Any:
    """Make a pool from our template, and return what its worker would run, for a flow run of it."""
    template = pool_template(ROOT, pool_type, settings)
    name = f"{pool_type}-{uuid.uuid4().hex[:8]}"
    worker = WORKERS[pool_type]

    async def render() -> Any:
        async with get_client() as client:
            await client.create_work_pool(WorkPoolCreate(name=name, type=pool_type, base_job_template=template))
            pool = await client.read_work_pool(name)
            configuration = await worker.job_configuration.from_template_and_values(
                pool.base_job_template, job_variables
            )
        flow = Flow(id=uuid.uuid4(), name="run_job")
        some = run or FlowRun(id=uuid.uuid4(), name="b3", flow_id=flow.id, state=Scheduled())
        configuration.prepare_for_flow_run(some, flow=flow)
        return configuration

    with connected(url):
        return asyncio.run(render())


@pytest.mark.parametrize("pool_type", POOL_TYPES)
def test_worker_of_its_type_takes_the_template(deployed: str, pool_type: PoolType) -> None:
    assert "prefect" in str(rendered(deployed, pool_type, {}).command)


def test_kubernetes_job_has_gpus_shared_memory_time_to_stop_and_no_rights(deployed: str) -> None:
    found = rendered(deployed, "kubernetes", {"image": "team/effnet:3"}, gpus="2", grace_seconds="90", shm_size="4Gi")
    manifest = found.job_manifest
    manifest["metadata"]["name"] = "b3"  # what generateName gives
    validate(manifest, "1.37", strict=True)
    pod = manifest["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert container["image"] == "team/effnet:3"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert pod["terminationGracePeriodSeconds"] == 90
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "4Gi"}} in pod["volumes"]
    assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]  # noqa: S108
    assert pod["securityContext"]["runAsNonRoot"]
    assert any(each["key"] == "effnet/spot" for each in pod["tolerations"])
    assert manifest["spec"]["completions"] == 1


def test_docker_container_has_gpus_and_shared_memory(deployed: str) -> None:
    found = rendered(deployed, "docker", {}, gpus="-1", shm_size="4g")
    asked = found.container_create_kwargs
    host = HostConfig(version="1.44", **asked)  # docker's own check of names and types
    assert host["DeviceRequests"][0]["Count"] == -1
    assert host["DeviceRequests"][0]["Capabilities"] == [["gpu"]]
    assert host["ShmSize"] == 4 << 30
    assert found.image == "effnet-gpu:latest"


@pytest.fixture
def ecs(moto_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster on moto with one GPU machine."""
    for name, value in (MOTO | {"AWS_ENDPOINT_URL": moto_url}).items():
        monkeypatch.setenv(name, value)
    client, machines = boto3.client("ecs"), boto3.client("ec2")
    client.create_cluster(clusterName="effnet")
    image = machines.describe_images()["Images"][0]["ImageId"]
    machine = machines.run_instances(ImageId=image, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
    document = {"instanceId": machine, "region": "us-east-1", "accountId": "123456789012"}
    client.register_container_instance(
        cluster="effnet", instanceIdentityDocument=str(document).replace("'", '"'), instanceIdentityDocumentSignature=""
    )
    yield client
    client.delete_cluster(cluster="effnet")


def test_ecs_task_asks_for_a_gpu_and_time_to_stop(deployed: str, ecs: Any) -> None:
    network = boto3.client("ec2").describe_vpcs()["Vpcs"][0]["VpcId"]
    found = rendered(
        deployed,
        "ecs",
        {"cpu": 1024, "memory": 2048},
        vpc_id=network,
        grace_seconds="100",
        capacity_provider_strategy="[]",
    )
    run = FlowRun(id=uuid.uuid4(), name="b3", flow_id=uuid.uuid4(), state=Scheduled())

    async def start() -> Any:
        async with ECSWorker("effnet-gpu") as worker:
            return await worker.run(run, found)

    with connected(deployed):
        result = asyncio.run(start())
    task = ecs.describe_tasks(cluster="effnet", tasks=[result.identifier.split("::")[1]])["tasks"][0]
    definition = ecs.describe_task_definition(taskDefinition=task["taskDefinitionArn"])["taskDefinition"]
    container = definition["containerDefinitions"][0]
    assert container["resourceRequirements"] == [{"type": "GPU", "value": "1"}]
    assert container["stopTimeout"] == 100
    assert container["linuxParameters"]["sharedMemorySize"] == 8192
    assert definition["requiresCompatibilities"] == ["EC2"]


def test_setting_that_the_template_lacks_is_told() -> None:
    with pytest.raises(ConfigError, match=r"--set gpu: no variable of kubernetes pools; there are .*gpus"):
        pool_template(ROOT, "kubernetes", {"gpu": "1"})
    with pytest.raises(ConfigError, match="--set gpus=two: write a value of type integer, as JSON"):
        pool_template(ROOT, "kubernetes", {"gpus": "two"})


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("pool_type", "state"), [("process", "Crashed"), pytest.param("docker", "Running", marks=pytest.mark.slow)]
)
def test_sigterm_reaches_the_training_which_saves_its_last_step(
    deployed: str, pool_type: PoolType, state: str, run_folder: RunFolder
) -> None:
    """As `tini -g` of our image sends it: to the whole process group. The other types: the same command, see below."""
    spec = run_folder.spec()
    recipe = spec.recipe.model_copy(update={"epochs": 500, "checkpoint_every": 0})
    folder = RunFolder.create(run_folder.store, spec.model_copy(update={"recipe": recipe}))
    order = Order(name="b3", action="train", runs=(folder.key,))
    job = PoolJob(place=str(folder.store.root), shared=True, orders=(order,))
    with connected(deployed), get_client(sync_client=True) as client:
        run = run_deployment("run_job/effnet-gpu", parameters={"job": job.model_dump(mode="json")}, timeout=0)
        found = rendered(deployed, pool_type, {}, run)
        settings = {"PREFECT_API_URL": deployed, "PREFECT__FLOW_RUN_ID": str(run.id)}
        process = subprocess.Popen(
            shlex.split(found.command),
            cwd=ROOT,
            env=clean_environment() | found.env | settings,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            wait_until(folder.metrics_path.exists, 240)
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(90)  # of which it may take 20, on a machine that has nothing else to do
        finally:
            kill_family(process)
        told = wait_until(lambda: re.search(r"asked to stop; stopped at step (\d+)", folder.log_path.read_text()), 30)
        assert checkpoint.steps(folder.checkpoints)[0] == int(told[1])
        assert client.read_flow_run(run.id).state_name == state


def test_containers_of_every_kind_are_stopped_in_the_same_way(deployed: str) -> None:
    """So that one of them is tried above; with its own way of starting again, an infrastructure would do it twice."""
    for pool_type in ("docker", "ecs", "kubernetes"):
        found = rendered(deployed, pool_type, {"env": {"MORE": "1"}})
        assert found.env["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] == "relinquish"
        assert found.env["MORE"] == "1"
        assert "prefect flow-run execute" in str(found.command)
    manifest = found.job_manifest
    assert manifest["spec"]["backoffLimit"] == 0
    settings = {each["name"]: each["value"] for each in manifest["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert settings["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] == "relinquish"


def test_deployments_of_ours_are_found_on_a_server_with_many(deployed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with connected(deployed), get_client(sync_client=True) as client:
        found = deployment._ours(client)
        assert len(found) > 2
        monkeypatch.setattr(deployment, "PAGE", 2)  # what 200 are on a server of many teams
        assert {each.id for each in deployment._ours(client)} == {each.id for each in found}
