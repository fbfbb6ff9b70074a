"""What the report knows of a training."""

from __future__ import annotations

import json
from pathlib import Path

from effnet.report.facts import curve_of
from effnet.report.figures import Curve, learning_figure
from effnet.runs import Probe, RunFolder


def test_features_alone_are_epoch_0(run_folder: RunFolder, tmp_path: Path) -> None:
    lines = [{"epoch": 1, "minival_top1": 0.4}, {"epoch": 2, "minival_top1": 0.7}]
    run_folder.metrics_path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert curve_of(run_folder) == ((1, 0.4), (2, 0.7))
    probe = Probe(top1=0.6, top5=0.9, loss=1.0, strength=0.1, images=100)
    run_folder.probe_path.write_text(probe.model_dump_json())
    run_folder.probe_weights_path.touch()
    curve = curve_of(run_folder)
    assert curve == ((0, 0.6), (1, 0.4), (2, 0.7))
    figures = [tmp_path / f"{name}.svg" for name in ("with", "without")]
    learning_figure({"B0": Curve((curve,), 2)}, 378, figures[:1])
    learning_figure({"B0": Curve((curve[1:],), 2)}, 378, figures[1:])
    assert figures[0].read_bytes() != figures[1].read_bytes()
