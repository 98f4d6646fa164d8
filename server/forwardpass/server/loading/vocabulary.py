"""The characters of a text generator."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forwardpass.server.errors import quote
from forwardpass.server.onnx.signature import Signature, SignatureError
from forwardpass.v1 import model_card_pb2


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Which characters a model reads and writes, and by which of its tensors.

    Attributes:
        characters: By their number.
        token: The input that takes a number a row.
        logits: The output that scores each character as the next.
    """

    characters: tuple[str, ...]
    token: str
    logits: str

    def numbers(self, text: str) -> NDArray[np.int64]:
        """Returns the number of each character, (characters).

        Raises:
            KeyError: A character is not in the vocabulary.
        """
        places = {character: number for number, character in enumerate(self.characters)}
        return np.array([places[character] for character in text], np.int64)


def find_vocabulary(signature: Signature, labels: Sequence[str]) -> Vocabulary | None:
    """Returns the characters of a model with a token input; None where it has none.

    Args:
        signature: The card's.
        labels: The card's.

    Raises:
        SignatureError: Card and graph do not make the text generator that such an input promises.
    """
    token = signature.input_of(model_card_pb2.TENSOR_ROLE_TOKEN)
    if token is None:
        return None
    others = signature.inputs.keys() - {token.name} - {before for before, _ in signature.states}
    scores = signature.outputs_of(model_card_pb2.TENSOR_ROLE_LOGITS)
    if token.type.dtype != np.int64 or len(token.shape) != 1:
        wrong = f"it is {token.type.name} {list(token.shape)}, and should be int64 [-1]"
    elif others:
        wrong = f"input {quote(min(others))} is no state, so nothing tells what goes there"
    elif not labels or any(len(label) != 1 for label in labels) or len(set(labels)) < len(labels):
        wrong = "the card's labels are not characters, one each, all different"
    elif len(scores) != 1 or scores[0].shape[1:] != (len(labels),):
        wrong = f"no one output of logits has a score for each of the {len(labels)} labels"
    else:
        return Vocabulary(tuple(labels), token.name, scores[0].name)
    raise SignatureError(f"the token input {quote(token.name)} makes no text generator: {wrong}")
