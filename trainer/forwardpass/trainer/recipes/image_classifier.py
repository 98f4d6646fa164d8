"""image-classifier: tells apart what pictures of one's own show, by features of a published model.

The features are not trained further, so that a class needs few pictures. With `features=none` a
small network learns from the pictures alone.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Annotated, Literal, Self

import numpy as np
import torch
from torch.nn import functional
from torchmetrics.classification import MulticlassAccuracy

from forwardpass.client.card import ImageInput
from forwardpass.trainer.data import own_photos
from forwardpass.trainer.data.dataset import Dataset, Split
from forwardpass.trainer.data.own_photos import Asked
from forwardpass.trainer.errors import SettingError
from forwardpass.trainer.evaluation import accuracy, balanced_accuracy, predict
from forwardpass.trainer.export.card import Evaluation, Trained
from forwardpass.trainer.export.embedder import IMAGE, Embedder
from forwardpass.trainer.models.embedding import ProbabilitiesAndEmbedding
from forwardpass.trainer.models.head import Head
from forwardpass.trainer.plots.confusion import MAX_CLASSES, confusion_matrix
from forwardpass.trainer.plots.curves import learning_curves
from forwardpass.trainer.plots.labelled import accuracy_by_labels
from forwardpass.trainer.plots.pictures import worst_mistakes
from forwardpass.trainer.scratch import NETWORKS, statistics
from forwardpass.trainer.training.checkpoints import Run
from forwardpass.trainer.training.fit import Task, fit, make_fabric
from forwardpass.trainer.training.head import cross_validate, fit_head
from forwardpass.trainer.training.interrupt import check
from forwardpass.trainer.training.own_data import OwnData
from forwardpass.trainer.training.schedules import one_cycle
from forwardpass.trainer.training.seeds import generator
from forwardpass.trainer.training.settings import BatchSize, Patience
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.v1 import model_card_pb2
from forwardpass.wire import Array, Preparation

NONE = "none"
_FEWER = (10, 30, 100)  # labelled pictures of each class that heads are fitted to as well
_PIECE = 256  # pictures that are embedded at once, after which their features are kept
_GOLDEN = 8
_OUTPUTS = {
    "probabilities": model_card_pb2.TENSOR_ROLE_PROBABILITIES,
    "embedding": model_card_pb2.TENSOR_ROLE_EMBEDDING,
}
# Of the card's description.
_NAMED = 10


@dataclass(frozen=True, kw_only=True)
class Settings(OwnData):
    """Knobs of image-classifier."""

    data: Annotated[
        str, "the pictures: a folder with a sub-folder a class, or a CSV file with path and label"
    ] = ""
    test: Annotated[str, "the same to test on; where empty, a fifth of the data"] = ""
    features: Annotated[
        str, "a published model that embeds pictures; none to train a network from scratch"
    ] = "resnet50-imagenet"
    decay: Annotated[float, "weight decay of the head on features; the more, the simpler it is"] = (
        1.0
    )
    draws: Annotated[int, "how often fewer pictures are drawn, to see how much that matters"] = 5
    network: Annotated[
        Literal["resnet-20", "fashion", "lenet"],
        "what features=none trains: 32 x 32 in colour; 28 x 28 in grey, the larger and the smaller",
    ] = "resnet-20"
    epochs: Annotated[int, "of a network from scratch: passes over the training pictures"] = 30
    batch_size: BatchSize = 64
    learning_rate: Annotated[float, "of such a network, at the highest; 0 for its own"] = 0
    patience: Patience = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.decay:
            raise SettingError("decay=0: give a number above 0, such as 0.001")
        if not self.features:
            raise SettingError("features= is empty: name a published model, or give none")

    def resolved(self) -> Self:
        """Returns them with the network's learning rate; refuses data that is not there."""
        self.needed("image-classifier", data="pets")
        return replace(self, learning_rate=self.learning_rate or NETWORKS[self.network].rate)

    def needs(self) -> tuple[str, ...]:
        """Returns the model whose features are asked for."""
        return () if self.features == NONE else (self.features,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Data(Dataset):
    """The pictures, in the size that the model takes.

    Attributes:
        embedder: The model whose features they get; None where a network learns from the pixels.
    """

    embedder: Embedder | None

    def digest(self) -> str:
        """Returns the SHA-256 of the pictures and of the model."""
        digest = hashlib.sha256(Dataset.digest(self).encode())
        digest.update(self.embedder.digest.encode() if self.embedder else b"")
        return digest.hexdigest()


def load(settings: Settings, workspace: Workspace) -> Data:
    """Returns the pictures, and the model that embeds them."""
    embedder = None
    network = NETWORKS[settings.network]
    image = ImageInput(IMAGE, network.size, network.size, network.channels)
    if settings.features != NONE:
        embedder = Embedder(workspace.needed[settings.features])
        image = embedder.image
    asked = Asked(
        data=settings.path("data"),
        test=settings.path("test") if settings.test else None,
        validates=embedder is None,
        limit=settings.limit,
    )
    photos = own_photos.load(asked, image, workspace.runs, workspace.reporter)
    given = {field.name: getattr(photos, field.name) for field in fields(photos)}
    return Data(**given, embedder=embedder)


def train(settings: Settings, data: Data, run: Run) -> Trained:
    """Returns a classifier of the pictures, and what is said of it."""
    data.left_out.keep(run)
    if data.embedder is None:
        return _from_scratch(settings, data, run)
    return _on_features(settings, data, data.embedder, run)


def _on_features(settings: Settings, data: Data, embedder: Embedder, run: Run) -> Trained:
    """Returns the embedder with a head that was fitted."""
    known = Split(_embed(data.train, "train", embedder, settings, run), data.train.targets)
    asked = Split(_embed(data.test, "test", embedder, settings, run), data.test.targets)
    head = Head(fit_head(known.inputs, known.targets, settings.decay))

    def evaluate() -> Evaluation:
        probabilities, _ = predict(head, asked.inputs)
        evaluation = _evaluate(data, probabilities)
        curve = accuracy_by_labels(
            {settings.features: _learning_curve(known, asked, settings)},
            evaluation.metrics["most_frequent_class_accuracy"],
            "How much the number of labelled pictures matters",
        )
        return replace(evaluation, plots={"learning-curve.png": curve, **evaluation.plots})

    name, card = embedder.folder.parent.name, embedder.card
    return Trained(
        description=_description(data, f"by the features of {name}, and embeds it in them"),
        reference='Donahue, Jia, Vinyals, Hoffman, Zhang, Tzeng and Darrell, "DeCAF: A deep '
        f'convolutional activation feature for generic visual recognition", 2014; {card.reference}',
        module=head,
        front=embedder,
        frozen=embedder.parameters,
        golden_source="onnxruntime",
        preparation=embedder.image.preparation,
        inputs={IMAGE: model_card_pb2.TENSOR_ROLE_IMAGE},
        outputs=_OUTPUTS,
        golden_inputs=_golden(data),
        tolerance=model_card_pb2.Tolerance(
            relative=max(1e-4, card.tolerance.relative), absolute=max(1e-3, card.tolerance.absolute)
        ),
        labels=data.labels,
        fitted=cross_validate(known.inputs, known.targets, settings.decay),
        evaluate=evaluate,
    )


def _from_scratch(settings: Settings, data: Data, run: Run) -> Trained:
    """Returns a network that has learned from the pictures alone."""
    chosen = NETWORKS[settings.network]
    pixels = statistics(data.train.inputs)
    network = chosen.build(pixels, len(data.labels))
    fitted = fit(
        Task(
            model=network,
            train=data.train.rows(),
            validation=data.validation.rows(),
            loss=functional.cross_entropy,
            metric=MulticlassAccuracy(len(data.labels), average="micro"),
            metric_name="accuracy",
            optimizer=chosen.optimize(network, settings.learning_rate),
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            schedule=one_cycle,
            augment=chosen.augment(pixels.mean),
            patience=settings.patience,
        ),
        settings,
        run,
    )
    published = ProbabilitiesAndEmbedding(network)

    def evaluate() -> Evaluation:
        probabilities, _ = predict(published, data.test.inputs)
        evaluation = _evaluate(data, probabilities)
        curves = learning_curves(fitted.history, "accuracy")
        return replace(evaluation, plots={"learning-curves.png": curves, **evaluation.plots})

    return Trained(
        description=_description(data, f"in {chosen.size} x {chosen.size} pixels, and embeds it"),
        reference=chosen.reference,
        module=published,
        preparation=Preparation(),
        inputs={IMAGE: model_card_pb2.TENSOR_ROLE_IMAGE},
        outputs=_OUTPUTS,
        golden_inputs=_golden(data),
        tolerance=model_card_pb2.Tolerance(relative=1e-4, absolute=1e-4),
        labels=data.labels,
        fitted=fitted,
        evaluate=evaluate,
    )


def _embed(split: Split, name: str, embedder: Embedder, settings: Settings, run: Run) -> Array:
    """Returns the features of pictures, (n, width); a run that was killed goes on where it was.

    Args:
        split: The pictures.
        name: What the pieces are called.
        embedder: Gives the features, on all cores.
        settings: Of the run.
        run: Keeps the pieces.
    """
    fabric = make_fabric(settings)
    starts = range(0, len(split), _PIECE)
    pieces: list[Array] = []
    with ThreadPoolExecutor(embedder.threads, "embed") as pool:
        for start in run.reporter.items(starts, f"embedding pictures to {name}"):
            check()
            state = {"features": torch.empty(0, embedder.width)}
            if not run.load(fabric, f"{name}-{start}", state):
                images = split.inputs[start : start + _PIECE]
                batches = np.array_split(images, range(embedder.rows, len(images), embedder.rows))
                features = np.concatenate(list(pool.map(embedder.embed, batches)))
                state["features"] = torch.from_numpy(features)
                run.save(fabric, f"{name}-{start}", state)
            pieces.append(state["features"].numpy())
    return np.concatenate(pieces)


def _evaluate(data: Data, probabilities: Array) -> Evaluation:
    """Returns what is measured and drawn of any classifier, from its answers to the test rows."""
    truth, answers = data.test.targets, probabilities.argmax(axis=1)
    frequent = np.bincount(data.train.targets).argmax()
    plots = {
        "worst-mistakes.png": worst_mistakes(data.test.inputs, probabilities, truth, data.labels)
    }
    if len(data.labels) <= MAX_CLASSES:
        plots["confusion-matrix.png"] = confusion_matrix(answers, truth, data.labels)
    return Evaluation(
        metrics={
            "accuracy": accuracy(probabilities, truth),
            "balanced_accuracy": balanced_accuracy(probabilities, truth),
            "most_frequent_class_accuracy": float(np.mean(truth == frequent)),
        },
        plots=plots,
    )


def _learning_curve(known: Split, asked: Split, settings: Settings) -> dict[int, list[float]]:
    """Returns the test accuracies of heads that were fitted to so many pictures of each class.

    A class that has fewer gives all that it has.
    """
    every = int(np.bincount(known.targets).max())
    curve: dict[int, list[float]] = {}
    for labels in (*(count for count in _FEWER if count < every), every):
        curve[labels] = []
        for draw in range(settings.draws if labels < every else 1):
            draws = generator(settings.seed, "draw", draw)
            order = torch.randperm(len(known), generator=draws).numpy()
            classes = [order[known.targets[order] == each] for each in np.unique(known.targets)]
            rows = np.concatenate([each[:labels] for each in classes])
            head = fit_head(known.inputs[rows], known.targets[rows], settings.decay)
            (logits,) = predict(head, asked.inputs)
            curve[labels].append(accuracy(logits, asked.targets))
    return curve


def _description(data: Data, how: str) -> str:
    names = ", ".join(data.labels[:_NAMED])
    more = f" and {len(data.labels) - _NAMED} more" if len(data.labels) > _NAMED else ""
    return f"Tells which of {len(data.labels)} classes a picture shows ({names}{more}), {how}."


def _golden(data: Data) -> dict[str, Array]:
    pictures = [split.inputs[:_GOLDEN] for split in (data.test, data.train)]
    return {IMAGE: np.concatenate(pictures)[:_GOLDEN]}
