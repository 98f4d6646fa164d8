"""What must not be published: a graph that answers otherwise than torch."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from forwardpass.trainer.errors import ParityError, TrainerError
from forwardpass.trainer.export.card import Evaluation, Provenance, Trained
from forwardpass.trainer.export.graph import export_graph
from forwardpass.trainer.export.parity import answer, measure_parity, measure_row_independence
from forwardpass.trainer.export.published import Published
from forwardpass.trainer.export.release import release
from forwardpass.trainer.training.settings import Settings
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.v1 import model_card_pb2 as pb

X = np.linspace(0, 1, 12, dtype=np.float32).reshape(6, 2)


class TwoFaced(nn.Module):
    """Answers otherwise once it is exported."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        return y + 0.5 if torch.compiler.is_exporting() else y


class BatchWise(nn.Module):
    """Lets rows of a batch change each other, which batching servers must not be given."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(dim=0)


def publish(module: nn.Module, workspace: Workspace) -> Published:
    trained = Trained(
        description="",
        reference="",
        module=module,
        inputs={"x": pb.TENSOR_ROLE_FEATURES},
        outputs={"y": pb.TENSOR_ROLE_VALUES},
        golden_inputs={"x": X},
        tolerance=pb.Tolerance(relative=1e-4, absolute=1e-5),
    )
    provenance = Provenance("net", Settings(), pb.DataSource())
    return release("net", trained, Evaluation(), provenance, workspace)


def test_a_graph_that_answers_otherwise_is_not_published(workspace: Workspace) -> None:
    with pytest.raises(ParityError, match=r"output 'y': ONNX Runtime is 0.5 away.*tolerance"):
        publish(TwoFaced(), workspace)

    assert not workspace.models.exists()


def test_a_model_whose_rows_change_each_other_is_not_published(workspace: Workspace) -> None:
    with pytest.raises(ParityError, match="in a batch of 1"):
        publish(BatchWise(), workspace)

    assert not workspace.models.exists()


def test_the_error_that_is_measured_is_the_greatest() -> None:
    module = nn.Linear(2, 1)
    named = _Named(module).eval()
    golden = answer(named, {"x": X}, ["y"])
    model = export_graph(named, {"x": X}, ["y"]).SerializeToString()
    golden.outputs["y"][3] += 0.25

    error = measure_parity(model, golden, pb.Tolerance(absolute=1))

    assert error == pytest.approx(0.25, abs=1e-5)


class Branching(nn.Module):
    """Does one thing or another, by its values."""

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


def test_what_cannot_be_exported_is_told_by_its_line(
    workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TrainerError) as caught:
        publish(Branching(), workspace)
    message = str(caught.value)
    assert "data-dependent" in message
    assert "of test_parity.py: if x.sum() > 0:" in message
    assert len(message) < 500
    assert "\x1b" not in message
    assert not capfd.readouterr().err


class InADict(nn.Module):
    """Returns its answer by name."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"y": x}


class Twice(nn.Module):
    """Returns more than is named."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


@pytest.mark.parametrize(
    ("module", "given"), [(InADict(), "a dict"), (Twice(), "2 tensors")], ids=["dict", "two"]
)
def test_what_is_no_tensor_for_each_output_is_told(
    workspace: Workspace, module: nn.Module, given: str
) -> None:
    with pytest.raises(TrainerError, match=f"forward returns {given}; .* in this order: y"):
        publish(module, workspace)


def test_how_far_rows_are_apart_is_measured_and_rounded_up() -> None:
    def independence(module: nn.Module) -> pb.RowIndependence:
        model = export_graph(module.eval(), {"x": X}, ["y"]).SerializeToString()
        return measure_row_independence(model, {"x": X})

    apart = independence(BatchWise())
    assert (apart.rows, apart.max_relative_difference) == (6, np.inf)
    near = independence(_Named(nn.Linear(2, 1)))
    assert near.rows == 6
    bound = near.max_relative_difference
    assert bound == 0 or (bound < 1e-5 and bound == 10.0 ** round(np.log10(bound)))


def test_the_card_says_what_export_measured_and_with_how_many_threads(workspace: Workspace) -> None:
    card = publish(_Named(nn.Linear(2, 1)), workspace).card
    assert card.threads == torch.get_num_threads()
    assert card.row_independence.rows == 6
    assert card.row_independence.max_relative_difference < 1e-5


class _Named(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.module(x)
        return y
