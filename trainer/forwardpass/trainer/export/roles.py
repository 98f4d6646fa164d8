"""What tensors mean, where names and numbers say so plainly, or the caller does."""

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np

from forwardpass.artefact import Golden
from forwardpass.trainer.errors import PublishError, UnknownNameError
from forwardpass.trainer.export.draft import Roles
from forwardpass.trainer.export.preprocess import is_pictures
from forwardpass.trainer.export.table import shape_text
from forwardpass.v1 import model_card_pb2
from forwardpass.wire import Array

# What an output may be said to be.
Role = Literal["probabilities", "logits", "embedding", "values", "image"]
# Names of outputs, each with its role where it is given.
Outputs: TypeAlias = Mapping[str, Role] | Sequence[str]

_SCORES = ("probabilities", "logits")
# How far a row of probabilities may be from a sum of 1.
_ROUNDING = 1e-3


def input_roles(inputs: Mapping[str, Array]) -> Roles:
    """Returns what each input means: pictures, the only text, or plain numbers."""
    texts = [name for name, array in inputs.items() if array.dtype.kind == "O"]
    return {name: _input_role(array, len(texts)) for name, array in inputs.items()}


def output_roles(golden: Golden, outputs: Outputs | None, labels: Sequence[str]) -> Roles:
    """Returns what each output means: as it is stated, or as its name and numbers tell.

    Scores of as many classes as there are labels are probabilities where each row sums to 1, else
    logits.

    Args:
        golden: With what the outputs have answered.
        outputs: The caller's.
        labels: The name of each class; none where there are none.

    Raises:
        UnknownNameError: A role that there is not.
        PublishError: A role that does not fit, or labels that fit no output or several.
    """
    stated = dict(outputs) if isinstance(outputs, Mapping) else {}
    for name, role in stated.items():
        if role not in get_args(Role):
            raise UnknownNameError("role", str(role), get_args(Role))
        _check(name, role, golden.outputs[name])
    roles: dict[str, Role] = {
        name: stated.get(name) or _plain_role(name, array) for name, array in golden.outputs.items()
    }
    if labels:
        _find_classes(roles, golden.outputs, stated, labels)
    return {
        name: model_card_pb2.TensorRole.Value(f"TENSOR_ROLE_{role.upper()}")
        for name, role in roles.items()
    }


def _input_role(array: Array, texts: int) -> "model_card_pb2.TensorRole.ValueType":
    if array.dtype.kind == "O":
        is_texts = texts == 1 and array.shape[1:] in ((), (1,))
        return (
            model_card_pb2.TENSOR_ROLE_TEXT if is_texts else model_card_pb2.TENSOR_ROLE_UNSPECIFIED
        )
    if is_pictures(array):
        return model_card_pb2.TENSOR_ROLE_IMAGE
    return model_card_pb2.TENSOR_ROLE_FEATURES


def _plain_role(name: str, array: Array) -> Role:
    if is_pictures(array):
        return "image"
    if _is_table(array) and _sums_to_one(array):
        return "probabilities"
    if _is_table(array) and name in ("logits", "embedding"):
        return "logits" if name == "logits" else "embedding"
    return "values"


def _find_classes(
    roles: dict[str, Role],
    outputs: Mapping[str, Array],
    stated: Mapping[str, str],
    labels: Sequence[str],
) -> None:
    """Makes logits of the one output that has a score for each label, where none has scores yet."""
    scores = [name for name, role in roles.items() if role in _SCORES]
    fitting = [
        name
        for name, array in outputs.items()
        if _is_table(array) and array.shape[1] == len(labels) and name not in stated
    ]
    if not scores and len(fitting) == 1:
        roles[fitting[0]] = "logits"
        return
    given = ", ".join(f"{name} is {shape_text(array)}" for name, array in outputs.items())
    if not scores and fitting:
        raise PublishError(
            f"{len(labels)} labels, and several outputs with as many columns: {given}. Say which "
            f'has the scores, such as outputs={{"{fitting[0]}": "logits", …}}'
        )
    if not any(outputs[name].shape[1] == len(labels) for name in scores):
        raise PublishError(
            f"{len(labels)} labels, but no output has a score for each: {given}. Give a label for "
            "each column; of two classes the model has to answer with both probabilities"
        )


def _check(name: str, role: str, array: Array) -> None:
    """Refuses a role that the numbers contradict."""
    if role == "image":
        fits, wanted = is_pictures(array), "uint8 (n, height, width, 1 or 3)"
    else:
        fits, wanted = role == "values" or _is_table(array), "floating-point numbers (n, columns)"
    if not fits:
        raise PublishError(f"output {name!r} is {shape_text(array)}; {role} are {wanted}")
    if role == "probabilities" and not _sums_to_one(array):
        sums = array.astype(np.float64).sum(axis=1)
        row = int(np.argmax(np.abs(sums - 1)))
        raise PublishError(
            f"output {name!r} is said to be probabilities, but row {row} of the sample sums to "
            f"{sums[row]:.4g}; say logits, or end the network in a softmax"
        )


def _is_table(array: Array) -> bool:
    return array.ndim == 2 and array.dtype.kind == "f" and array.shape[1] > 0


def _sums_to_one(array: Array) -> bool:
    rows = array.astype(np.float64)
    sums = np.abs(rows.sum(axis=1) - 1).max(initial=0.0)
    return bool(array.shape[1] > 1 and rows.min(initial=0.0) >= 0 and sums <= _ROUNDING)
