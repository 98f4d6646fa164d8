"""What is before a network that takes texts: counting words, in scikit-learn and in the graph.

    text (n) ─ Loop over rows ─► tokens of a row ─► how often each word of the vocabulary is in it
             ─► counts (n, words) ─► the network

Golden outputs are torch's for scikit-learn's counts, so the graph is held to both.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from sklearn.feature_extraction.text import CountVectorizer

# The network's input that takes the counts.
COUNTS = "counts"
_ROW = "row"


@dataclass(frozen=True, slots=True)
class Front:
    """A vocabulary, and how texts are cut into words.

    Attributes:
        vectorizer: Fitted, without stop words or functions of its own. Its token pattern must mean
            the same to Python and to RE2. Python makes "i" of one letter beyond ASCII that is an
            upper-case one elsewhere, and "k" of another (U+0130, U+212A); the graph leaves both.
    """

    vectorizer: CountVectorizer

    @property
    def words(self) -> tuple[str, ...]:
        """The vocabulary, in the order of the counts."""
        return tuple(self.vectorizer.get_feature_names_out())

    def counts(self, texts: Iterable[str]) -> NDArray[np.float32]:
        """Returns scikit-learn's counts of the texts: float32 (n, words)."""
        counts: NDArray[np.float32] = self.vectorizer.transform(texts).toarray().astype(np.float32)
        return counts

    def join(self, head: onnx.ModelProto, text: str) -> onnx.ModelProto:
        """Returns the graph from texts to the head's outputs, checked by onnx.

        Texts are cut one at a time. The operator that does so gives all rows of a run as many
        tokens as the longest has: 63 short texts beside one of a megabyte would take a gigabyte.

        Args:
            head: Takes COUNTS, float32 (n, words); as `export_graph` gives it.
            text: The name of the input, strings (n).
        """
        (opset,) = (known.version for known in head.opset_import if not known.domain)
        row = self._row_graph(opset)
        graph = helper.make_graph(
            [
                helper.make_node("Size", [text], ["rows"]),
                helper.make_node("Loop", ["rows", ""], [COUNTS], body=self._body(row, text)),
                *head.graph.node,
            ],
            "text",
            [helper.make_tensor_value_info(text, TensorProto.STRING, ["n"])],
            head.graph.output,
            head.graph.initializer,
        )
        opsets = {known.domain: known.version for known in (*row.opset_import, *head.opset_import)}
        model = helper.make_model(
            graph,
            ir_version=head.ir_version,
            opset_imports=[helper.make_opsetid(*known) for known in sorted(opsets.items())],
        )
        onnx.checker.check_model(model, full_check=True)
        return model

    def _row_graph(self, opset: int) -> onnx.ModelProto:
        """Returns the graph that skl2onnx makes, for one text: strings (1) to counts (1, words)."""
        from skl2onnx import to_onnx
        from skl2onnx.common.data_types import StringTensorType

        model = to_onnx(
            self.vectorizer,
            initial_types=[(_ROW, StringTensorType([1]))],
            target_opset={"": opset, "ai.onnx.ml": 1, "com.microsoft": 1},
        )
        for node in model.graph.node:
            if node.op_type == "StringNormalizer":
                # Else it loads only where the machine has en_US.UTF-8; "C" is everywhere.
                node.attribute.append(helper.make_attribute("locale", "C"))
        return model

    def _body(self, row: onnx.ModelProto, text: str) -> onnx.GraphProto:
        """Returns what the loop does for row i: from text[i] to its counts, (words)."""
        (counts,) = (output.name for output in row.graph.output)
        nodes = [
            helper.make_node("Unsqueeze", ["i", "first_axis"], ["index"]),
            helper.make_node("Gather", [text, "index"], [_ROW]),
            *row.graph.node,
            helper.make_node("Squeeze", [counts, "first_axis"], ["row_counts"]),
            helper.make_node("Identity", ["go_on"], ["goes_on"]),
        ]
        return helper.make_graph(
            nodes,
            "row",
            [
                helper.make_tensor_value_info("i", TensorProto.INT64, []),
                helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            ],
            [
                helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
                helper.make_tensor_value_info("row_counts", TensorProto.FLOAT, [len(self.words)]),
            ],
            [*row.graph.initializer, helper.make_tensor("first_axis", TensorProto.INT64, [1], [0])],
        )
