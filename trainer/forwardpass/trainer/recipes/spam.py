"""spam: a program that was written, a list of rules, against two that learned from examples."""

import re
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch.nn import functional
from torchmetrics.classification import MulticlassAccuracy

from forwardpass.trainer.data import spam
from forwardpass.trainer.data.dataset import Dataset
from forwardpass.trainer.evaluation import predict
from forwardpass.trainer.export.card import Evaluation, Trained
from forwardpass.trainer.export.front import Front
from forwardpass.trainer.export.preprocess import Texts
from forwardpass.trainer.models.text import TextClassifier, TextNetwork, TfIdf
from forwardpass.trainer.plots.confusion import confusion_matrix
from forwardpass.trainer.plots.curves import learning_curves
from forwardpass.trainer.plots.detection import Detector, detectors_compared, telling_words
from forwardpass.trainer.training.checkpoints import Run
from forwardpass.trainer.training.fit import Rows, Task, fit
from forwardpass.trainer.training.schedules import one_cycle
from forwardpass.trainer.training.settings import BatchSize, Epochs, Patience, PeakRate, WeightDecay
from forwardpass.trainer.training.settings import Settings as BaseSettings
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.v1 import model_card_pb2
from forwardpass.wire import Array

# Words and numbers as they are written, since shouting tells, and runs of $ and of !.
_WORD = r"[A-Za-z0-9][A-Za-z0-9']*|[$!]+"
# How strong logistic regression's weights may be; validation rows choose.
_STRENGTHS = (1.0, 10.0, 100.0, 1000.0)

# "if e-mail contains ... then mark as spam": what somebody who has seen spam would write down.
RULES = {
    "V!agr@, however it is spelled": r"v[i1!|]agr[a@]",
    "click here, click below": r"\bclick (here|below|on the link)",
    "be removed from our list": r"\bremoved? (yourself )?from (our|this|the|my) .{0,20}list",
    "work or earn from home": r"\b(work|earn|money|income|business)\b.{0,40}\bhome\b",
    "100 % free, or guaranteed": r"\b100 ?% (free|guarantee|satisf|legal)|money.back guarantee",
    "mortgages and low rates": r"\bmortgage|\brefinanc|\blow(est)? (interest )?rates",
    "no cost, no obligation": r"\bno (cost|obligation|credit check|risk|experience)\b",
    "a fortune to be moved": r"\bnext of kin\b|\bbarrister\b|\bnigeria|\bfund transfer",
    "lose weight": r"\b(lose|lost) (weight|\d+ pounds|inches)|\bweight loss|\bdiet pill",
    "adults only": r"\bxxx\b|\bporn|\bhot (girls|teens|babes)|\badults? only|\b18\+",
    "Dear friend": r"\bdear (friend|sir|homeowner|valued|sir ?/ ?madam|customer)",
    "!!! and $$$": r"!!!|\$\$",
}


@dataclass(frozen=True, kw_only=True)
class Settings(BaseSettings):
    """Knobs of spam."""

    epochs: Epochs = 10
    batch_size: BatchSize = 64
    learning_rate: PeakRate = 2e-3
    words: Annotated[int, "of the vocabulary at most, the most frequent ones"] = 20_000
    hidden: Annotated[int, "units of the hidden layer"] = 64
    word_dropout: Annotated[float, "share of a training text's words that is left out, below 1"] = (
        0.3
    )
    dropout: Annotated[float, "share of the hidden units zeroed in training, below 1"] = 0.5
    weight_decay: WeightDecay = 0.1
    patience: Patience = 0


def load(settings: Settings, workspace: Workspace) -> Dataset:
    """Returns what a run of these settings learns from and is measured on."""
    return spam.load(workspace.cache, workspace.reporter, settings.limit)


def train(settings: Settings, data: Dataset, run: Run) -> Trained:
    """Trains the network, and describes it."""
    vectorizer = CountVectorizer(
        token_pattern=_WORD, lowercase=False, max_features=settings.words, min_df=2
    )
    front = Front(vectorizer.fit(data.train.inputs))
    counts, validation = (front.counts(split.inputs) for split in (data.train, data.validation))

    weights = TfIdf(torch.from_numpy((counts > 0).sum(axis=0)), len(counts))
    network = TextNetwork(
        weights, settings.hidden, len(data.labels), settings.word_dropout, settings.dropout
    )

    fitted = fit(
        Task(
            model=network,
            train=_rows(counts, data.train.targets),
            validation=_rows(validation, data.validation.targets),
            loss=functional.cross_entropy,
            metric=MulticlassAccuracy(2, average="micro"),
            metric_name="accuracy",
            optimizer=torch.optim.AdamW(
                network.parameters(),
                settings.learning_rate,
                weight_decay=settings.weight_decay,
            ),
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            schedule=one_cycle,
            patience=settings.patience,
        ),
        settings,
        run,
    )

    classifier = TextClassifier(network)

    def evaluate() -> Evaluation:
        test, truth = front.counts(data.test.inputs), data.test.targets
        network_says = _spam_probability(classifier, test)
        features = [
            weights(torch.from_numpy(words)).numpy() for words in (counts, validation, test)
        ]
        regression_says = _regression(features, data.train.targets, data.validation.targets)
        hits = rule_hits(data.test.inputs)
        detectors = [
            Detector("the rules", np.asarray(hits.any(axis=1), np.float64)),
            Detector("logistic regression", regression_says),
            Detector("the network", network_says),
        ]
        rules, regression, learned = (detector.says(truth) for detector in detectors)
        return Evaluation(
            metrics={
                "accuracy": learned.accuracy,
                "spam_found_share": learned.found,
                "ham_lost_share": learned.lost,
                "area_under_roc": float(roc_auc_score(truth, network_says)),
                "logistic_regression_accuracy": regression.accuracy,
                "logistic_regression_area_under_roc": float(roc_auc_score(truth, regression_says)),
                "rules_accuracy": rules.accuracy,
                "rules_spam_found_share": rules.found,
                "rules_ham_lost_share": rules.lost,
                "always_ham_accuracy": float(np.mean(truth == 0)),
            },
            plots={
                "learning-curves.png": learning_curves(fitted.history, "accuracy"),
                "confusion-matrix.png": confusion_matrix(
                    (network_says > 0.5).astype(np.int64), truth, data.labels
                ),
                "rules-or-examples.png": detectors_compared(
                    detectors, truth, dict(zip(RULES, hits.T, strict=True))
                ),
                "telling-words.png": telling_words(front.words, _word_says(classifier, front)),
            },
        )

    return Trained(
        description="Tells spam from ham: takes the text of an e-mail, its subject first, "
        "and gives the probability of either. Learned from e-mails of 2002.",
        reference='Salton and Buckley, "Term-weighting approaches in automatic text '
        'retrieval", 1988; Androutsopoulos et al., "An experimental comparison of naive '
        'Bayesian and keyword-based anti-spam filtering", 2000',
        module=classifier,
        front=Texts(front.vectorizer),
        inputs={"text": model_card_pb2.TENSOR_ROLE_TEXT},
        outputs={"probabilities": model_card_pb2.TENSOR_ROLE_PROBABILITIES},
        golden_inputs={"text": data.test.inputs[:8]},
        tolerance=model_card_pb2.Tolerance(relative=1e-4, absolute=1e-5),
        labels=data.labels,
        fitted=fitted,
        evaluate=evaluate,
    )


def rule_hits(texts: Array) -> NDArray[np.bool_]:
    """Returns which rule (columns, in order) marks which text (n): bool (n, rules)."""
    patterns = [re.compile(pattern, re.IGNORECASE) for pattern in RULES.values()]
    return np.array([[bool(pattern.search(text)) for pattern in patterns] for text in texts])


def _rows(counts: NDArray[np.float32], classes: Array) -> Rows:
    return Rows(torch.from_numpy(counts), torch.from_numpy(classes))


def _spam_probability(classifier: TextClassifier, counts: NDArray[np.float32]) -> Array:
    (probabilities,) = predict(classifier, counts)
    return probabilities[:, 1]


def _regression(features: list[Array], train: Array, validation: Array) -> Array:
    """Returns the probability of spam that logistic regression gives the test rows.

    Args:
        features: TF-IDF of the training, validation and test rows, the network's own.
        train: Classes of the training rows.
        validation: Classes of the validation rows, which choose the strength of the weights.
    """
    fitted = [LogisticRegression(C=c, max_iter=1000).fit(features[0], train) for c in _STRENGTHS]
    best = max(fitted, key=lambda model: model.score(features[1], validation))
    probabilities: Array = best.predict_proba(features[2])[:, 1]
    return probabilities


def _word_says(classifier: TextClassifier, front: Front) -> Array:
    """Returns the probability of spam for a text of each word of the vocabulary alone."""
    count, rows = len(front.words), 1000
    parts = [
        # Ones along a diagonal: each row counts one word, once.
        _spam_probability(classifier, np.eye(min(rows, count - start), count, start, np.float32))
        for start in range(0, count, rows)
    ]
    return np.concatenate(parts)
