"""ONNX in whole numbers of eight bits, by onnxruntime's static quantisation."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effnet.models.deployed import Metadata
from effnet.models.export import INPUT, require_onnx, with_metadata


def quantize_onnx(source: Path, target: Path, metadata: Metadata, batches: Iterable[NDArray[Any]]) -> None:
    """Write an ONNX file in int8: weights per channel, activations by the range they have on some images.

    Weights get seven of the eight bits: processors without VNNI add pairs of products in 16 bits, which eight would
    overflow, silently. So a file answers alike on every x86 processor.

    Args:
        source: float32, as `export_onnx` wrote it.
        target: what to write; the caller publishes it.
        metadata: what it says of itself.
        batches: inputs as the file takes them, a few images each.

    Raises:
        ConfigError: if the extra `onnx` is not installed.
    """
    require_onnx()
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    logging.getLogger().addFilter(_no_advice)
    try:
        with TemporaryDirectory(prefix="effnet-int8-") as scratch:
            prepared, made = Path(scratch) / "prepared.onnx", Path(scratch) / "int8.onnx"
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            quantization.quantize_static(
                str(prepared),
                str(made),
                _reader(iter(batches)),
                per_channel=True,
                reduce_range=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
            target.write_bytes(with_metadata(onnx.load(made), metadata).SerializeToString())
    finally:
        logging.getLogger().removeFilter(_no_advice)


def _reader(batches: Iterator[NDArray[np.generic]]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, NDArray[np.generic]] | None:
            batch = next(batches, None)
            return None if batch is None else {INPUT: batch}

    return Reader()


def _no_advice(record: logging.LogRecord) -> bool:
    """Leave out what onnxruntime tells the root logger about preprocessing."""
    return "pre-processing" not in record.getMessage()
