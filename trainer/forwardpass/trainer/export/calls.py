"""The commands and the Python that serve a published model and call it, as its report shows them.

What fits a model follows from the meaning of its inputs and outputs: pictures and texts are
predicted or embedded, generators draw, a step model reads a stream.
"""

import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from forwardpass.artefact import Golden
from forwardpass.v1 import model_card_pb2 as pb
from forwardpass.wire import Array

# The most numbers of a row that is typed out.
_MAX_TYPED = 16
_SCORES = {pb.TENSOR_ROLE_PROBABILITIES, pb.TENSOR_ROLE_LOGITS}


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
    if pb.TENSOR_ROLE_STATE in given:
        return "Prediction, step by step"
    if pb.TENSOR_ROLE_IMAGE in given:
        return _describe_answers("images", gives)
    return _describe_answers("texts" if pb.TENSOR_ROLE_TEXT in given else "rows", gives)


def _describe_answers(read: str, gives: set[int]) -> str:
    if _SCORES & gives:
        return f"Classification of {read}"
    if pb.TENSOR_ROLE_IMAGE in gives:
        return f"{read.capitalize()} to images"
    if pb.TENSOR_ROLE_EMBEDDING in gives:
        return f"Embedding of {read}"
    return f"Prediction from {read}"


def example_calls(name: str, card: pb.ModelCard, golden: Golden) -> list[Call]:
    """Returns the calls that fit a model: for each one for a shell, and one from Python.

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


def _roles(specs: Iterable[pb.TensorSpec]) -> set[int]:
    return {spec.role for spec in specs}


def _generate_text(name: str) -> list[Call]:
    options = "--length 200 --temperature 0.7 --seed 7"
    arguments = "length=200, temperature=0.7, seed=7"
    return [
        Call("Generate a text", f"forwardpass generate {shlex.quote(name)} {options} --stream"),
        _from_python(
            f"drawn = client.generate({_quoted(name)}, {arguments})", "print(drawn.texts[0])"
        ),
    ]


def _generate(name: str, card: pb.ModelCard) -> list[Call]:
    option = argument = ""
    if pb.TENSOR_ROLE_CLASS in _roles(card.signature.inputs):
        # By its label, where it has one.
        option, argument = " --class 0", ", class_=0"
        if card.labels:
            option = f" --class {shlex.quote(card.labels[0])}"
            argument = f", class_={_quoted(card.labels[0])}"
    draws_images = pb.TENSOR_ROLE_IMAGE in _roles(card.signature.outputs)
    out = "samples.png" if draws_images else "samples.npy"
    return [
        Call(
            "Draw samples",
            f"forwardpass generate {shlex.quote(name)} --count 16 --seed 7{option} --out {out}",
        ),
        _from_python(
            f"drawn = client.generate({_quoted(name)}, count=16, seed=7{argument})",
            "print(drawn.samples.shape)",
        ),
    ]


def _stream(name: str, card: pb.ModelCard, golden: Golden) -> list[Call]:
    """Returns the call of a step model, whose states the server carries along."""
    states = {pair.input for pair in card.signature.states}
    step = _zeros({key: array[:1] for key, array in golden.inputs.items() if key not in states})
    call = _from_python(
        f"steps = [{step}] * 10  # in place of your own",
        f"for answer in client.predict_stream({_quoted(name)}, steps):",
        "    print(answer.outputs)",
        needs_numpy=True,
    )
    return [Call("Predict step by step, from Python", call.code)]


def _predict(name: str, card: pb.ModelCard, golden: Golden) -> list[Call]:
    source, argument, made = _examples(card, golden)
    roles = _roles(card.signature.outputs)
    option = " --pictures pictures" if pb.TENSOR_ROLE_IMAGE in roles else ""
    has_classes = bool(card.labels and _SCORES & roles)
    return [
        Call("Predict", f"{made}forwardpass predict {shlex.quote(name)} {source}{option}"),
        _from_python(
            f"answer = client.predict({_quoted(name)}, {argument}"
            + (f", top_k={min(len(card.labels), 3)})" if has_classes else ")"),
            "print(answer.classes[0])" if has_classes else "print(answer.outputs)",
            needs_numpy="numpy." in argument,
        ),
    ]


def _examples(card: pb.ModelCard, golden: Golden) -> tuple[str, str, str]:
    """Returns what a model may be asked: for a shell, in Python, and the lines that make a file."""
    first = card.signature.inputs[0]
    if len(golden.inputs) == 1 and first.role == pb.TENSOR_ROLE_IMAGE:
        return "photo.png", 'images=["photo.png"]', ""
    if len(golden.inputs) == 1 and first.role == pb.TENSOR_ROLE_TEXT:
        return "--text 'A text to read'", 'texts=["A text to read"]', ""
    batched = card.signature.batched
    rows = {name: array[:1] if batched else array for name, array in golden.inputs.items()}
    if _is_typed(rows):
        lists = {name: _rounded(array.tolist()) for name, array in rows.items()}
        argument = _dictionary({name: repr(values) for name, values in lists.items()})
        return "rows.json", argument, f"echo {shlex.quote(json.dumps(lists))} > rows.json\n"
    argument = _zeros(rows)
    program = shlex.quote(f'import numpy; numpy.savez("rows.npz", **{argument})')
    return "rows.npz", argument, f"# zeros, in place of your own rows\npython -c {program}\n"


def _embed(name: str, card: pb.ModelCard) -> Call:
    sources = {pb.TENSOR_ROLE_IMAGE: "photos/", pb.TENSOR_ROLE_TEXT: "texts.txt"}
    source = sources.get(card.signature.inputs[0].role, "rows.npy")
    return Call(
        f"Embed all of {source}, without a server",
        f"forwardpass embed {source} --model {shlex.quote(name)} --out vectors.npy",
    )


def _from_python(*lines: str, needs_numpy: bool = False) -> Call:
    return Call(
        "The same from Python",
        ("import numpy\n\n" if needs_numpy else "")
        + 'from forwardpass.client import Client\n\nwith Client("127.0.0.1:8001") as client:\n'
        + "\n".join(f"    {line}" for line in lines),
    )


def _is_typed(rows: Mapping[str, Array]) -> bool:
    """Tells whether rows are short enough to be typed; texts always are, as zeros are no texts."""
    has_texts = any(array.dtype.kind == "O" for array in rows.values())
    return has_texts or sum(array.size for array in rows.values()) <= _MAX_TYPED


def _rounded(value: object) -> object:
    """Returns nested lists with numbers of six digits: more of a float32 are not for reading."""
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _zeros(rows: Mapping[str, Array]) -> str:
    """Returns Python that makes zeros of the same shapes."""
    return _dictionary(
        {
            name: f"numpy.zeros({array.shape}, {_quoted(array.dtype.name)})"
            for name, array in rows.items()
        }
    )


def _dictionary(values: Mapping[str, str]) -> str:
    return f"{{{', '.join(f'{_quoted(name)}: {value}' for name, value in values.items())}}}"


def _quoted(text: str) -> str:
    """Returns a string of Python, which JSON's are."""
    return json.dumps(text, ensure_ascii=False)
