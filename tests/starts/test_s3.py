"""Weights on S3."""

from __future__ import annotations

from pathlib import Path

import pytest

from effnet.arch import zoo
from effnet.config import FamilyConfig
from effnet.errors import ConfigError
from effnet.family import Member, plan_members
from effnet.runs import RunFolder, RunSpec
from effnet.starts import fetch_start, member_files, member_starts
from effnet.storage import open_folder
from effnet.store import Store, sha256_file
from flows.cli.training import start_of

NETWORKS = ("efficientnet_lite0", "efficientnet_lite1")


@pytest.fixture(params=["moto", "radosgw"])
def place(request: pytest.FixtureRequest) -> str:
    return f"s3://{request.getfixturevalue('bucket' if request.param == 'moto' else 'real_bucket')}"


def family(weights: str, **fields: object) -> tuple[FamilyConfig, list[Member]]:
    config = FamilyConfig.parse(
        {"family": "photos", "members": {"published": list(NETWORKS)}, "weights": weights} | fields, "test"
    )
    return config, plan_members(zoo.get(NETWORKS[0]), config, None, 2)


def test_each_member_has_its_object_which_is_fetched_once(place: str, tmp_path: Path) -> None:
    folder = open_folder(place)
    for name, content in {
        "weights/tf_efficientnet_lite0.in1k.safetensors": b"zero",
        "weights/deep/efficientnet-lite1-7.pth": b"one",
        "weights/efficientnet_lite10.pth": b"another's",
        "weights/efficientnet_lite0.txt": b"no weights",
        "weightsmore/efficientnet_lite0.pth": b"of a longer prefix",
    }.items():
        folder.put(name, content)
    for weights in (f"{place}/weights", f"{place}/weights/", f"{place}/weights/*{{name}}[.-]*"):
        starts = member_starts(*family(weights), tmp_path, tmp_path / "cache")
        assert {name: Path(start.path).read_bytes() for name, start in starts.items()} == {
            "Lite0": b"zero",
            "Lite1": b"one",
        }
        assert starts["Lite0"].origin == f"{place}/weights/tf_efficientnet_lite0.in1k.safetensors"
        assert starts["Lite0"].sha256 == sha256_file(Path(starts["Lite0"].path))
        assert Path(starts["Lite0"].path).is_relative_to(tmp_path / "cache")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.*")}
    assert len(kept) == 2
    member_starts(*family(f"{place}/weights"), tmp_path, tmp_path / "cache")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.*")} == kept
    folder.put("weights/tf_efficientnet_lite0.in1k.safetensors", b"new!")
    again = member_starts(*family(f"{place}/weights"), tmp_path, tmp_path / "cache")
    assert Path(again["Lite0"].path).read_bytes() == b"new!"
    assert again["Lite1"] == starts["Lite1"]


def test_all_that_is_missing_is_told_in_one_line_and_nothing_is_fetched(bucket: str, tmp_path: Path) -> None:
    place = f"s3://{bucket}/weights"
    open_folder(place).put("efficientnet_lite0.pth", b"zero")
    config, members = family(f"{place}/{{name}}.pth", members={"published": [*NETWORKS, "efficientnet_lite2"]})
    with pytest.raises(ConfigError) as error:
        member_starts(config, members, tmp_path, tmp_path / "cache")
    told = f"no file of efficientnet_lite{{}} in {place}/{{name}}.pth"
    assert str(error.value) == f"weights: {told.format(1, name='{name}')}; {told.format(2, name='{name}')}"
    assert not (tmp_path / "cache").exists()
    open_folder(place).put("efficientnet-lite1.pth", b"one")
    open_folder(place).put("efficientnet_lite1.pth", b"one")
    with pytest.raises(ConfigError, match=r"efficientnet_lite1 may be any of efficientnet-lite1\.pth, efficientnet_l"):
        member_files(*family(f"{place}/{{name}}.pth"), tmp_path)
    with pytest.raises(ConfigError, match="there is no such bucket"):
        member_files(*family("s3://nowhere-at-all/{name}.pth"), tmp_path)


def test_one_object_or_what_is_below_a_runs_prefix(bucket: str, tmp_path: Path) -> None:
    folder = open_folder(f"s3://{bucket}")
    folder.put("runs/0123/model.safetensors", b"a run's")
    folder.put("runs/0123.safetensors", b"alone")
    for name, content in (("runs/0123", b"a run's"), ("runs/0123/", b"a run's"), ("runs/0123.safetensors", b"alone")):
        assert Path(fetch_start(f"s3://{bucket}/{name}", tmp_path).path).read_bytes() == content
    for name in ("runs", "runs/012", "runs/0123.saf"):
        with pytest.raises(ConfigError, match="no weights file there"):
            fetch_start(f"s3://{bucket}/{name}", tmp_path)
    config, members = family(f"s3://{bucket}/runs/0123.safetensors", baseline="efficientnet_lite0")
    grown = config.model_copy(update={"grow": True, "members": config.members.model_copy(update={"published": ()})})
    files = member_files(grown, members[:1], tmp_path)
    assert files["Lite0"].origin == f"s3://{bucket}/runs/0123.safetensors"


def test_a_training_starts_from_an_object_and_says_which(bucket: str, store: Store, run_folder: RunFolder) -> None:
    open_folder(f"s3://{bucket}").put("b0.safetensors", b"weights")
    start = start_of(f"s3://{bucket}/b0.safetensors", store, new_head=True)
    assert start.new_head
    assert start.told().endswith(f" from s3://{bucket}/b0.safetensors")
    assert Path(start.path).is_relative_to(store.cache)
    (store.root / "b0.safetensors").write_bytes(b"weights")
    here = start_of(str(store.root / "b0.safetensors"), store, new_head=True)
    runs = [run_folder.spec().model_copy(update={"start": each}) for each in (start, here)]
    assert runs[0].key() == runs[1].key()  # the checksum is part of the key, not where the file came from
    assert RunSpec.model_validate_json(runs[0].model_dump_json()) == runs[0]
