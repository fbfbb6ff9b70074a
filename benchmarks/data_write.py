"""Writing shards from a warm folder of JPEG files, images/s: ours, webdataset, MosaicML, litdata, a bare copy.

    python benchmarks/data_write.py [--images 3000] [--folder /dev/shm]

Needs an environment with this package and: pip install webdataset mosaicml-streaming litdata scikit-image scikit-learn
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from photos import write_photos
from turns import in_turn, report

from effnet.config import DataConfig, FolderSource
from effnet.data.shards.write import write_shards

SHARD = 500  # images


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    photos = options.folder / "effnet-photos"
    write_photos(photos, options.images)
    files = sorted(photos.glob("*/*.jpg"))
    print(f"{len(files)} files, {sum(path.stat().st_size for path in files) / len(files) / 1e3:.0f} KB each")
    out = options.folder / "effnet-written"
    writers = {"effnet": effnet, "webdataset": webdataset, "mosaicml": mosaicml, "litdata": litdata, "copy": copy}

    def run(name: str) -> int:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        writers[name](photos, files, out)
        return len(files)

    quick = {name: lambda name=name: run(name) for name in writers if name != "litdata"}
    rates = in_turn(quick, options.rounds)
    rates |= in_turn({"litdata": lambda: run("litdata")}, 1, warm_up=False)
    report("write shards", rates)
    resume(photos, out)
    shutil.rmtree(out)


def effnet(photos: Path, _files: list[Path], out: Path) -> None:
    """Two threads; planned, shuffled, checked, sha256 of every image, index, manifest."""
    source = FolderSource(kind="folder", train=str(photos))
    write_shards(DataConfig(source=source, shard_samples=SHARD), out, workers=2)


_KILLED_AT_HALF = """
import os, signal, sys
sys.path[:0] = sys.argv[4:]
from pathlib import Path
from effnet.config import DataConfig, FolderSource
from effnet.data.shards.write import write_shards
stop = lambda done, total: done * 2 >= total and os.kill(os.getpid(), signal.SIGKILL)
source = FolderSource(kind="folder", train=sys.argv[1])
write_shards(DataConfig(source=source, shard_samples=int(sys.argv[3])), Path(sys.argv[2]), stop, workers=2)
"""


def resume(photos: Path, out: Path) -> None:
    """Kill the writer halfway, run it again; print how long the second run takes, and whether the bytes match."""
    found: list[tuple[float, str]] = []
    for killed in (False, True):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        if killed:
            command = [sys.executable, "-c", _KILLED_AT_HALF, str(photos), str(out), str(SHARD // 5), *sys.path]
            assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
        begin = time.perf_counter()
        source = FolderSource(kind="folder", train=str(photos))
        manifest, _ = write_shards(DataConfig(source=source, shard_samples=SHARD // 5), out, workers=2)
        found.append((time.perf_counter() - begin, manifest.model_dump_json(exclude={"settings"})))
    (whole, wanted), (rest, got) = found
    print(f"killed at half, run again: {rest / whole:.2f} of the time, same bytes: {got == wanted}")


def webdataset(_photos: Path, files: list[Path], out: Path) -> None:
    """One process, as the library does it; no shuffle, no checksums, no index."""
    from webdataset import ShardWriter

    with ShardWriter(str(out / "%05d.tar"), maxcount=SHARD, verbose=0, encoder=False) as writer:
        for number, path in enumerate(files):
            label = path.parent.name[-1].encode()
            writer.write({"__key__": f"{number:06d}", "jpg": path.read_bytes(), "cls": label})


def mosaicml(_photos: Path, files: list[Path], out: Path) -> None:
    """One process, as the library does it; one checksum per shard."""
    from streaming import MDSWriter

    columns = {"jpg": "bytes", "cls": "int"}
    with MDSWriter(out=str(out / "mds"), columns=columns, hashes=["xxh64"], size_limit=1 << 26) as writer:
        for path in files:
            writer.write({"jpg": path.read_bytes(), "cls": int(path.parent.name[-1])})


def _lit_sample(path: str) -> dict[str, object]:
    return {"jpg": Path(path).read_bytes(), "cls": int(Path(path).parent.name[-1])}


def litdata(_photos: Path, files: list[Path], out: Path) -> None:
    """Two processes."""
    from litdata import optimize

    names = [str(path) for path in files]
    optimize(fn=_lit_sample, inputs=names, output_dir=str(out / "lit"), chunk_bytes="64MB", num_workers=2)


def copy(_photos: Path, files: list[Path], out: Path) -> None:
    """One process reads every file and writes all bytes into one: the limit for one process."""
    with (out / "all").open("wb", buffering=1 << 20) as file:
        for path in files:
            file.write(path.read_bytes())


if __name__ == "__main__":
    main()
