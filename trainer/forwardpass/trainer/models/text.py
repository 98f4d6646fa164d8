"""Networks that take how often each word of a vocabulary is in a text."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from forwardpass.trainer.models.mlp import mlp


class TfIdf(nn.Module):
    """Weighs counts by how much they tell: Salton and Buckley, "Term-weighting approaches in
    automatic text retrieval", 1988, as scikit-learn's TfidfVectorizer does with sublinear_tf.

    Args:
        texts_with: For each word, in how many of the training texts it is.
        texts: How many training texts there are.
    """

    rarity: Tensor

    def __init__(self, texts_with: Tensor, texts: int) -> None:
        super().__init__()
        # As if one more text had each word, so that none is divided by 0.
        rarity = ((1 + texts) / (1 + texts_with)).log() + 1  # (words)
        self.register_buffer("rarity", rarity.float(), persistent=False)

    def forward(self, counts: Tensor) -> Tensor:
        """From counts (n, words) to float32 (n, words) of length 1; 0 for a text of no known word.

        A word that is there c times weighs (1 + log c) log((1 + texts) / (1 + texts with it)) + 1.
        """
        often = torch.where(counts > 0, 1 + counts.clamp(min=1).log(), 0.0)
        return functional.normalize(often * self.rarity, dim=1)


class TextNetwork(nn.Module):
    """Logits of classes, from TF-IDF and one hidden layer.

    Args:
        weights: From counts to features.
        hidden: Units of the hidden layer.
        classes: How many.
        word_dropout: Share of the words that is left out in training, in [0, 1).
        dropout: Share of the hidden units that is, in [0, 1).
    """

    def __init__(
        self, weights: TfIdf, hidden: int, classes: int, word_dropout: float, dropout: float
    ) -> None:
        super().__init__()
        self.weights = weights
        self.leave_out = nn.Dropout(word_dropout)
        self.layers = mlp([len(weights.rarity), hidden, classes], dropout)

    def forward(self, counts: Tensor) -> Tensor:
        """From counts (n, words) to logits (n, classes)."""
        logits: Tensor = self.layers(self.leave_out(self.weights(counts)))
        return logits


class TextClassifier(nn.Module):
    """What is published: the network and the softmax on it.

    Args:
        network: From counts (n, words) to logits (n, classes).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, counts: Tensor) -> Tensor:
        """From counts (n, words) to probabilities, float32 (n, classes)."""
        probabilities: Tensor = self.network(counts).softmax(dim=1)
        return probabilities


class SkipGram(nn.Module):
    """Mikolov, Sutskever, Chen, Corrado and Dean, "Distributed representations of words and phrases
    and their compositionality", 2013: a word's vector foretells which words are near it.

    Args:
        words: How many there are.
        dimension: Numbers of a vector.
    """

    def __init__(self, words: int, dimension: int) -> None:
        super().__init__()
        self.vectors = nn.Embedding(words, dimension)
        self.contexts = nn.Embedding(words, dimension)
        # As word2vec does: a context's vector of 0 says nothing of any word.
        nn.init.uniform_(self.vectors.weight, -0.5 / dimension, 0.5 / dimension)
        nn.init.zeros_(self.contexts.weight)

    def forward(self, words: Tensor) -> Tensor:
        """From int64 (n, 1 + m), a word and m that may be near it, to the log-odds of each, (n, m).

        That is u . v, of the word's vector u and the other's context vector v.
        """
        centre = self.vectors(words[:, 0])  # (n, dimension)
        others = self.contexts(words[:, 1:])  # (n, m, dimension)
        odds: Tensor = torch.einsum("nd,nmd->nm", centre, others)
        return odds


class MeanVector(nn.Module):
    """What is published of word vectors: a text's vector is the mean of its words'.

    Args:
        vectors: (words, dimension).
    """

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.vectors = nn.Parameter(vectors)

    def forward(self, counts: Tensor) -> Tensor:
        """From counts (n, words) to float32 (n, dimension); 0 for a text of no known word."""
        return counts @ self.vectors / counts.sum(dim=1, keepdim=True).clamp(min=1)
