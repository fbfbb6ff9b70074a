"""What machines hand to each other is of one piece, whatever a training writes while it is sent."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from effnet.errors import DataError, StoppedError
from effnet.exchange import Exchange
from effnet.order import Order
from effnet.outage import impatient
from effnet.runs import RunFolder, Start, Teacher, read_journal
from effnet.storage import open_folder, s3
from effnet.store import Store, sha256_file
from tasks.compute.job import handed_over
from tasks.compute.orders import PoolJob
from tasks.compute.outage import Patience


def train_epoch(folder: RunFolder, epoch: int) -> None:
    """Write what a training does at the end of an epoch of ten steps."""
    with folder.metrics_path.open("a") as file:
        file.write(f'{{"epoch": {epoch}, "step": {epoch * 10}}}\n')
    checkpoint = folder.checkpoints / f"step-{epoch * 10}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.pt").write_bytes(b"state")
    (checkpoint / "MANIFEST.json").write_bytes(b"{}")


def test_no_checkpoint_is_sent_that_is_ahead_of_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store")
    folder = RunFolder(store.runs / "0123456789abcdef")
    folder.path.mkdir(parents=True)
    train_epoch(folder, 1)
    exchange = Exchange(str(tmp_path / "exchange"), store)
    put = exchange._place.put

    def slow_put(name: str, data: bytes) -> None:
        put(name, data)
        train_epoch(folder, 2)  # while the journal was on its way

    monkeypatch.setattr(exchange._place, "put", slow_put)
    exchange.push(folder)
    sent = open_folder(str(tmp_path / "exchange"))
    steps = [int(file.name.split("step-")[1].split("/")[0]) for file in sent.list("checkpoints")]
    lines, _ = read_journal(tmp_path / "exchange" / "runs" / folder.key / "metrics.jsonl")
    assert steps
    assert max(steps) <= lines[-1]["step"]


def test_a_job_whose_work_another_one_does_publishes_nothing_any_more(tmp_path: Path, run_folder: RunFolder) -> None:
    place = tmp_path / "exchange"
    place.mkdir()
    flow = Exchange(str(place), run_folder.store)
    flow.publish(run_folder.key)
    order = Order(name="t0", action="train", runs=(run_folder.key,))
    job = PoolJob(place=str(place), shared=False, orders=(order,))
    machines = {name: Store(tmp_path / name) for name in ("cut off", "other")}
    ours, theirs = (RunFolder(store.runs / run_folder.key) for store in machines.values())

    def send(name: str, folder: RunFolder, epochs: int, numbers: str) -> None:
        exchange = Exchange(str(place), machines[name])
        with handed_over(job, name, exchange, Patience("exchange", print)):
            for epoch in range(1, epochs + 1):
                train_epoch(folder, epoch)
            folder.metrics_path.write_text(numbers)

    for store in machines.values():
        store.prepare()
    flow.replace("cut off")
    send("other", theirs, 1, '{"epoch": 1, "step": 10, "loss": 2}\n')
    with pytest.raises(StoppedError, match="another job was started for it"):
        send("cut off", ours, 3, '{"epoch": 1, "step": 10, "loss": 1}\n')
    sent = open_folder(str(place))
    assert sent.read(f"runs/{run_folder.key}/metrics.jsonl") == theirs.metrics_path.read_bytes()
    assert {file.name.split("/")[2] for file in sent.list("checkpoints")} == {"step-10"}


def test_a_checkpoint_that_vanishes_while_it_is_sent_is_passed_over(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store")
    folder = RunFolder(store.runs / "0123456789abcdef")
    folder.path.mkdir(parents=True)
    for number in (1, 2):
        train_epoch(folder, number)
    checked = s3._crc_file

    def vanish(path: Path) -> int:
        crc = checked(path)
        if path.parent.name == "step-10" and path.exists():
            shutil.rmtree(path.parent)  # as the training does with what it no longer keeps
        return crc

    monkeypatch.setattr(s3, "_crc_file", vanish)
    began = time.monotonic()
    with impatient():
        Exchange(f"s3://{bucket}/team", store).push(folder)
    assert time.monotonic() - began < s3.BRIEF_SECONDS  # it did not take the file's absence for the server's
    sent = [file.name for file in open_folder(f"s3://{bucket}/team").list("checkpoints")]
    assert sent == [f"checkpoints/{folder.key}/step-20/{name}" for name in ("MANIFEST.json", "state.pt")]


def test_a_run_that_is_published_again_keeps_what_its_last_machine_sent(run_folder: RunFolder, tmp_path: Path) -> None:
    place = tmp_path / "exchange"
    place.mkdir()
    flow, machine = Exchange(str(place), run_folder.store), Exchange(str(place), Store(tmp_path / "machine"))
    flow.publish(run_folder.key)
    there = machine.fetch(run_folder.key, 1 << 30)
    for epoch in (1, 2):
        train_epoch(there, epoch)
        machine.push(there)
        if epoch == 1:
            flow.pull(run_folder)
    flow.publish(run_folder.key)  # for another machine: the first has gone, and the flow saw one epoch
    other = Exchange(str(place), Store(tmp_path / "other")).fetch(run_folder.key, 1 << 30)
    for folder in (other, run_folder):
        assert [line["epoch"] for line in read_journal(folder.metrics_path)[0]] == [1, 2]


def test_weights_to_start_from_come_along(run_folder: RunFolder, tmp_path: Path) -> None:
    weights = tmp_path / "b0.safetensors"
    weights.write_bytes(b"weights")
    start = Start(path=str(weights), sha256=sha256_file(weights))
    folder = RunFolder.create(run_folder.store, run_folder.spec().model_copy(update={"start": start}))
    Exchange(str(tmp_path / "exchange"), run_folder.store).publish(folder.key)
    weights.unlink()  # another machine does not have it

    elsewhere = Store(tmp_path / "elsewhere")
    elsewhere.prepare()
    for _ in range(2):
        taken = Exchange(str(tmp_path / "exchange"), elsewhere).fetch(folder.key, 1 << 30)
        found = taken.spec().start
        assert found is not None
        assert Path(found.path).is_relative_to(elsewhere.root)
        assert Path(found.path).read_bytes() == b"weights"


def test_a_teacher_comes_along(run_folder: RunFolder, tmp_path: Path) -> None:
    spec, store = run_folder.spec(), run_folder.store
    weights = tmp_path / "efficientnet_b0.safetensors"
    weights.write_bytes(b"weights")
    for name in ("model.safetensors", "result.json", "metrics.jsonl"):
        (run_folder.path / name).write_text(name)
    file = Teacher(architecture=spec.architecture, path=str(weights), sha256=sha256_file(weights))
    run = Teacher(architecture=spec.architecture, run=run_folder.key)
    recipe = spec.recipe.model_copy(update={"teacher": "largest"})
    folders = [
        RunFolder.create(store, spec.model_copy(update={"teacher": each, "recipe": recipe})) for each in (file, run)
    ]
    for folder in folders:
        Exchange(str(tmp_path / "exchange"), store).publish(folder.key)
    weights.unlink()

    elsewhere = Store(tmp_path / "elsewhere")
    elsewhere.prepare()
    by_file, by_run = (
        Exchange(str(tmp_path / "exchange"), elsewhere).fetch(folder.key, 1 << 30).spec().teacher for folder in folders
    )
    assert by_file is not None
    assert by_file.path is not None
    assert Path(by_file.path).is_relative_to(elsewhere.root)
    assert Path(by_file.path).read_bytes() == b"weights"
    assert by_run == run
    there = {path.name for path in (elsewhere.runs / run_folder.key).iterdir()}
    assert there == {"config.json", "model.safetensors", "result.json"}


def test_weights_that_changed_are_not_offered(run_folder: RunFolder, tmp_path: Path) -> None:
    weights = tmp_path / "b0.safetensors"
    weights.write_bytes(b"weights")
    start = Start(path=str(weights), sha256=sha256_file(weights))
    folder = RunFolder.create(run_folder.store, run_folder.spec().model_copy(update={"start": start}))
    weights.write_bytes(b"other weights")
    with pytest.raises(DataError, match="not the weights that the run starts from"):
        Exchange(str(tmp_path / "exchange"), run_folder.store).publish(folder.key)
