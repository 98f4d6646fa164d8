"""Torch modules as people write them."""

import warnings
from collections import namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from forwardpass.trainer.errors import PublishError, TrainerError
from forwardpass.trainer.export.module import export_module, name_outputs
from forwardpass.trainer.export.parity import open_session

X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
Y = np.linspace(1, 3, 8, dtype=np.float32).reshape(4, 2)


class TwoInOneDict(nn.Module):
    """Takes two inputs, and returns by name."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        hidden = self.left(x)
        return {"z": hidden - self.right(y), "embedding": hidden}


@pytest.mark.parametrize(
    "sample", [{"y": Y, "x": X}, {"left side": X, "right": Y}], ids=["by name", "in order"]
)
def test_inputs_go_by_the_names_of_forward_or_in_its_order(sample: dict[str, Any]) -> None:
    module = TwoInOneDict().eval()
    graph, golden = export_module(module, sample, None, None)
    with torch.inference_mode():
        expected = module(torch.from_numpy(X), torch.from_numpy(Y))

    answers = open_session(graph.SerializeToString()).run(["embedding", "z"], sample)

    assert list(golden.outputs) == ["z", "embedding"]
    np.testing.assert_allclose(answers[0], expected["embedding"], atol=1e-6)
    np.testing.assert_allclose(answers[1], expected["z"], atol=1e-6)


def test_some_outputs_of_a_mapping_are_enough() -> None:
    graph, golden = export_module(TwoInOneDict(), {"x": X, "y": Y}, None, ["embedding"])
    assert [value.name for value in graph.graph.output] == ["embedding"] == list(golden.outputs)


def test_the_module_stays_as_it_is() -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5)).train()
    _, golden = export_module(module, {"x": X}, None, None)
    assert all(part.training for part in module.modules())
    with torch.inference_mode():
        np.testing.assert_array_equal(golden.outputs["output"], module[0](torch.from_numpy(X)))


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"x": X, "right": Y}, "forward takes x, y, the sample has x, right: name all inputs"),
        (
            {"x": X.astype(float), "y": Y},
            r"take the sample, x float64 \(n, 3\), y float32 \(n, 2\)",
        ),
        ({"x": X}, "forward does not take the sample, x float32"),
    ],
)
def test_a_sample_that_forward_does_not_take_is_refused(
    sample: dict[str, Any], message: str
) -> None:
    with pytest.raises(PublishError, match=message):
        export_module(TwoInOneDict(), sample, None, None)


ONE = torch.ones(2, 1)
Pair = namedtuple("Pair", "first second")  # noqa: PYI024 - as a user's forward may return it


@pytest.mark.parametrize(
    ("answers", "wanted", "names"),
    [
        (ONE, None, ["output"]),
        (ONE, ["score"], ["score"]),
        ((ONE, ONE), None, ["output_0", "output_1"]),
        (Pair(ONE, ONE), ["a", "b"], ["a", "b"]),
        ({"a": ONE, "b": None, "c": ONE}, None, ["a", "c"]),
        ({"a": ONE, "b": ONE}, ["b"], ["b"]),
    ],
)
def test_outputs_have_names(answers: object, wanted: list[str] | None, names: list[str]) -> None:
    assert list(name_outputs(answers, wanted)) == names


@pytest.mark.parametrize(
    ("answers", "wanted", "message"),
    [
        ({"a": ONE}, ["b"], "forward returns a; there is no b"),
        ((ONE, ONE), ["a"], "forward returns output_0, output_1; there is no a"),
        ((ONE, "text"), None, "returns a str as 'output_1'; it has to return a tensor"),
        ({"a": {"deep": ONE}}, None, "returns a dict as 'a'"),
        (None, None, "returns a NoneType as 'output'"),
    ],
)
def test_what_are_no_tensors_by_name_is_refused(
    answers: object, wanted: list[str] | None, message: str
) -> None:
    with pytest.raises(PublishError, match=message):
        name_outputs(answers, wanted)


class Derived(nn.Module):
    """Keeps a tensor that it has computed from a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.ones(3, 2, requires_grad=True) * 2

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


def test_a_module_that_cannot_be_copied_is_refused() -> None:
    with pytest.raises(PublishError, match=r"cannot be copied: .*parameters or buffers"):
        export_module(Derived(), {"x": X}, None, None)


def test_a_module_that_is_a_script_is_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        script = torch.jit.script(nn.Linear(3, 2))
    with pytest.raises(PublishError, match="the module is a ScriptModule"):
        export_module(script, {"x": X}, None, None)


class Eigen(nn.Module):
    """Uses an operator that ONNX has not."""

    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = torch.linalg.eigvalsh(x[:, :, None] * x[:, None, :])
        return values


def test_an_operator_that_onnx_has_not_is_named() -> None:
    with pytest.raises(TrainerError, match=r"cannot be exported to ONNX: .*linalg_eigh"):
        export_module(Eigen(), {"x": X}, None, None)
