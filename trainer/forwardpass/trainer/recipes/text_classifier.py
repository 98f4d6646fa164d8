"""text-classifier: tells the class of a text, from a CSV file of your own with two columns.

As `spam` does: words are counted in the graph, weighed by how much they tell, and go through one
hidden layer. Logistic regression on the same features is beside it on the card.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import numpy as np
import torch
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional
from torchmetrics.classification import MulticlassAccuracy

from forwardpass.trainer.data import own_texts
from forwardpass.trainer.data.own_texts import OwnTexts
from forwardpass.trainer.errors import DataError
from forwardpass.trainer.evaluation import accuracy, predict
from forwardpass.trainer.export.card import Evaluation, Trained
from forwardpass.trainer.export.preprocess import Texts
from forwardpass.trainer.models.text import TextClassifier, TextNetwork, TfIdf
from forwardpass.trainer.plots.confusion import MAX_CLASSES, confusion_matrix
from forwardpass.trainer.plots.curves import learning_curves
from forwardpass.trainer.training.checkpoints import Run
from forwardpass.trainer.training.fit import Rows, Task, fit
from forwardpass.trainer.training.fitted import Fitted
from forwardpass.trainer.training.own_data import OwnData, epochs_of
from forwardpass.trainer.training.schedules import SCHEDULES
from forwardpass.trainer.training.settings import Supervised, WeightDecay
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.v1 import model_card_pb2
from forwardpass.wire import Array

# What stands between words: spaces, controls, and punctuation of ASCII, Latin-1, the Unicode block
# of it, and Chinese and Japanese. Python and RE2 differ in what \w and \s are beyond ASCII, so the
# characters themselves are in the pattern.
_BETWEEN = r"\x00-&(-/:-@\[-`{-" + "\u00bf\u2000-\u206f\u3000-\u303f"
# Words as they are written, since shouting tells, and runs of $, ! and ?.
WORD = rf"[^{_BETWEEN}'][^{_BETWEEN}]*|[$!?]+"
_GOLDEN = 8
# Where epochs=0.
_STEPS = 1_000
# Of float32, in a dense array.
_MAX_COUNTS = 1 << 28


@dataclass(frozen=True, kw_only=True)
class Settings(OwnData, Supervised):
    """Knobs of text-classifier."""

    text: Annotated[str, "the column of the texts"] = ""
    target: Annotated[str, "the column of their classes"] = ""
    words: Annotated[int, "of the vocabulary at most, the most frequent ones"] = 20_000
    hidden: Annotated[int, "units of the hidden layer"] = 64
    word_dropout: Annotated[float, "share of a training text's words that is left out, below 1"] = (
        0.3
    )
    dropout: Annotated[float, "share of the hidden units zeroed in training, below 1"] = 0.5
    epochs: Annotated[int, "at most; 0 for as many as 1,000 steps take, from 5 to 100"] = 0
    batch_size: Annotated[int, "texts of a step, over all processes"] = 32
    learning_rate: Annotated[float, "the highest; see schedule"] = 2e-3
    weight_decay: WeightDecay = 0.1


def load(settings: Settings, workspace: Workspace) -> OwnTexts:
    """Returns the texts of the file, and says what of it is left out."""
    settings.needed("text-classifier", data="mails.csv", text="message", target="kind")
    data = own_texts.load(settings.path("data"), settings.text, settings.target)
    data.left_out.tell(workspace.reporter)
    return data.limited(settings.limit)


def train(settings: Settings, data: OwnTexts, run: Run) -> Trained:
    """Returns the trained network with what is before it, and what is said of them."""
    data.left_out.keep(run)
    rows = len(data.train) + len(data.validation) + len(data.test)
    words = most_words(rows, settings.words)
    if words < settings.words:
        run.reporter.note(f"of the words the {words:,} most frequent are counted, to save memory")
    front = Texts(_fit_vectorizer(data, words))
    split = {
        name: Rows(_counts(front, part.inputs), torch.from_numpy(part.targets))
        for name, part in (
            ("train", data.train),
            ("validation", data.validation),
            ("test", data.test),
        )
    }
    counts = split["train"].inputs
    weights = TfIdf((counts > 0).sum(dim=0), len(counts))
    network = TextNetwork(
        weights, settings.hidden, len(data.labels), settings.word_dropout, settings.dropout
    )
    fitted = fit(
        Task(
            model=network,
            train=split["train"],
            validation=split["validation"],
            loss=functional.cross_entropy,
            metric=MulticlassAccuracy(len(data.labels), average="micro"),
            metric_name="accuracy",
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
    classifier = TextClassifier(network)
    texts = np.concatenate([part.inputs for part in (data.test, data.validation, data.train)])
    return Trained(
        description=f"Tells {settings.target} of a text, one of {len(data.labels)} classes, as "
        f"learned from {settings.text} of {data.origin}.",
        reference='Salton and Buckley, "Term-weighting approaches in automatic text retrieval", '
        "1988",
        module=classifier,
        front=front,
        inputs={"text": model_card_pb2.TENSOR_ROLE_TEXT},
        outputs={"probabilities": model_card_pb2.TENSOR_ROLE_PROBABILITIES},
        golden_inputs={"text": texts[:_GOLDEN]},
        tolerance=model_card_pb2.Tolerance(relative=1e-4, absolute=1e-5),
        labels=data.labels,
        fitted=fitted,
        evaluate=partial(_evaluate, data, classifier, weights, split, fitted),
    )


def most_words(rows: int, words: int) -> int:
    """Returns how many words the vocabulary may have, so that all counts take 1 GiB at most."""
    return min(words, _MAX_COUNTS // rows)


def _fit_vectorizer(data: OwnTexts, words: int) -> CountVectorizer:
    vectorizer = CountVectorizer(token_pattern=WORD, lowercase=False, max_features=words, min_df=2)
    try:
        return vectorizer.fit(data.train.inputs)
    except ValueError:
        raise DataError(
            f"no word is in two texts of {data.origin} or more, so nothing can be learned; are "
            "there spaces between words, and is it the right column?"
        ) from None


def _counts(front: Texts, texts: Array) -> Tensor:
    (counts,) = front.apply({"text": texts}).values()
    return torch.from_numpy(counts)


def _evaluate(
    data: OwnTexts,
    classifier: TextClassifier,
    weights: TfIdf,
    split: Mapping[str, Rows],
    fitted: Fitted,
) -> Evaluation:
    train, test = split["train"], split["test"]
    (probabilities,) = predict(classifier, test.inputs.numpy())
    truth = test.targets.numpy()
    regression = LogisticRegression(max_iter=1000)
    regression.fit(csr_array(weights(train.inputs).numpy()), train.targets.numpy())
    told = regression.predict(csr_array(weights(test.inputs).numpy()))
    plots = {"learning-curves.png": learning_curves(fitted.history, "accuracy")}
    if len(data.labels) <= MAX_CLASSES:
        plots["confusion-matrix.png"] = confusion_matrix(
            probabilities.argmax(axis=1), truth, data.labels
        )
    frequent = np.bincount(train.targets.numpy()).argmax()
    return Evaluation(
        metrics={
            "accuracy": accuracy(probabilities, truth),
            "logistic_regression_accuracy": float(np.mean(told == truth)),
            "most_frequent_class_accuracy": float(np.mean(truth == frequent)),
        },
        plots=plots,
    )
