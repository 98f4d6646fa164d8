"""words: vectors of words that nobody labelled, learned from which words stand near which."""

import re
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional
from torchmetrics.classification import BinaryAUROC

from forwardpass.trainer.data import spam
from forwardpass.trainer.data.dataset import Dataset, Split
from forwardpass.trainer.evaluation import predict
from forwardpass.trainer.export import preprocess
from forwardpass.trainer.export.card import Evaluation, Trained
from forwardpass.trainer.export.front import Front
from forwardpass.trainer.models.text import MeanVector, SkipGram
from forwardpass.trainer.plots.curves import learning_curves
from forwardpass.trainer.plots.words import neighbour_table, word_map
from forwardpass.trainer.training.checkpoints import Run
from forwardpass.trainer.training.fit import Rows, Task, fit
from forwardpass.trainer.training.schedules import one_cycle
from forwardpass.trainer.training.seeds import generator
from forwardpass.trainer.training.settings import Epochs, PeakRate
from forwardpass.trainer.training.settings import Settings as BaseSettings
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.v1 import model_card_pb2
from forwardpass.wire import Array

# The words of each text, in order, by their number in the vocabulary; unknown ones are left out.
Texts = list[NDArray[np.int64]]

_WORD = r"[a-z]+(?:'[a-z]+)?"
# What somebody else wrote, which the e-mail answers: it would be learned from once more.
_QUOTED = re.compile(r"^[ \t]*[>|].*$", re.MULTILINE)
# Words whose neighbours the table shows, where the corpus has them.
_PROBES = (
    *("linux", "microsoft", "perl", "kernel", "password", "money"),
    *("government", "music", "london", "september", "she", "seven"),
)
_NEIGHBOURS, _MAPPED = 6, 200
# Halves of a text to be matched have so many words of the vocabulary at least.
_HALF = 20


@dataclass(frozen=True, kw_only=True)
class Settings(BaseSettings):
    """Knobs of words."""

    epochs: Epochs = 5
    batch_size: Annotated[int, "pairs of a word and one near it"] = 4096
    learning_rate: PeakRate = 3e-3
    dimension: Annotated[int, "numbers of a vector"] = 100
    window: Annotated[int, "how near is near, in words, at most"] = 5
    noise: Annotated[int, "random words that each pair is told from"] = 5
    at_least: Annotated[int, "training texts that have a word of the vocabulary"] = 5
    keep: Annotated[
        float, "share of the text above which a word is left out now and then; 0 for never"
    ] = 1e-3


def load(settings: Settings, workspace: Workspace) -> Dataset:
    """Returns the ham of SpamAssassin's corpus, without quoted lines; all of class 0."""
    data = spam.load(workspace.cache, workspace.reporter, settings.limit)
    return replace(
        data,
        name="ham",
        labels=(),
        train=_ham(data.train),
        validation=_ham(data.validation),
        test=_ham(data.test),
    )


def train(settings: Settings, data: Dataset, run: Run) -> Trained:
    """Learns the vectors, and describes them."""
    front = Front(
        CountVectorizer(token_pattern=_WORD, min_df=settings.at_least).fit(data.train.inputs)
    )
    texts, validation = (_word_numbers(front, split) for split in (data.train, data.validation))
    frequency = np.bincount(np.concatenate(texts), minlength=len(front.words))

    network = SkipGram(len(front.words), settings.dimension)

    noise = _Noise(frequency, settings.noise)
    pairs = partial(_pairs, frequency=frequency, settings=settings)
    judged = noise.add(pairs(validation), generator(settings.seed, "validation"))
    fitted = fit(
        Task(
            model=network,
            train=Rows(*_labelled(pairs(texts), settings.noise)),
            validation=Rows(*_labelled(judged, settings.noise)),
            loss=_loss,
            metric=BinaryAUROC(),
            metric_name="area_under_roc",
            optimizer=torch.optim.Adam(network.parameters(), settings.learning_rate),
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            schedule=one_cycle,
            augment=noise.add,
        ),
        settings,
        run,
    )

    vectors = network.vectors.weight.detach()
    published = MeanVector(vectors.clone())

    def evaluate() -> Evaluation:
        test = _word_numbers(front, data.test)
        mapped = [
            word for word in np.argsort(-frequency, kind="stable") if len(front.words[word]) > 3
        ][:_MAPPED]
        return Evaluation(
            metrics={
                "context_area_under_roc": _context_area(network, pairs(test), settings.seed),
                **_match_halves(published, test),
            },
            plots={
                "learning-curves.png": learning_curves(fitted.history, "area_under_roc"),
                "neighbours.png": neighbour_table(
                    front.words, vectors.numpy(), _PROBES, _NEIGHBOURS
                ),
                "word-map.png": word_map(
                    [front.words[word] for word in mapped], vectors.numpy()[mapped]
                ),
            },
        )

    return Trained(
        description=f"Embeds a text in {settings.dimension} numbers, the mean of its "
        "words' vectors, which were learned from which words stand near which in "
        "e-mails of 2002.",
        reference='Mikolov, Sutskever, Chen, Corrado and Dean, "Distributed '
        'representations of words and phrases and their compositionality", 2013',
        module=published,
        front=preprocess.Texts(front.vectorizer),
        inputs={"text": model_card_pb2.TENSOR_ROLE_TEXT},
        outputs={"embedding": model_card_pb2.TENSOR_ROLE_EMBEDDING},
        golden_inputs={"text": data.test.inputs[:8]},
        tolerance=model_card_pb2.Tolerance(relative=1e-4, absolute=1e-5),
        fitted=fitted,
        evaluate=evaluate,
    )


class _Noise:
    """Random words that true neighbours are to be told from: each as often as its frequency to the
    power of 3/4, which the paper found best.
    """

    def __init__(self, frequency: NDArray[np.int64], count: int) -> None:
        shares = torch.from_numpy(frequency).double() ** 0.75
        self._below = shares.cumsum(0) / shares.sum()
        self._count = count

    def add(self, pairs: Tensor, draws: torch.Generator) -> Tensor:
        """Returns int64 (n, 2 + count): each pair, and its noise."""
        places = torch.rand((len(pairs), self._count), generator=draws, dtype=torch.float64)
        words = torch.searchsorted(self._below, places).clamp(max=len(self._below) - 1)
        return torch.cat([pairs, words], dim=1)


def _ham(split: Split) -> Split:
    texts = [_QUOTED.sub("", text) for text in split.inputs[split.targets == 0]]
    return Split(np.array(texts, dtype=object), np.zeros(len(texts), np.int64))


def _word_numbers(front: Front, split: Split) -> Texts:
    cut, numbers = front.vectorizer.build_analyzer(), front.vectorizer.vocabulary_
    return [
        np.array([numbers[word] for word in cut(text) if word in numbers], np.int64)
        for text in split.inputs
    ]


def _pairs(texts: Texts, frequency: NDArray[np.int64], settings: Settings) -> Tensor:
    """Returns words and words near them in their text, int64 (n, 2), drawn once for a run.

    A word of which the share f of the text is more than `keep` stays with the probability
    sqrt(keep / f), so that "the" is not all there is to foretell (section 2.3 of the paper). How
    many words to either side are near is drawn for each, 1 to `window`.
    """
    draws = generator(settings.seed, "pairs", len(texts))
    words = torch.from_numpy(np.concatenate(texts))
    text = torch.from_numpy(np.repeat(np.arange(len(texts)), [len(words) for words in texts]))
    if settings.keep:
        share = torch.from_numpy(frequency / frequency.sum())
        stays = (settings.keep / share.clamp(min=1e-12)).sqrt()[words]
        kept = torch.rand(len(words), generator=draws) < stays
        words, text = words[kept], text[kept]
    reach = torch.randint(1, settings.window + 1, (len(words),), generator=draws)
    found = []
    for apart in range(1, settings.window + 1):
        together = text[:-apart] == text[apart:]
        before, after = words[:-apart], words[apart:]
        for word, near, reaches in (
            (before, after, reach[:-apart] >= apart),
            (after, before, reach[apart:] >= apart),
        ):
            found.append(torch.stack([word, near], dim=1)[together & reaches])
    return torch.cat(found)


def _labelled(words: Tensor, noise: int) -> tuple[Tensor, Tensor]:
    """Returns the words, and which of those after the first are near it: only the first of them."""
    near = torch.tensor([1] + [0] * noise)
    return words, near.expand(len(words), -1)


def _loss(odds: Tensor, near: Tensor) -> Tensor:
    """Returns the mean over words of the paper's equation 4, negated."""
    losses = functional.binary_cross_entropy_with_logits(odds, near.float(), reduction="none")
    return losses.sum(dim=1).mean()


def _context_area(network: SkipGram, pairs: Tensor, seed: int) -> float:
    """Returns how often a word's true neighbour has greater odds than another word's neighbour.

    Both are drawn from the same held-out words, so that how frequent they are tells nothing: 0.5 is
    chance.
    """
    order = torch.randperm(len(pairs), generator=generator(seed, "others"))
    words = torch.cat([pairs, pairs[order, 1:]], dim=1)
    (odds,) = predict(network, words.numpy())
    truth = np.repeat([[1, 0]], len(odds), axis=0)
    return float(roc_auc_score(truth.ravel(), odds.ravel()))


def _match_halves(published: MeanVector, texts: Texts) -> dict[str, float]:
    """Returns the share of texts to whose first half, of all second ones, their own is nearest.

    Nearest by cosine. What chance would come to is beside it.
    """
    long = [text for text in texts if len(text) >= 2 * _HALF]
    size = len(published.vectors)
    first, second = (
        _directions(published, [text[half] for text, half in zip(long, halves, strict=True)], size)
        for halves in (
            [slice(len(text) // 2) for text in long],
            [slice(len(text) // 2, None) for text in long],
        )
    )
    nearest = (first @ second.T).argmax(axis=1)
    return {
        "halves_matched_share": float(np.mean(nearest == np.arange(len(long)))),
        "halves_matched_by_chance_share": 1 / len(long),
    }


def _directions(published: MeanVector, texts: Texts, size: int) -> Array:
    counts = np.stack([np.bincount(text, minlength=size) for text in texts]).astype(np.float32)
    (vectors,) = predict(published, counts)
    directions: Array = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return directions
