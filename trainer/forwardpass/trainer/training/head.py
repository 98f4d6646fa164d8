"""A linear classifier on features that are not trained further."""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from torch import nn

from forwardpass.trainer.training.fitted import Fitted
from forwardpass.wire import Array

_FOLDS = 5


def fit_head(features: Array, classes: Array, decay: float) -> nn.Linear:
    """Returns the linear layer whose logits tell classes apart: logistic regression.

    Features are brought to mean 0 and deviation 1, which the layer's weights then undo.

    Args:
        features: (n, width).
        classes: (n), of 0 to the number of classes less 1, each of which is there.
        decay: Weight of the penalty, above 0: the mean loss of a row has half of it times the sum
            of the squares of the weights.
    """
    scaler = StandardScaler().fit(features)
    regression = LogisticRegression(C=1 / (decay * len(features)), max_iter=1000)
    regression.fit(scaler.transform(features), classes)
    weights = regression.coef_ / scaler.scale_  # (classes, width)
    bias = regression.intercept_ - weights @ scaler.mean_  # (classes)
    if len(weights) == 1:
        # Of two classes it gives one logit, which becomes the difference of two.
        weights, bias = (np.concatenate([-one / 2, one / 2]) for one in (weights, bias))
    head = nn.Linear(features.shape[1], len(weights))
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weights))
        head.bias.copy_(torch.from_numpy(bias))
    return head


def cross_validate(features: Array, classes: Array, decay: float) -> Fitted | None:
    """Returns how heads do on rows that they were not fitted to: each row is held out once.

    Args:
        features: As for `fit_head`.
        classes: As for `fit_head`.
        decay: As for `fit_head`.

    Returns:
        The mean accuracy and loss of all rows; None where some class has one row alone.
    """
    folds = min(_FOLDS, int(np.bincount(classes).min()))
    if folds < 2:
        return None
    probabilities = np.empty((len(classes), classes.max() + 1))
    split = StratifiedKFold(folds, shuffle=True, random_state=0)
    for learned, held in split.split(features, classes):
        head = fit_head(features[learned], classes[learned], decay)
        with torch.inference_mode():
            logits = head(torch.from_numpy(features[held])).double()
        probabilities[held] = logits.softmax(dim=1).numpy()
    measured = {
        "validation_loss": float(log_loss(classes, probabilities, labels=np.unique(classes))),
        "validation_accuracy": float(np.mean(probabilities.argmax(axis=1) == classes)),
    }
    return Fitted("accuracy", [measured], 0)
