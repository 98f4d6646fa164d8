"""Linear classifiers on features."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from forwardpass.trainer.training.head import cross_validate, fit_head
from forwardpass.wire import Array


def drawn(classes: int, rows: int = 200) -> tuple[Array, Array]:
    """Returns features of unlike sizes, and classes that can be told by them."""
    draw = np.random.default_rng(0)
    features = draw.normal(5, [1, 10, 0.1], (rows, 3)).astype(np.float32)
    score = features @ [1, 0.1, 10]
    bounds = np.quantile(score, np.linspace(0, 1, classes + 1)[1:-1])
    return features, np.searchsorted(bounds, score).astype(np.int64)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_a_head_answers_as_logistic_regression_on_scaled_features(classes: int) -> None:
    features, targets = drawn(classes)
    regression = make_pipeline(StandardScaler(), LogisticRegression(C=1 / (0.5 * 200)))
    regression.fit(features, targets)

    head = fit_head(features, targets, decay=0.5)

    with torch.no_grad():
        probabilities = head(torch.from_numpy(features)).softmax(dim=1).numpy()
    assert probabilities == pytest.approx(regression.predict_proba(features), abs=1e-4)
    assert probabilities[:, 1].std() > 0.02


def test_each_row_is_judged_by_a_head_that_was_not_fitted_to_it() -> None:
    features, targets = drawn(2)
    wide = np.random.default_rng(1).normal(size=(200, 300)).astype(np.float32)

    informed, chance = (cross_validate(each, targets, 0.001) for each in (features, wide))

    assert informed is not None
    assert chance is not None
    assert informed.score > 0.9
    # Of noise a head tells all rows that it has seen, and no others.
    assert 0.3 < chance.score < 0.7
    assert chance.loss > informed.loss


def test_a_class_of_one_row_cannot_be_held_out() -> None:
    features, targets = drawn(2)
    lone = np.flatnonzero(targets == 1)[:1]
    rows = np.concatenate([np.flatnonzero(targets == 0), lone])

    assert cross_validate(features[rows], targets[rows], 1.0) is None
    assert cross_validate(features, targets, 1.0) is not None
