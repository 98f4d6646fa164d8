"""ONNX files that others have made."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import LogisticRegression

from forwardpass.artefact import load_golden
from forwardpass.trainer import publish
from forwardpass.trainer.errors import ParityError, PublishError
from forwardpass.trainer.export.onnx_file import export_onnx, read_onnx
from forwardpass.wire import Array

X = np.arange(12, dtype=np.float32).reshape(4, 3)
WEIGHTS = np.array([[1, 2], [3, 4], [5, 6]], np.float32)


def graph(
    *nodes: onnx.NodeProto,
    extents: Sequence[int | str] = ("n", 3),
    out: Sequence[int | str] = ("n", 2),
    opset: int = 18,
    ir: int = 10,
    constants: Mapping[str, Array] | None = None,
    weights_are_inputs: bool = False,
) -> onnx.ModelProto:
    """Returns a graph from x to y, which multiplies by WEIGHTS unless other nodes are given."""
    tensors = [
        numpy_helper.from_array(a, n) for n, a in {"w": WEIGHTS, **(constants or {})}.items()
    ]
    listed = [helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 2])]
    made = helper.make_graph(
        list(nodes) or [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "net",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, extents),
            *(listed if weights_are_inputs else []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        tensors,
    )
    domains = {"": opset} | {node.domain: 1 for node in nodes if node.domain}
    imports = [helper.make_opsetid(*each) for each in domains.items()]
    return helper.make_model(made, opset_imports=imports, ir_version=ir, producer_name="theirs")


def exported(model: onnx.ModelProto, sample: Any = X, **changes: Any) -> Any:
    options: dict[str, Any] = {"preprocess": None, "outputs": None, **changes}
    return export_onnx(read_onnx(model), {"x": sample}, **options)


NEWEST = onnx.defs.onnx_opset_version()


@pytest.mark.parametrize(("opset", "ir"), [(7, 3), (13, 7), (NEWEST, 10)])
def test_files_of_opset_7_to_the_newest_are_published(tmp_path: Path, opset: int, ir: int) -> None:
    model = graph(opset=opset, ir=ir, weights_are_inputs=ir < 4)
    published = publish(model, "net", inputs={"x": X}, models=tmp_path)
    (taken,) = published.card.signature.inputs
    assert (taken.name, list(taken.shape)) == ("x", [-1, 3])
    golden = load_golden(published.folder / "golden.npz")
    np.testing.assert_array_equal(golden.outputs["y"], X @ WEIGHTS)
    assert published.card.parameters == 6


def test_the_card_says_that_the_file_was_compared_with_itself(tmp_path: Path) -> None:
    model = graph()
    onnx.helper.set_model_props(model, {"license": "theirs"})
    published = publish(model, "net", inputs={"x": X}, models=tmp_path)
    assert published.card.golden_source == "onnxruntime"
    assert "theirs" in published.card.versions
    assert "torch" not in published.card.versions
    kept = onnx.load(published.folder / "model.onnx").metadata_props
    assert {each.key for each in kept} == {"license", "forwardpass.card"}
    # What the caller has is not changed.
    assert [each.key for each in model.metadata_props] == ["license"]


def test_weights_beside_the_file_become_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "their.onnx"
    onnx.save(graph(), path, save_as_external_data=True, location="weights", size_threshold=0)
    published = publish(path, "net", inputs={"x": X}, models=tmp_path / "models")
    assert {each.name for each in published.folder.iterdir()} == {
        "golden.npz",
        "manifest.json",
        "model.onnx",
        "plots",
        "report.html",
    }
    # The weights that were not read do not come along by themselves.
    with pytest.raises(PublishError, match="weights of the model lie in weights; give the path"):
        read_onnx(onnx.load(path, load_external_data=False))
    (tmp_path / "weights").unlink()
    with pytest.raises(PublishError, match=r"their\.onnx cannot be read"):
        read_onnx(path)


def test_where_axis_0_counts_no_rows_all_is_one_run(tmp_path: Path) -> None:
    model = graph(extents=(4, 3), out=(4, 2))
    published = publish(model, "net", inputs={"x": X}, models=tmp_path)
    assert not published.card.signature.batched
    assert not published.card.HasField("row_independence")


def test_an_open_axis_that_counts_something_else_is_no_row(tmp_path: Path) -> None:
    model = graph(
        helper.make_node("NonZero", ["x"], ["places"]),
        helper.make_node("Transpose", ["places"], ["found"]),
        helper.make_node("Cast", ["found"], ["y"], to=TensorProto.FLOAT),
        out=("found", 2),
    )
    published = publish(model, "net", inputs={"x": X}, models=tmp_path)
    assert not published.card.signature.batched
    golden = load_golden(published.folder / "golden.npz")
    assert len(golden.outputs["y"]) == 11  # of 12 numbers the first is 0


def test_some_of_the_outputs_are_enough() -> None:
    model = graph(
        helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Neg", ["y"], ["z"])
    )
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 2]))
    kept, golden, batched = exported(model, outputs=["z"])
    assert [value.name for value in kept.graph.output] == ["z"] == list(golden.outputs)
    assert batched
    with pytest.raises(PublishError, match="the model gives y, z; there is no output q"):
        exported(model, outputs=["q"])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (graph(opset=6, ir=3), "of opset 6, and ONNX Runtime runs 7 and newer ones"),
        (
            graph(helper.make_node("Steal", ["x"], ["y"], domain="evil.ops")),
            "operator 'Steal' is of the unknown domain 'evil.ops'",
        ),
        (
            graph(helper.make_node("Stel", ["x"], ["y"])),
            "ONNX Runtime does not load the model: .*Stel",
        ),
        (graph(opset=NEWEST + 50), "ONNX Runtime does not load the model: .*opset"),
    ],
)
def test_a_graph_that_is_not_run_is_told_by_its_operators(
    model: onnx.ModelProto, message: str
) -> None:
    with pytest.raises(PublishError, match=message):
        exported(model)


def test_what_is_no_onnx_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.onnx").write_text("what?")
    with pytest.raises(PublishError, match=r"notes\.onnx cannot be read"):
        read_onnx(tmp_path / "notes.onnx")
    with pytest.raises(PublishError, match=r"absent\.onnx cannot be read.*No such file"):
        read_onnx(tmp_path / "absent.onnx")


@pytest.mark.parametrize(
    ("model", "sample", "message"),
    [
        (graph(), {"z": X}, "the model takes x; the sample has z"),
        (graph(), {"x": X.astype(float)}, "'x' is float64 (n, 3) with n = 4"),
        (graph(), {"x": X[:, :2]}, "but the model takes float32 (n, 3)"),
        (graph(extents=(1, 3), out=(1, 2)), {"x": X}, "takes float32 (1, 3). Where a number"),
        (graph(), {"x": X[:1]}, "two rows or more"),
    ],
)
def test_a_sample_that_does_not_fit_is_refused(
    model: onnx.ModelProto, sample: dict[str, Array], message: str
) -> None:
    with pytest.raises(PublishError, match=re.escape(message)):
        export_onnx(model, sample, None, None)


def test_rows_that_change_one_another_are_refused(tmp_path: Path) -> None:
    model = graph(
        helper.make_node("ReduceMean", ["x", "axis"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["y"]),
        out=("n", 3),
        constants={"axis": np.array([0])},
    )
    with pytest.raises(ParityError, match=r"output 'y'.* in a batch of 1.*over axis 0"):
        publish(model, "net", inputs={"x": X}, models=tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_graph_for_one_number_of_rows_is_refused(tmp_path: Path) -> None:
    # The shape depends on values as it seems, so that nobody sees it before a run.
    model = graph(
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        helper.make_node("Cast", ["nothing"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Add", ["whole", "four"], ["shape"]),
        helper.make_node("Reshape", ["x", "shape"], ["fixed"]),
        helper.make_node("MatMul", ["fixed", "w"], ["y"]),
        constants={"zero": np.array(0, np.float32), "four": np.array([4, 3])},
    )
    with pytest.raises(ParityError, match=r"fails on a batch of 1: .*Reshape.*such as a reshape"):
        publish(model, "net", inputs={"x": X}, models=tmp_path)


def test_maps_by_class_are_refused() -> None:
    from skl2onnx import to_onnx

    model = to_onnx(LogisticRegression().fit(X, [0, 1, 0, 1]), X)
    name = model.graph.input[0].name
    with pytest.raises(PublishError, match=r"is a seq\(map.*zipmap=False"):
        export_onnx(read_onnx(model), {name: X}, None, None)
