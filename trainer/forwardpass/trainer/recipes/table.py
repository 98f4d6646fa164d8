"""table: a multi-layer perceptron tells one column of a CSV file of your own from the others.

    columns, by name ─ one-hot ─► float32 (n, columns) ─ gaps filled, scaled ─► network ─► answer

All of it is in the graph, so that rows go in as they stand in the file. The card has the answers of
scikit-learn's gradient boosting and of a linear model beside the network's.
"""

import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import OneHotEncoder
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.regression import R2Score

from forwardpass.trainer.data import columns
from forwardpass.trainer.data.columns import Part, TableData
from forwardpass.trainer.data.own_rows import Kind
from forwardpass.trainer.errors import SettingError
from forwardpass.trainer.evaluation import predict, r2, rmse
from forwardpass.trainer.export.card import Evaluation, Trained
from forwardpass.trainer.export.preprocess import Columns
from forwardpass.trainer.models.scaling import Rescale
from forwardpass.trainer.models.table import Features, table_network
from forwardpass.trainer.plots.answers import answers_and_truth
from forwardpass.trainer.plots.confusion import MAX_CLASSES, confusion_matrix
from forwardpass.trainer.plots.curves import learning_curves
from forwardpass.trainer.training.checkpoints import Run
from forwardpass.trainer.training.fit import Rows, Task, fit
from forwardpass.trainer.training.fitted import Fitted
from forwardpass.trainer.training.own_data import OwnData, epochs_of
from forwardpass.trainer.training.schedules import SCHEDULES
from forwardpass.trainer.training.settings import Supervised, Widths
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.v1 import model_card_pb2
from forwardpass.wire import Array

# Categories of a column that are told apart, the most frequent ones, of two rows or more: what one
# row alone has tells nothing. All others are as one that is not known.
_CATEGORIES, _CATEGORY_ROWS = 100, 2
_GOLDEN = 8
# Where epochs=0.
_STEPS = 3_000


@dataclass(frozen=True, kw_only=True)
class Settings(OwnData, Supervised):
    """Knobs of table."""

    target: Annotated[str, "the column that is to be told from the others"] = ""
    test: Annotated[str, "a CSV file of rows to measure on; a fifth of data's where empty"] = ""
    task: Annotated[Kind, "what the target is; auto has its values tell"] = "auto"
    hidden: Annotated[Widths, "units of each hidden layer"] = (64, 32)
    dropout: Annotated[float, "share of hidden values zeroed in training"] = 0.1
    epochs: Annotated[int, "at most; 0 for as many as 3,000 steps take, from 5 to 100"] = 0
    batch_size: Annotated[int, "rows of a step, over all processes"] = 32
    learning_rate: Annotated[float, "the highest; see schedule"] = 3e-3


def load(settings: Settings, workspace: Workspace) -> TableData:
    """Returns the rows of the file, and says what of it is left out."""
    settings.needed("table", data="penguins.csv", target="species")
    data = columns.load(
        settings.path("data"),
        settings.target,
        kind=settings.task,
        test=settings.path("test") if settings.test else None,
    )
    if (output := _output(data)) in data.train.columns:
        raise SettingError(
            f"{data.name} has a column called {output!r}, as the model's output is; rename it"
        )
    data.left_out.tell(workspace.reporter)
    return data.limited(settings.limit)


def train(settings: Settings, data: TableData, run: Run) -> Trained:
    """Returns the trained network with what is before it, and what is said of them."""
    data.left_out.keep(run)
    front = fit_front(data.train.columns)
    split = {
        name: Rows(_joined(front, part), torch.from_numpy(part.targets))
        for name, part in (
            ("train", data.train),
            ("validation", data.validation),
            ("test", data.test),
        )
    }
    inputs = split["train"].inputs
    numbers = sum(array.dtype.kind == "f" for array in data.train.columns.values())
    features = Features(inputs[:, :numbers])
    outputs = len(data.labels) or 1
    network = table_network(features, inputs.shape[1], settings.hidden, outputs, settings.dropout)
    rescale = Rescale.of(split["train"].targets) if not data.labels else None
    model = network if rescale is None else nn.Sequential(network, rescale)
    fitted = fit(
        Task(
            model=model,
            train=split["train"],
            validation=split["validation"],
            loss=functional.cross_entropy if rescale is None else _Scaled(rescale),
            metric=MulticlassAccuracy(outputs, average="micro") if data.labels else R2Score(),
            metric_name="accuracy" if data.labels else "r2",
            optimizer=torch.optim.AdamW(
                network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
            ),
            epochs=settings.epochs or epochs_of(_STEPS, len(data.train), settings.batch_size),
            batch_size=settings.batch_size,
            schedule=SCHEDULES[settings.schedule],
            patience=settings.patience,
        ),
        settings,
        run,
    )
    kind = f"one of {len(data.labels)} classes" if data.labels else "a number"
    published = nn.Sequential(network, nn.Softmax(dim=1)) if data.labels else model
    unit = 1.0 if rescale is None else rescale.deviation.item()
    role = (
        model_card_pb2.TENSOR_ROLE_PROBABILITIES
        if data.labels
        else model_card_pb2.TENSOR_ROLE_VALUES
    )
    return Trained(
        description=f"Tells {data.target}, {kind} since {data.why}, from "
        f"{_columns(data)} of {data.name}.",
        reference="Rumelhart, Hinton and Williams, "
        '"Learning representations by back-propagating errors", 1986',
        module=published,
        front=front,
        inputs=dict.fromkeys(data.train.columns, model_card_pb2.TENSOR_ROLE_FEATURES),
        outputs={_output(data): role},
        golden_inputs=_golden(data),
        tolerance=model_card_pb2.Tolerance(relative=1e-4, absolute=1e-5 * unit),
        labels=data.labels,
        fitted=fitted,
        evaluate=partial(_evaluate, data, published, features, split, fitted),
    )


def fit_front(rows: Mapping[str, Array]) -> Columns:
    """Returns what makes float32 (n, columns) of columns: the numbers, then categories one-hot.

    Args:
        rows: Columns that are learned from, by name: float32 (n, 1), or texts (n, 1).
    """
    numbers = [place for place, array in enumerate(rows.values()) if array.dtype.kind == "f"]
    texts = [place for place, array in enumerate(rows.values()) if array.dtype.kind == "O"]
    categories = [_frequent(array) for array in rows.values() if array.dtype.kind == "O"]
    one_hot = OneHotEncoder(categories=categories, handle_unknown="ignore", sparse_output=False)
    transformer = ColumnTransformer(
        [("numbers", "passthrough", numbers), ("categories", one_hot, texts)]
    )
    return Columns(transformer.fit(np.concatenate(list(rows.values()), axis=1)))


def _frequent(column: Array) -> list[str]:
    counts = Counter(column[:, 0].tolist()).most_common(_CATEGORIES)
    return sorted(text for text, count in counts if count >= _CATEGORY_ROWS) or [counts[0][0]]


def _joined(front: Columns, part: Part) -> Tensor:
    (joined,) = front.apply(part.columns).values()
    return torch.from_numpy(joined)


class _Scaled:
    """The mean squared error in deviations, so that it is about 1 in whatever unit numbers are."""

    def __init__(self, rescale: Rescale) -> None:
        self._variance = rescale.deviation.square()

    def __call__(self, values: Tensor, targets: Tensor) -> Tensor:
        return functional.mse_loss(values, targets) / self._variance.to(values.device)


def _columns(data: TableData) -> str:
    count = len(data.train.columns)
    return "1 column" if count == 1 else f"{count} columns"


def _output(data: TableData) -> str:
    return "probabilities" if data.labels else "value"


def _golden(data: TableData) -> dict[str, Array]:
    """Returns six rows, those first of which nothing is missing; one of unknown categories; and one
    of which everything is missing.
    """
    parts = (data.test, data.validation, data.train)
    whole = {
        name: np.concatenate([part.columns[name] for part in parts])[: 64 * _GOLDEN]
        for name in data.train.columns
    }
    gaps = sum(
        (np.isnan(array) if array.dtype.kind == "f" else array == "").astype(int)
        for array in whole.values()
    )
    rows = np.argsort(np.ravel(gaps), kind="stable")[: _GOLDEN - 2]
    golden = {}
    for name, array in whole.items():
        known = array[rows]
        is_number = array.dtype.kind == "f"
        unknown = known[:1] if is_number else np.array([["no such category"]], object)
        missing = np.array([[np.nan]], np.float32) if is_number else np.array([[""]], object)
        golden[name] = np.concatenate([known, unknown, missing])
    return golden


def _evaluate(
    data: TableData,
    module: nn.Module,
    features: Features,
    split: Mapping[str, Rows],
    fitted: Fitted,
) -> Evaluation:
    train, test = split["train"], split["test"]
    (answers,) = predict(module, test.inputs.numpy())
    truth = test.targets.numpy().ravel()
    # Gradient boosting takes gaps as they are, a linear model what the network takes.
    plain = Rows(train.inputs, train.targets), test.inputs
    filled = Rows(features(train.inputs), train.targets), features(test.inputs)
    boosted, linear, naive = (
        _fitted(model, *rows)
        for model, rows in zip(_models(data), (plain, filled, filled), strict=True)
    )
    curves = {"learning-curves.png": learning_curves(fitted.history, fitted.metric)}
    if not data.labels:
        values = answers.ravel()
        errors = {
            "the network": rmse(values, truth),
            "gradient boosting": rmse(boosted, truth),
            "ridge regression": rmse(linear, truth),
            "the mean": rmse(naive, truth),
        }
        names = ("rmse", "gradient_boosting_rmse", "ridge_regression_rmse", "mean_rmse")
        return Evaluation(
            metrics=dict(zip(names, errors.values(), strict=True))
            | {"mean_absolute_error": float(np.abs(values - truth).mean())}
            | ({"r2": r2(values, truth)} if np.ptp(truth) else {}),
            plots=curves | {"answers.png": answers_and_truth(values, truth, errors)},
        )
    predicted = answers.argmax(axis=1)
    matrix = (
        {"confusion-matrix.png": confusion_matrix(predicted, truth, data.labels)}
        if len(data.labels) <= MAX_CLASSES
        else {}
    )
    return Evaluation(
        metrics={
            "accuracy": float(np.mean(predicted == truth)),
            "gradient_boosting_accuracy": float(np.mean(boosted == truth)),
            "logistic_regression_accuracy": float(np.mean(linear == truth)),
            "most_frequent_class_accuracy": float(np.mean(naive == truth)),
        },
        plots=curves | matrix,
    )


def _models(data: TableData) -> tuple[Any, Any, Any]:
    """Returns what the network is compared with, as scikit-learn has it."""
    if data.labels:
        return (
            HistGradientBoostingClassifier(random_state=0),
            LogisticRegression(max_iter=1000),
            DummyClassifier(),
        )
    return HistGradientBoostingRegressor(random_state=0), Ridge(), DummyRegressor()


def _fitted(model: Any, train: Rows, test: Tensor) -> Array:
    """Returns what a model answers for test rows, once fitted."""
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        model.fit(train.inputs.numpy(), train.targets.numpy().ravel())
    answers: Array = model.predict(test.numpy())
    return answers
