"""A fitted scikit-learn estimator or pipeline of the caller's."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper
from sklearn.base import is_classifier, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from forwardpass.artefact import Golden
from forwardpass.trainer.errors import PublishError
from forwardpass.trainer.export.preprocess import Texts
from forwardpass.trainer.export.table import (
    as_fitted,
    join_columns,
    refused_by,
    to_columns,
    to_graph,
)
from forwardpass.wire import Array


def export_estimator(
    estimator: Any, sample: Mapping[str, Array], outputs: Sequence[str] | None
) -> tuple[onnx.ModelProto, Golden, tuple[str, ...]]:
    """Returns the graph, scikit-learn's own answers to the sample, and the names of the classes.

    A pipeline that begins with a vectorizer takes texts, counted one at a time as in `Texts`.

    Args:
        estimator: A classifier with probabilities, a regressor or a transformer; of a search, such
            as GridSearchCV, the best that it has found.
        sample: Texts, columns by name, or one array (n, columns).
        outputs: Names, in order; None for "label" and "probabilities", "value", or "features".

    Raises:
        PublishError: It is none of those or not fitted, or skl2onnx does not know it.
    """
    try:
        check_is_fitted(estimator)
    except (NotFittedError, TypeError) as error:
        raise PublishError(f"scikit-learn's {type(estimator).__name__}: {error}") from None
    estimator = getattr(estimator, "best_estimator_", estimator)
    texts, rest = _split(estimator)
    inputs = dict(sample) if texts is not None else as_fitted(to_columns(sample), estimator)
    taken = inputs if texts is None else texts.apply(inputs)
    given = next(iter(inputs.values())) if texts is not None else join_columns(inputs, estimator)
    answers = _ask(estimator, inputs, given)
    names = list(answers) if outputs is None else list(outputs)
    if len(names) != len(answers):
        raise PublishError(
            f"{type(estimator).__name__} gives {', '.join(answers)}; outputs names {len(names)}"
        )
    graph = to_graph(rest, to_columns(taken), names)
    # skl2onnx does not state how many values a regressor answers with.
    for value, array in zip(graph.graph.output, answers.values(), strict=True):
        dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
        value.CopyFrom(helper.make_tensor_value_info(value.name, dtype, ["n", *array.shape[1:]]))
    if texts is not None:
        graph = texts.join(graph, inputs)
    onnx.checker.check_model(graph, full_check=True)
    labels = tuple(str(each) for each in getattr(estimator, "classes_", ()))
    golden = Golden(inputs, dict(zip(names, answers.values(), strict=True)))
    return graph, golden, labels


def _split(estimator: Any) -> tuple[Texts | None, Any]:
    """Returns what counts the words of texts, and what is behind it."""
    if isinstance(estimator, Pipeline) and isinstance(estimator[0], CountVectorizer):
        return Texts(estimator[0]), estimator[1:]
    return None, estimator


def _ask(estimator: Any, inputs: Mapping[str, Array], given: Any) -> dict[str, Array]:
    """Returns what an estimator answers; what it says of the inputs is told."""
    try:
        return _answer(estimator, given)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise refused_by(estimator, inputs, error) from error


def _answer(estimator: Any, given: Any) -> dict[str, Array]:
    """Returns what an estimator answers, by name, as skl2onnx orders it."""
    if is_classifier(estimator) and hasattr(estimator, "predict_proba"):
        label, scores = np.asarray(estimator.predict(given)), estimator.predict_proba(given)
        if label.ndim == 1 and not isinstance(scores, list):
            plain = label.astype(object) if label.dtype.kind in "UOS" else label.astype(np.int64)
            return {"label": plain, "probabilities": scores.astype(np.float32)}
    elif is_regressor(estimator):
        value = np.asarray(estimator.predict(given), np.float32)
        return {"value": value.reshape(len(value), -1)}
    elif hasattr(estimator, "transform") and not hasattr(estimator, "predict"):
        features = estimator.transform(given)
        if hasattr(features, "toarray"):
            features = features.toarray()
        return {"features": np.asarray(features, np.float32)}
    raise PublishError(
        f"scikit-learn's {type(estimator).__name__} is no classifier of one label with "
        "predict_proba, no regressor and no transformer; wrap a classifier that has none in "
        "CalibratedClassifierCV"
    )
