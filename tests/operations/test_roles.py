"""infra/policies on a real S3 server: each role can do its work, and nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path

import boto3
import pytest

from effnet.arch.spec import Architecture
from effnet.config import FamilyConfig
from effnet.data.shards.manifest import Manifest
from effnet.errors import ConfigError
from effnet.exchange import Exchange
from effnet.runs import RunFolder, RunSpec
from effnet.storage import Folder, open_folder, s3
from effnet.store import Store
from tests.rgw import Rgw

POLICIES = Path(__file__).parents[2] / "infra" / "policies"


def become(rgw: Rgw, bucket: str, role: str, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """Make a user with a role's rights, and be it; return the exchange as it sees it."""
    name = f"{role}{os.getpid()}{bucket[-4:]}"
    environment = rgw.user(name)
    policy = json.loads((POLICIES / f"{role}.json").read_text().replace("${bucket}", bucket))
    for statement in policy["Statement"]:
        statement["Principal"] = {"AWS": f"arn:aws:iam:::user/{name}"}
    boto3.session.Session().client("s3", endpoint_url=rgw.url).put_bucket_policy(
        Bucket=bucket, Policy=json.dumps(policy)
    )
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    s3.forget_client()
    return open_folder(f"s3://{bucket}/exchange")


def refused(call, *arguments: object) -> bool:
    with pytest.raises(ConfigError, match="access denied"):
        call(*arguments)
    return True


def test_trainer_takes_and_sends_runs_and_deletes_nothing(
    rgw: Rgw,
    real_bucket: str,
    store: Store,
    baseline: Architecture,
    manifest: Manifest,
    config: FamilyConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    num_classes = len(manifest.classes)
    spec = RunSpec(architecture=baseline, dataset=manifest.digest, num_classes=num_classes, recipe=config.recipe)
    run = RunFolder.create(store, spec)
    Exchange(f"s3://{real_bucket}/exchange", store).publish(run.key)  # as the bucket's owner

    place = become(rgw, real_bucket, "trainer", monkeypatch)
    elsewhere = Store(tmp_path / "elsewhere")
    trainer = Exchange(f"s3://{real_bucket}/exchange", elsewhere)
    taken = trainer.fetch(run.key, 1 << 30)
    assert taken.spec() == spec
    checkpoint = taken.checkpoints / "step-1"
    checkpoint.mkdir(parents=True)
    for name in ("state.pt", "MANIFEST.json"):
        (checkpoint / name).write_bytes(b"x")
    taken.metrics_path.write_bytes(b"{}\n")
    trainer.push(taken)
    trainer.post("job", "1")
    assert trainer.latest("job") == "1"
    assert place.read(f"checkpoints/{run.key}/step-1/MANIFEST.json") == b"x"
    assert refused(place.delete, [f"runs/{run.key}/config.json"])
    assert refused(place.put, f"datasets/{manifest.digest}/manifest.json", b"forged")
    assert refused(open_folder(f"s3://{real_bucket}/mlflow").put, "x", b"")
    (taken.checkpoints / "step-2").mkdir()
    for name in ("state.pt", "MANIFEST.json"):
        (checkpoint / name).rename(taken.checkpoints / "step-2" / name)
    checkpoint.rmdir()
    trainer.push(taken)  # it may not forget the first one, which is no error


def test_sharder_writes_datasets_only(rgw: Rgw, real_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = become(rgw, real_bucket, "sharder", monkeypatch)
    dataset = open_folder(f"s3://{real_bucket}/exchange/datasets/d")  # as the exchange opens it
    assert dataset.create("manifest.json", b"{}")
    assert not dataset.create("manifest.json", b"[]")
    assert [file.name for file in place.list("datasets/d")] == ["datasets/d/manifest.json"]
    part = open_folder(f"s3://{real_bucket}/exchange/parts/p")  # of a dataset that several jobs write
    part.put("train-00000.tar.part.json", b"{}")
    assert [file.name for file in part.list()] == ["train-00000.tar.part.json"]
    part.delete(["train-00000.tar.part.json"])
    assert refused(place.put, "runs/r/result.json", b"forged")
    assert refused(place.list, "runs/")


def test_janitor_deletes_and_reads_nothing(rgw: Rgw, real_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = open_folder(f"s3://{real_bucket}/exchange")
    owner.put("checkpoints/r/step-1/state.pt", b"x")
    place = become(rgw, real_bucket, "janitor", monkeypatch)
    assert refused(place.read, "checkpoints/r/step-1/state.pt")
    assert refused(place.put, "runs/r/result.json", b"forged")
    place.delete([file.name for file in place.list("checkpoints/")])
    assert place.list("checkpoints/") == []
