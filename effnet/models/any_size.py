"""Cutting and resizing as part of an ONNX file, as the evaluation cuts and resizes: whole images of any size go in.

Resize (ONNX, opset 18) with `antialias` is the evaluation's filter, and Pillow's. It gets bytes, since the evaluation's
kernel, too, rounds after each of its two passes; and `exclude_outside`, or copies of the border's pixels would count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from effnet.errors import RunFailedError
from effnet.models.deployed import Metadata
from effnet.models.export import INPUT

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

OPSET = 18  # the first with `antialias`
_SQUARE = "square"  # what the network's own graph takes


def with_any_size(model: ModelProto, metadata: Metadata) -> ModelProto:
    """Return a model for uint8 images (N, height, width, C) of one size, any, made of one for (N, side, side, C).

    The central square of side / (side + crop_padding) of the shorter side is cut out (effnet.data.images.decode,
    `center_box`) and resized by a bicubic filter (a = -0.5), antialiased where it shrinks.

    Raises:
        RunFailedError: if the model is of an opset without `antialias`.
    """
    import onnx
    from onnx import checker, helper

    (opset,) = (each.version for each in model.opset_import if each.domain == "")
    if opset < OPSET:
        raise RunFailedError(f"an ONNX file of opset {opset} cannot resize with antialias, which came with {OPSET}")
    graph = model.graph
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == INPUT:
                node.input[place] = _SQUARE
    rest = list(graph.node)
    del graph.node[:]
    nodes, numbers = _resizing(metadata)
    graph.node.extend((*nodes, *rest))
    graph.initializer.extend(numbers)
    channels = graph.input[0].type.tensor_type.shape.dim[3].dim_value
    whole = helper.make_tensor_value_info(INPUT, onnx.TensorProto.UINT8, ["batch", "height", "width", channels])
    graph.input[0].CopyFrom(whole)
    checker.check_model(model)
    return model


def _resizing(metadata: Metadata) -> tuple[list[NodeProto], list[TensorProto]]:
    """Return the operations from a whole image to the square, uint8 (N, side, side, C), and the numbers they take."""
    import onnx
    from onnx import helper

    side = metadata.side
    nodes: list[NodeProto] = []
    constants: list[TensorProto] = []

    def numbers(name: str, *values: int) -> str:
        constants.append(helper.make_tensor(f"cut_{name}", onnx.TensorProto.INT64, [len(values)], values))
        return f"cut_{name}"

    def do(op: str, inputs: list[str], output: str, **how: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [output], **how))
        return output

    one, two = numbers("one", 1), numbers("two", 2)
    size = do("Shape", [INPUT], "cut_size", start=1, end=3)  # height, width
    shorter = do("ReduceMin", [size], "cut_shorter", keepdims=1)
    share = do("Mul", [shorter, numbers("side", side)], "cut_times_side")
    # Whole numbers, rounded down as by `int` in `center_box`.
    length = do("Max", [do("Div", [share, numbers("padded", side + metadata.crop_padding)], "cut_raw"), one], "cut_len")
    left_over = do("Add", [do("Sub", [size, length], "cut_over"), one], "cut_over_one")
    start = do("Div", [left_over, two], "cut_start")
    end = do("Add", [start, length], "cut_end")
    cut = do("Slice", [INPUT, start, end, numbers("axes", 1, 2)], "cut_image")
    planes = do("Transpose", [cut], "cut_planes", perm=[0, 3, 1, 2])
    # Of all four axes: with `axes`, onnxruntime 1.32 refuses some of the graphs that it can be part of.
    others = do("Shape", [planes], "cut_others", start=0, end=2)
    sizes = do("Concat", [others, numbers("square", side, side)], "cut_sizes", axis=0)
    resized = do(
        "Resize",
        [planes, "", "", sizes],
        "cut_resized",
        mode="cubic",
        cubic_coeff_a=-0.5,
        antialias=1,
        exclude_outside=1,
        coordinate_transformation_mode="half_pixel",
    )
    do("Transpose", [resized], _SQUARE, perm=[0, 2, 3, 1])
    return nodes, constants
