"""Print what DALI reads of a dataset's split, as JSON: label and mean of every image, in order.

Runs in an environment of its own (test_streaming.py): DALI is half a gigabyte, and wants other versions than we do.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main(folder: Path, split: str) -> None:
    """Read and print."""
    from nvidia.dali import fn, pipeline_def

    shards = sorted(folder.glob(f"{split}-*.tar"))

    @pipeline_def(batch_size=1, num_threads=2, device_id=None)
    def pipeline() -> Any:
        image, label = fn.readers.webdataset(
            paths=[str(shard) for shard in shards],
            index_paths=[str(shard.with_suffix(".idx")) for shard in shards],
            ext=["jpg;png", "cls"],
            missing_component_behavior="error",
            name="reader",
        )
        return fn.decoders.image(image, device="cpu"), label

    built = pipeline()
    built.build()
    found = []
    for _ in range(built.epoch_size("reader")):
        images, labels = built.run()
        found.append([int(bytes(labels.at(0))), float(images.at(0).mean())])
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
