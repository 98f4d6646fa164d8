"""A graph in 8-bit integers: Jacob et al., "Quantization and training of neural networks for
efficient integer-arithmetic-only inference", 2018.
"""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from forwardpass.artefact import Golden, max_absolute_error
from forwardpass.trainer.export.graph import forget_origins
from forwardpass.trainer.export.parity import open_session
from forwardpass.trainer.training.progress import Reporter
from forwardpass.v1 import model_card_pb2
from forwardpass.wire import Array

# Examples of each input by name; axis 0 counts rows.
Feed = Mapping[str, Array]

# Those that ONNX Runtime fuses into integer kernels. Relu is among them because it then becomes
# the range of what is before it: without, every one of a ResNet's leaves the integers and comes
# back. Softmax is not: probabilities keep their precision.
_OPERATORS = ["Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Relu", "MaxPool", "AveragePool"]
# Scores in 256 steps would tie; nobody reads the integers behind a network's last layer.
_FLOAT_OUTPUT = ["Gemm", "MatMul"]
# A single value of a digit classifier that was rounded the other way changed a probability by up
# to 0.0004, in one test row of 10,000. The calibration rows need not have met such a case.
_LEAST_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Int8:
    """A quantised graph and what it answers.

    Attributes:
        graph: Takes and gives what its parent does.
        golden: Inputs with ONNX Runtime's answers from integer arithmetic.
        tolerance: How far another CPU's answers may be from them.
        drift: The greatest absolute difference that was seen between arithmetics.
    """

    graph: onnx.ModelProto
    golden: Golden
    tolerance: model_card_pb2.Tolerance
    drift: float


def quantize_graph(model: onnx.ModelProto, calibration: Iterable[Feed]) -> onnx.ModelProto:
    """Returns the graph with 8-bit activations and weights; static, in QDQ form, without metadata.

    Activations are uint8, in the ranges that they have on the calibration examples. Weights are
    int8, scaled for each channel, and of seven bits: where a CPU has no VNNI, ONNX Runtime adds
    pairs of products in 16 bits, which eight bits overflow. So all CPUs answer alike.

    Args:
        model: In float.
        calibration: Real examples, in batches.
    """
    with tempfile.TemporaryDirectory() as folder:
        prepared, quantized = Path(folder) / "prepared.onnx", Path(folder) / "quantized.onnx"
        # Folds batch normalisation into convolutions, and infers shapes.
        quant_pre_process(model, prepared)
        quantization.quantize_static(
            prepared,
            quantized,
            _Reader(calibration),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=_OPERATORS,
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"OpTypesToExcludeOutputQuantization": _FLOAT_OUTPUT},
        )
        graph = onnx.load(quantized)
    forget_origins(graph)
    # Of the many sets of operators that ONNX Runtime lists when it writes a graph, those in use.
    used = {node.domain for node in graph.graph.node}
    for imported in list(graph.opset_import):
        if imported.domain not in used:
            graph.opset_import.remove(imported)
    onnx.checker.check_model(graph, full_check=True)
    return graph


def make_int8(
    model: onnx.ModelProto, golden_inputs: Feed, calibration: Sequence[Feed], reporter: Reporter
) -> Int8:
    """Returns the graph in int8, with golden answers that other CPUs can be held to.

    A correct run may round a value between two integers either way, and what follows goes with it.
    How far that leads is measured: the graph is run in integers and, without ONNX Runtime's
    optimiser, in float. The tolerance is the greatest difference over all examples.

    Args:
        model: In float.
        golden_inputs: Examples of each input.
        calibration: Real examples, in batches.
        reporter: Where progress is told.
    """
    graph = quantize_graph(model, reporter.items(calibration, "calibrating"))
    names = [output.name for output in graph.graph.output]
    integers = open_session(graph.SerializeToString())
    floats = open_session(graph.SerializeToString(), optimize=False)
    drift = 0.0
    for feed in reporter.items([golden_inputs, *calibration], "comparing integers with float"):
        pairs = zip(integers.run(names, feed), floats.run(names, feed), strict=True)
        drift = max(drift, *(max_absolute_error(*pair) for pair in pairs))
    answers = integers.run(names, dict(golden_inputs))
    return Int8(
        graph,
        Golden(golden_inputs, dict(zip(names, answers, strict=True))),
        model_card_pb2.Tolerance(relative=1e-4, absolute=max(drift, _LEAST_TOLERANCE)),
        drift,
    )


class _Reader(quantization.CalibrationDataReader):  # type: ignore[misc] # it ships no types
    def __init__(self, feeds: Iterable[Feed]) -> None:
        self._feeds: Iterator[Feed] = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self._feeds, None)
