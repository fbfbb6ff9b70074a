"""An exported file, run as it will be run elsewhere: how often it is right, and how fast it is, beside its network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from effnet.arch.spec import Architecture
from effnet.config import Augment
from effnet.data.loader import Loader
from effnet.errors import RunFailedError
from effnet.evaluation.latency import measure_in_turn
from effnet.evaluation.metrics import batch_of
from effnet.evaluation.predictor import Predictor
from effnet.models.build import Network
from effnet.models.deployed import network_input
from effnet.models.export import INPUT, random_images
from effnet.runs import Latency
from effnet.statistics import Difference, difference

RANDOM = 32  # images drawn at random, where there are no others
SIZES = ((1, 1), (1.5, 2.25), (2.4, 1.3), (0.6, 0.4), (0.5, 1.2), (3, 0.7))  # of such, in sides: height, width


class Images(NamedTuple):
    """Some images as a network of their side sees them."""

    pixels: NDArray[np.uint8]  # (N, R, R, 3)
    labels: NDArray[np.int64] | None  # (N,) outputs of the network, where they are known


class Comparison(NamedTuple):
    """A file's answers beside its network's, on the same images."""

    images: int
    agreement: float  # share of images that both give the same class
    top1: float | None = None  # of the file; None where nobody knows the images' classes
    top1_network: float | None = None
    drop: Difference | None = None  # how much more often the network is right
    apart: float | None = None  # largest difference of a probability; of files that take whole images


class Times(NamedTuple):
    """How long one image takes on one thread."""

    file: Latency
    network: Latency  # in torch, eager
    float32: Latency | None = None  # the same file before it was quantised

    @property
    def pays(self) -> bool:
        """Whether an int8 file is faster than the float32 one; True for others."""
        return self.float32 is None or self.file.latency_ms < self.float32.latency_ms


class Exported:
    """An ONNX file in onnxruntime on the CPU, or a torch.export program.

    Args:
        path: .onnx or .pt2.
        arch: of its network.
        preprocessing: is inside the file.
        threads: of onnxruntime; torch has its own setting.
    """

    def __init__(self, path: Path, arch: Architecture, *, preprocessing: bool, threads: int) -> None:
        self.arch, self.preprocessing = arch, preprocessing
        self.run: Callable[[NDArray[Any]], NDArray[np.float32]] = (
            _onnx(path, threads) if path.suffix == ".onnx" else _torch(path)
        )

    def given(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """Return what the file takes for (N, R, R, 3) pixels."""
        return pixels if self.preprocessing else _normalized(pixels, self.arch).numpy()

    def one_image(self) -> Callable[[], object]:
        """Return what answers for one image, to be timed; the file must have been opened with one thread."""
        image = self.given(random_images(self.arch, 1).numpy())
        return lambda: self.run(image)


def _onnx(path: Path, threads: int) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {INPUT: images})[0]


def _torch(path: Path) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
    module = torch.export.load(path).module()
    return lambda images: module(torch.from_numpy(images)).numpy()


def _normalized(pixels: NDArray[np.uint8], arch: Architecture) -> torch.Tensor:
    return network_input(torch.from_numpy(pixels), arch).contiguous()


def split_images(
    dataset: Path,
    split: str,
    resolution: int,
    crop_padding: int | None,
    *,
    most: int | None = None,
    batch: int | None = None,
) -> Iterator[Images]:
    """Yield a split's images in the index's order; `most` of them, spread evenly, if there are more.

    In batches as evaluations take them, unless `batch` says otherwise.
    """
    augment = Augment(crop_padding=crop_padding)
    size, threads = batch or batch_of(resolution), torch.get_num_threads()
    loader = Loader(dataset, split, batch_size=size, resolution=resolution, augment=augment, threads=threads)
    if most is not None and most < len(loader.index):
        loader.index = loader.index.take(np.linspace(0, len(loader.index) - 1, most).round().astype(np.int64))
    try:
        for each in loader.epoch(0):
            yield Images(np.ascontiguousarray(each.images.permute(0, 2, 3, 1).numpy()), each.labels.numpy())
    finally:
        loader.close()


class Whole(NamedTuple):
    """An image in its own size."""

    pixels: NDArray[np.uint8]  # (height, width, 3)
    label: int | None  # output of the network, where it is known


def whole_images(dataset: Path, split: str, most: int) -> Iterator[Whole]:
    """Yield a split's images in their own sizes; `most` of them, spread evenly, if there are more."""
    loader = Loader(dataset, split, batch_size=1, resolution=1, augment=Augment())
    try:
        number = len(loader.index)
        for sample in np.linspace(0, number - 1, min(most, number)).round().astype(int).tolist():
            yield Whole(loader.whole(sample), int(loader.index.labels[sample]))
    finally:
        loader.close()


def drawn_whole_images(arch: Architecture) -> Iterator[Whole]:
    """Yield images that show nothing: of the network's side, larger and smaller, portrait and landscape."""
    random, side = np.random.default_rng(RANDOM), arch.resolution
    for height, width in (np.array(SIZES) * side).astype(int).clip(1).tolist():
        yield Whole(random.integers(0, 256, (height, width, arch.in_channels), dtype=np.uint8), None)


def drawn_images(arch: Architecture) -> Iterator[Images]:
    """Yield images that show nothing."""
    yield Images(random_images(arch, RANDOM).numpy(), None)


@torch.inference_mode()
def compare(network: Network, exported: Exported, images: Iterable[Images]) -> Comparison:
    """Ask a network, on the CPU and in evaluation mode, and its file about the same images."""
    network.eval()
    ours, theirs, labels = [], [], []
    for batch in images:
        ours.append(network(_normalized(batch.pixels, network.architecture)).argmax(1).numpy())
        theirs.append(exported.run(exported.given(batch.pixels)).argmax(1))
        labels.append(batch.labels)
    own, found = np.concatenate(ours), np.concatenate(theirs)
    known = [each for each in labels if each is not None]
    return _compared(own, found, np.concatenate(known) if len(known) == len(labels) else None)


def compare_whole(predictor: Predictor, exported: Exported, images: Iterable[Whole]) -> Comparison:
    """Ask a predictor, on the CPU, and a file that takes whole images about the same ones."""
    predictor.network.eval()
    ours, theirs, labels = [], [], []
    for image in images:
        ours.append(predictor.probabilities([image.pixels])[0])
        theirs.append(exported.run(image.pixels[None])[0])
        labels.append(image.label)
    one, two = np.stack(ours), np.stack(theirs)
    truth = None if None in labels else np.array(labels, np.int64)
    return _compared(one.argmax(1), two.argmax(1), truth)._replace(apart=float(np.abs(one - two).max()))


def _compared(own: NDArray[np.int64], found: NDArray[np.int64], truth: NDArray[np.int64] | None) -> Comparison:
    agreement = float(np.mean(own == found))
    if truth is None:
        return Comparison(len(own), agreement)
    hits, right = found == truth, own == truth
    return Comparison(len(own), agreement, float(hits.mean()), float(right.mean()), difference(right, hits))


def time_exported(network: Network, exported: Exported, float32: Exported | None) -> Times:
    """Time a network and its file in alternating rounds; both files must have been opened with one thread."""
    arch = network.architecture
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    image = random_images(arch, 1)
    pixels = network_input(image, arch).contiguous(memory_format=torch.channels_last)
    calls = [exported.one_image(), lambda: network(pixels), *([float32.one_image()] if float32 else [])]
    times = measure_in_turn(calls)
    return Times(file=times[0], network=times[1], float32=times[2] if float32 else None)


def refuse_drop(comparison: Comparison, most: float, where: str, advice: str) -> None:
    """Raise RunFailedError if a file lost more than `most` points of top-1."""
    if (drop := comparison.drop) is None or 100 * drop.lead <= most:
        return
    raise RunFailedError(
        f"{where}: not written, as it would lose {100 * drop.lead:.2f} ± {100 * drop.noise:.2f} points of top-1 on "
        f"{comparison.images:,} images of val, more than --max-drop {most:g}; {advice}, or write it with --force"
    )
