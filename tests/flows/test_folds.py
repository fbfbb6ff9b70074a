"""A family on folds, as a user builds it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from effnet.data.shards.manifest import load_manifest
from effnet.family import RESULT, FamilyResult, folds_scores, folds_story
from effnet.runs import RunFolder, read_value
from tests.tiny import CONFIG, MINIVAL, TRAIN, run_effnet, shown, write_tiny

FOLDED = (
    CONFIG.replace("phi: [0, 1, 2], dropout: [0.1, 0.2]", "phi: [0, 1], dropout: [0.1, 0.2], folds: 2").replace(
        "epochs: 3", "epochs: 1"
    )
    + "coefficients: [1.2, 1.1, 1.1]\n"
)


@pytest.mark.slow
def test_a_family_on_folds_says_so_everywhere(tmp_path: Path, prefect_home: Path) -> None:
    shutil.copytree(prefect_home, tmp_path / "store" / "prefect")
    done = run_effnet("family", write_tiny(tmp_path, FOLDED), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (path.parent for path in (tmp_path / "store/families").glob(f"*/{RESULT}"))
    result = read_value(FamilyResult, folder / RESULT)
    assert result is not None
    assert f"{folds_scores(result.members)}\n{folds_story(result.members)}\n" in done.stdout
    assert "top-1 here is out of fold, of 1,440 images" in done.stdout
    assert [f"fold {fold} of 2, dataset " in done.stderr for fold in (1, 2)] == [True, True]
    client = MlflowClient(f"sqlite:///{tmp_path / 'store/mlflow.db'}")
    for member in result.members:
        assert member.out_of_fold is not None
        assert member.out_of_fold.images == TRAIN + MINIVAL
        assert member.mlflow_run_id is not None
        run = client.get_run(member.mlflow_run_id)
        assert run.data.metrics["folds_top1"] == shown(member.out_of_fold.top1)
        assert run.data.params["fold"] == "1.0"
        model = client.get_registered_model(f"tiny-{member.name.lower()}").latest_versions[0]
        assert model.run_id == member.mlflow_run_id
        assert "(digits, fold 1 of 2): train 720, minival 720, val 357 images" in model.description
        manifest = load_manifest(
            tmp_path / "store/datasets" / RunFolder(tmp_path / "store/runs" / member.run_key).spec().dataset
        )
        assert manifest is not None
        assert manifest.settings.fold == (1, 2)
    page = (folder / "report.html").read_text()
    assert re.search(r"Out of fold is top-1 on the 1,440\s+images", page)
    assert "of those on the first fold" in page
    again = run_effnet("family", "tiny.yaml", "--json", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    members = json.loads(again.stdout)["members"]
    assert all(member["reused"] for member in members)
    assert [member["out_of_fold"]["top1"] for member in members] == [
        member.out_of_fold.top1 for member in result.members if member.out_of_fold
    ]
    alone = run_effnet("train", "tiny.yaml", "--member", "b1", "--json", cwd=tmp_path)  # the first fold's
    assert alone.returncode == 0, alone.stderr
    assert json.loads(alone.stdout)["run"].endswith(members[1]["run_key"])
