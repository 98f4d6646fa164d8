"""What tensors are taken for, and what is refused to be said of them."""

import re

import numpy as np
import pytest

from forwardpass.artefact import Golden
from forwardpass.trainer.errors import PublishError, UnknownNameError
from forwardpass.trainer.export.roles import Outputs, input_roles, output_roles
from forwardpass.v1 import model_card_pb2 as pb

SHARES = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)
SCORES = np.array([[2, -1], [0.5, 3]], np.float32)
WIDE = np.arange(8, dtype=np.float32).reshape(2, 4)
PICTURES = np.zeros((2, 4, 4, 3), np.uint8)


def roles(outputs: dict[str, np.ndarray], stated: Outputs | None = None, labels: str = "") -> str:
    """Returns the roles of outputs, in their order; each label has a letter."""
    found = output_roles(Golden({"x": WIDE}, outputs), stated, labels)
    return " ".join(pb.TensorRole.Name(found[name])[12:].lower() for name in outputs)


def test_inputs_are_told_by_their_type_and_extents() -> None:
    texts = np.array(["a", "b"], object)
    assert input_roles({"a": PICTURES, "b": WIDE, "c": texts}) == {
        "a": pb.TENSOR_ROLE_IMAGE,
        "b": pb.TENSOR_ROLE_FEATURES,
        "c": pb.TENSOR_ROLE_TEXT,
    }
    # With two nobody can tell which one a caller's text is for.
    two = input_roles({"a": texts, "b": texts[:, None]})
    assert set(two.values()) == {pb.TENSOR_ROLE_UNSPECIFIED}


@pytest.mark.parametrize(
    ("outputs", "stated", "labels", "expected"),
    [
        ({"y": SHARES}, None, "", "probabilities"),
        ({"y": SCORES}, None, "", "values"),
        ({"y": SCORES}, None, "ab", "logits"),
        ({"y": SHARES}, None, "ab", "probabilities"),
        ({"y": SCORES, "z": WIDE}, None, "ab", "logits values"),
        ({"logits": SCORES, "embedding": WIDE}, None, "", "logits embedding"),
        ({"y": PICTURES, "z": WIDE}, None, "", "image values"),
        ({"y": WIDE, "z": SCORES}, {"y": "embedding", "z": "logits"}, "ab", "embedding logits"),
        ({"y": SCORES, "z": SCORES}, {"y": "logits", "z": "values"}, "ab", "logits values"),
        ({"y": SHARES}, ["y"], "", "probabilities"),
    ],
)
def test_outputs_are_told_by_their_numbers_or_stated(
    outputs: dict[str, np.ndarray], stated: Outputs | None, labels: str, expected: str
) -> None:
    assert roles(outputs, stated, labels) == expected


@pytest.mark.parametrize(
    ("outputs", "stated", "labels", "message"),
    [
        (
            {"y": SCORES},
            {"y": "probabilities"},
            "",
            "'y' is said to be probabilities, but row 1 of the sample sums to 3.5; say logits",
        ),
        ({"y": SCORES}, {"y": "image"}, "", "'y' is float32 (n, 2); image are uint8"),
        ({"y": PICTURES}, {"y": "embedding"}, "", "embedding are floating-point numbers"),
        ({"y": WIDE}, None, "abc", "3 labels, but no output has a score for each: y is float32"),
        ({"y": SHARES}, None, "abc", "3 labels, but no output has a score for each"),
        ({"y": SCORES, "z": SCORES}, None, "ab", 'outputs={"y": "logits", …}'),
    ],
)
def test_what_the_numbers_contradict_is_refused(
    outputs: dict[str, np.ndarray], stated: Outputs | None, labels: str, message: str
) -> None:
    with pytest.raises(PublishError, match=re.escape(message)):
        roles(outputs, stated, labels)


def test_an_unknown_role_is_answered_with_all() -> None:
    with pytest.raises(UnknownNameError, match="no role 'logit'; did you mean 'logits'"):
        roles({"y": SCORES}, {"y": "logit"})  # type: ignore[dict-item]
