"""An int8 version of a published model, held to its parent's metrics."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch

from forwardpass.artefact import GOLDEN_FILE, MODEL_FILE, load_golden, max_absolute_error
from forwardpass.trainer.data.dataset import Dataset
from forwardpass.trainer.display import number_text
from forwardpass.trainer.errors import DataError, QuantizeError
from forwardpass.trainer.export.int8 import make_int8
from forwardpass.trainer.export.parity import open_session
from forwardpass.trainer.export.published import Published, find_published
from forwardpass.trainer.export.release import release_int8
from forwardpass.trainer.recipes import RECIPES, Recipe, find_listed
from forwardpass.trainer.training.seeds import generator
from forwardpass.trainer.training.settings import parse_settings
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.v1 import model_card_pb2
from forwardpass.wire import Array

if TYPE_CHECKING:
    import onnxruntime

# Training rows that set the ranges of the integers; fewer where there are fewer.
_CALIBRATION_ROWS = 512
_BATCH_ROWS = 64
_SCORES = (model_card_pb2.TENSOR_ROLE_PROBABILITIES, model_card_pb2.TENSOR_ROLE_LOGITS)


def quantize(
    name: str,
    version: int | None,
    max_loss: float,
    workspace: Workspace,
    own: Recipe | None = None,
) -> Published:
    """Publishes an int8 version of a model, as its next one.

    Integers get their ranges from training rows, drawn by the model's seed. Both versions are then
    measured on the test rows, by ONNX Runtime.

    Args:
        name: The model's.
        version: Its parent's; None for the newest.
        max_loss: How much any metric may fall.
        workspace: Whose models the parent is among.
        own: The recipe that the parent is of, where it is a file or module that nothing lists.

    Raises:
        UnknownNameError: There is no such model, or version of it.
        QuantizeError: The parent cannot be quantised, or a metric falls by more.
        DataError: The recipe's data is not what the parent learned from.
        PublishError: The version could not be written.
    """
    parent = find_published(workspace.models, name, version)
    recipe = _recipe_of(parent, own)
    with recipe.told():
        return _quantize(parent, recipe, max_loss, workspace)


def _quantize(
    parent: Published, recipe: Recipe, max_loss: float, workspace: Workspace
) -> Published:
    card = parent.card
    settings = parse_settings(recipe.settings, [f"{k}={v}" for k, v in card.settings.items()])
    data = recipe.load(settings, workspace)
    if not isinstance(data, Dataset):
        raise QuantizeError(
            f"{card.recipe} loads no Dataset, of whose training rows an int8 version could be "
            "calibrated; let its load return one"
        )
    if data.digest() != card.data.sha256:
        raise DataError(
            f"{parent.folder} learned from other rows than {card.recipe} now loads: their digests "
            "differ, and so test rows may be among those that it learned from. Train it anew."
        )

    (image,) = (spec.name for spec in card.signature.inputs)
    calibration = draw_rows(data.train.inputs, settings.seed)
    model = onnx.load(parent.folder / MODEL_FILE)
    golden_inputs = load_golden(parent.folder / GOLDEN_FILE).inputs
    batches = [{image: batch} for batch in _batches(calibration)]
    int8 = make_int8(model, golden_inputs, batches, workspace.reporter)

    def answer(session: "onnxruntime.InferenceSession", text: str, inputs: Array) -> list[Array]:
        feeds = [{image: batch} for batch in _batches(inputs)]
        names = [spec.name for spec in card.signature.outputs]
        answers = [session.run(names, feed) for feed in workspace.reporter.items(feeds, text)]
        return [np.concatenate(parts) for parts in zip(*answers, strict=True)]

    floats = partial(answer, open_session(model.SerializeToString()), "measuring the parent")
    integers = partial(answer, open_session(int8.graph.SerializeToString()), "measuring int8")
    before, after = recipe.measure(floats, data), recipe.measure(integers, data)
    _check_loss(before, after, max_loss)
    pairs = zip(
        card.signature.outputs, floats(data.test.inputs), integers(data.test.inputs), strict=True
    )
    return release_int8(
        parent,
        int8,
        after,
        model_card_pb2.Quantization(
            parent_metrics=before,
            calibration_rows=len(calibration),
            max_loss=max_loss,
            differences={spec.name: _difference(spec, *arrays) for spec, *arrays in pairs},
        ),
        workspace,
    )


def _recipe_of(parent: Published, own: Recipe | None) -> Recipe:
    card = parent.card
    if card.HasField("quantization"):
        raise QuantizeError(
            f"{parent.folder} is int8 already, made of version {card.quantization.parent_version}; "
            "say which float version to quantise, with --version"
        )
    if own is not None and own.name != card.recipe:
        raise QuantizeError(
            f"{parent.folder} is of the recipe {card.recipe!r}, and {own.origin} is {own.name!r}"
        )
    recipe = own or find_listed(card.recipe)
    if recipe is None and card.recipe:
        raise QuantizeError(
            f"{parent.folder} is of the recipe {card.recipe!r}, which is not in `forwardpass-train "
            "list`; say where it is, such as: --recipe ./my_recipe.py"
        )
    if recipe is None or not recipe.quantizable:
        able = ", ".join(name for name in RECIPES if RECIPES[name].quantizable)
        raise QuantizeError(
            f"{parent.folder.parent.name} cannot be quantised: it is not measured on test rows of "
            f"its own, so an int8 version could not be held to it. Models that can be: {able}; "
            "your own can be once its recipe has measure"
        )
    return recipe


def draw_rows(inputs: Array, seed: int) -> Array:
    """Returns the rows to calibrate by: 512 of (n, ...), each at most once, or all in any order."""
    order = torch.randperm(len(inputs), generator=generator(seed, "calibration"))
    drawn: Array = inputs[order[:_CALIBRATION_ROWS].numpy()]
    return drawn


def _batches(inputs: Array) -> list[Array]:
    return [inputs[start : start + _BATCH_ROWS] for start in range(0, len(inputs), _BATCH_ROWS)]


def _check_loss(before: Mapping[str, float], after: Mapping[str, float], max_loss: float) -> None:
    worst = max(before, key=lambda name: before[name] - after[name])
    loss = before[worst] - after[worst]
    # Shares of rows are subtracted: 0.995 - 0.990 is a little more than 0.005.
    if loss > max_loss + 1e-9:
        raise QuantizeError(
            f"int8 loses {number_text(loss)} of {worst}, which falls from "
            f"{number_text(before[worst])} to {number_text(after[worst])} on the test rows, and "
            f"--max-loss allows {max_loss:g}; nothing was published. Allow more, or go on with the "
            "float version."
        )


def _difference(
    spec: model_card_pb2.TensorSpec, expected: Array, got: Array
) -> model_card_pb2.OutputDifference:
    a, b = (array.reshape(len(array), -1).astype(np.float64) for array in (expected, got))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    difference = model_card_pb2.OutputDifference(
        max_absolute=max_absolute_error(got, expected),
        # A row of zeros has no direction; it counts as another one.
        mean_cosine=float(np.mean((a * b).sum(axis=1) / np.where(lengths > 0, lengths, np.inf))),
    )
    if spec.role in _SCORES:
        difference.same_class = float(np.mean(a.argmax(axis=1) == b.argmax(axis=1)))
    return difference
