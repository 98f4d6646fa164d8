"""The commands and the Python that serve a published model and call it, as its report shows them.

What fits a model follows from the meaning of its inputs and outputs: pictures and texts are
predicted or embedded, generators draw, a step model reads a stream.
"""

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from forwardpass.artefact import Golden
from forwardpass.v1 import model_card_pb2 as pb
from forwardpass.wire import Array

# The most numbers of a row that is typed out.
_MAX_TYPED = 16
_CLIENT = 'from forwardpass.client import Client\n\nwith Client("127.0.0.1:8001") as client:\n'


@dataclass(frozen=True, slots=True)
class Call:
    """What is shown under one heading.

    Attributes:
        title: The heading.
        code: Lines for a shell, or a Python program.
    """

    title: str
    code: str


def describe_task(card: pb.ModelCard) -> str:
    """Returns what the model does in a few words, such as "Classification of images"."""
    given = _roles(card.signature.inputs)
    gives = _roles(card.signature.outputs)
    if pb.TENSOR_ROLE_TOKEN in given:
        return "Generation of text"
    if pb.TENSOR_ROLE_LATENT in given:
        drawn = "images" if pb.TENSOR_ROLE_IMAGE in gives else "samples"
        return f"Generation of {drawn}"
    read = "rows"
    if pb.TENSOR_ROLE_IMAGE in given:
        read = "images"
    elif pb.TENSOR_ROLE_TEXT in given:
        read = "texts"
    if {pb.TENSOR_ROLE_PROBABILITIES, pb.TENSOR_ROLE_LOGITS} & gives:
        return f"Classification of {read}"
    if pb.TENSOR_ROLE_IMAGE in gives:
        return f"{read.capitalize()} to images"
    if pb.TENSOR_ROLE_EMBEDDING in gives:
        return f"Embedding of {read}"
    return f"Prediction from {read}"


def example_calls(name: str, card: pb.ModelCard, golden: Golden) -> list[Call]:
    """Returns the calls that fit a model, those for a shell first.

    Args:
        name: The model's.
        card: With the signature.
        golden: Its rows show the shapes of inputs.
    """
    given = _roles(card.signature.inputs)
    if pb.TENSOR_ROLE_TOKEN in given:
        return _generate_text(name)
    if pb.TENSOR_ROLE_LATENT in given:
        return _generate(name, card)
    if pb.TENSOR_ROLE_STATE in given:
        return _stream(name, card, golden)
    calls = _predict(name, card, golden)
    if pb.TENSOR_ROLE_EMBEDDING in _roles(card.signature.outputs) and len(golden.inputs) == 1:
        calls.append(_embed(name, card))
    return calls


def _roles(specs: Sequence[pb.TensorSpec]) -> set[int]:
    return {spec.role for spec in specs}


def _generate_text(name: str) -> list[Call]:
    options = "--length 200 --temperature 0.7 --seed 7"
    return [
        Call("Generate a text", f"forwardpass generate {shlex.quote(name)} {options} --stream"),
        Call(
            "The same from Python",
            f"{_CLIENT}    drawn = client.generate("
            f"{name!r}, length=200, temperature=0.7, seed=7)\n    print(drawn.texts[0])",
        ),
    ]


def _generate(name: str, card: pb.ModelCard) -> list[Call]:
    draws_images = pb.TENSOR_ROLE_IMAGE in _roles(card.signature.outputs)
    option = argument = ""
    if pb.TENSOR_ROLE_CLASS in _roles(card.signature.inputs):
        option, argument = " --class 0", ", class_=0"
        if card.labels:
            option = f" --class {shlex.quote(card.labels[0])}"
            argument = f", class_={card.labels[0]!r}"
    out = "samples.png" if draws_images else "samples.npy"
    return [
        Call(
            "Draw samples",
            f"forwardpass generate {shlex.quote(name)} --count 16 --seed 7{option} --out {out}",
        ),
        Call(
            "The same from Python",
            f"{_CLIENT}    drawn = client.generate({name!r}, count=16, seed=7{argument})\n"
            "    print(drawn.samples.shape)",
        ),
    ]


def _stream(name: str, card: pb.ModelCard, golden: Golden) -> list[Call]:
    """Returns the call of a step model, whose state the server carries along."""
    states = {pair.input for pair in card.signature.states}
    row = {
        key: f"numpy.zeros({(1, *array.shape[1:])}, {array.dtype.name!r})"
        for key, array in golden.inputs.items()
        if key not in states
    }
    step = ", ".join(f"{key!r}: {value}" for key, value in row.items())
    return [
        Call(
            "Read a series step by step, from Python",
            f"import numpy\n\n{_CLIENT}    steps = [{{{step}}}] * 10  # put your own values here\n"
            f"    for answer in client.predict_stream({name!r}, steps):\n"
            "        print(answer.outputs)",
        )
    ]


def _predict(name: str, card: pb.ModelCard, golden: Golden) -> list[Call]:
    quoted = shlex.quote(name)
    top, shown = (
        (", top_k=3", "answer.classes[0]") if _has_classes(card) else ("", "answer.outputs")
    )
    gives_images = pb.TENSOR_ROLE_IMAGE in _roles(card.signature.outputs)
    pictures = " --pictures pictures" if gives_images else ""
    (first, *others) = card.signature.inputs
    if not others and first.role == pb.TENSOR_ROLE_IMAGE:
        shell = f"forwardpass predict {quoted} photo.png{pictures}"
        argument, before = 'images=["photo.png"]', ""
    elif not others and first.role == pb.TENSOR_ROLE_TEXT:
        shell = f"forwardpass predict {quoted} --text 'A text to read'{pictures}"
        argument, before = 'texts=["A text to read"]', ""
    elif _is_typed(golden, batched=card.signature.batched):
        rows = _typed_rows(golden, batched=card.signature.batched)
        shell = (
            f"echo {shlex.quote(json.dumps(rows))} > rows.json\n"
            f"forwardpass predict {quoted} rows.json{pictures}"
        )
        argument, before = repr(rows), ""
    else:
        arrays = _zeros(golden, batched=card.signature.batched)
        program = f'import numpy; numpy.savez("rows.npz", **{arrays})'
        shell = (
            f"# zeros, in place of your own rows\npython -c {shlex.quote(program)}\n"
            f"forwardpass predict {quoted} rows.npz{pictures}"
        )
        argument, before = arrays, "import numpy\n\n"
    return [
        Call("Predict", shell),
        Call(
            "The same from Python",
            f"{before}{_CLIENT}    answer = client.predict({name!r}, {argument}{top})\n"
            f"    print({shown})",
        ),
    ]


def _embed(name: str, card: pb.ModelCard) -> Call:
    sources = {pb.TENSOR_ROLE_IMAGE: "photos/", pb.TENSOR_ROLE_TEXT: "texts.txt"}
    source = sources.get(card.signature.inputs[0].role, "rows.npy")
    return Call(
        f"Embed all of {source}",
        f"forwardpass embed {source} --model {shlex.quote(name)} --out vectors.npy",
    )


def _has_classes(card: pb.ModelCard) -> bool:
    scores = {pb.TENSOR_ROLE_PROBABILITIES, pb.TENSOR_ROLE_LOGITS}
    return bool(card.labels and scores & _roles(card.signature.outputs))


def _row(array: Array, *, batched: bool) -> Array:
    return array[:1] if batched else array


def _is_typed(golden: Golden, *, batched: bool) -> bool:
    """Tells whether a row is short enough to be typed; texts always are, as zeros are no texts."""
    arrays = golden.inputs.values()
    return (
        any(array.dtype.kind == "O" for array in arrays)
        or sum(_row(array, batched=batched).size for array in arrays) <= _MAX_TYPED
    )


def _typed_rows(golden: Golden, *, batched: bool) -> dict[str, object]:
    return {
        name: _rounded(_row(array, batched=batched).tolist())
        for name, array in golden.inputs.items()
    }


def _rounded(value: object) -> object:
    """Returns nested lists with numbers of six digits: more of a float32 are not for reading."""
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.6g}")
    return value


def _zeros(golden: Golden, *, batched: bool) -> str:
    """Returns Python that makes an array of zeros for each input."""
    arrays = (
        f"{json.dumps(name)}: numpy.zeros({_row(array, batched=batched).shape}, "
        f"{json.dumps(array.dtype.name)})"
        for name, array in golden.inputs.items()
    )
    return f"{{{', '.join(arrays)}}}"
