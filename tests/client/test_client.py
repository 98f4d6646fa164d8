"""The client and the real server, over a real connection, with models small enough to work out."""

import io
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from conftest import StartServer
from onnx import TensorProto, helper
from PIL import Image
from tiny_models import (
    CLASSIFIER_WEIGHTS,
    EMBEDDER_WEIGHTS,
    LABELS,
    Publisher,
    TinyModel,
    classifier,
    model,
    softmax,
    writer,
)

from forwardpass.artefact import draw_latents
from forwardpass.client import (
    Client,
    InvalidInput,
    ModelFailed,
    ModelNotFound,
    ModelState,
    TensorSpec,
    WrongTask,
)
from forwardpass.client.inputs import to_arrays
from forwardpass.wire import Array

from .scripted import Connect

BOTH_CLIENTS = True

FEATURES = np.random.default_rng(3).normal(size=(6, 4)).astype(np.float32)
PIXELS = np.random.default_rng(4).integers(0, 256, (3, 4, 4, 1), np.uint8)


def png(pixels: Array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0]).save(buffer, "PNG")
    return buffer.getvalue()


def test_arrays_by_name_and_alone(client: Client) -> None:
    named = client.predict("features", {"features": FEATURES})
    assert (named.model, named.version, named.timing) == ("features", 1, None)
    np.testing.assert_allclose(named.outputs["embedding"], FEATURES @ EMBEDDER_WEIGHTS, rtol=1e-5)
    alone = client.predict("features", FEATURES)
    np.testing.assert_array_equal(alone.outputs["embedding"], named.outputs["embedding"])
    assert not alone.outputs["embedding"].flags.writeable


def test_lists_take_the_type_that_the_model_states(client: Client) -> None:
    # As arrays of their own these would be int64 and float64.
    for rows in ([[1, 2, 3, 4]], [[1.0, 2, 3, 4]]):
        answer = client.predict("features", rows).outputs["embedding"]
        np.testing.assert_allclose(
            answer, np.array([[1, 2, 3, 4]], np.float32) @ EMBEDDER_WEIGHTS, rtol=1e-5
        )
    assert client.predict("bytes", {"x": [1, 255]}).outputs["y"].dtype == np.uint8
    # bfloat16, which numpy itself does not have, goes and comes by its own name.
    halves = TensorSpec("x", "bfloat16", (-1,), "unspecified")
    array = to_arrays([1.5, 2], lambda: (halves,))["x"]
    assert (array.dtype.name, array.tolist()) == ("bfloat16", [1.5, 2.0])


@pytest.mark.parametrize(
    ("model", "values"),
    [
        ("bytes", [256]),
        ("bytes", [-1]),
        ("bytes", [1.5]),
        ("bytes", ["1"]),
        ("floats", ["1.5"]),
        ("floats", [None]),
        ("floats", [[1.0], [2.0, 3.0]]),
        ("strings", [[1, 2]]),
    ],
)
def test_lists_that_do_not_fit_are_refused(client: Client, model: str, values: list[Any]) -> None:
    with pytest.raises(InvalidInput) as raised:
        client.predict(model, values)
    assert raised.value.field == "inputs.x"


class Frame:
    """A data frame, as numpy sees one: of Python's own numbers where its columns differ."""

    def __init__(self, values: list[list[Any]]) -> None:
        self.values = values

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        return np.array(self.values, dtype or object, copy=copy)


def test_arrays_of_numpys_defaults_take_the_type_that_the_model_states(client: Client) -> None:
    expected = np.array([[1, 2, 3, 4]], np.float32) @ EMBEDDER_WEIGHTS
    rows: Array
    for rows in (np.array([[1, 2, 3, 4]]), np.array([[1.0, 2, 3, 4]])):
        answer = client.predict("features", rows).outputs["embedding"]
        np.testing.assert_allclose(answer, expected, rtol=1e-5)
    framed = client.predict("features", cast("Any", Frame([[1, 2.0, 3, 4]])))
    np.testing.assert_allclose(framed.outputs["embedding"], expected, rtol=1e-5)
    # Rounded, as any float32 is, and NaN stays.
    given = np.array([0.1, np.nan, np.inf])
    answer = client.predict("floats", given).outputs["y"]
    np.testing.assert_array_equal(answer, given.astype(np.float32))
    assert client.predict("bytes", np.array([7.0, 255])).outputs["y"].tolist() == [7, 255]


@pytest.mark.parametrize(
    ("model", "values", "wrong"),
    [
        ("bytes", [1, 256], "256"),
        ("bytes", [1.5], "1.5"),
        ("bytes", [np.nan], "nan"),
        ("floats", [1.0, 1e39], r"1e\+39"),
        ("floats", [(1 << 24) + 1], "16777217"),
    ],
)
def test_a_value_that_would_become_another_is_named(
    client: Client, model: str, values: list[float], wrong: str
) -> None:
    with pytest.raises(InvalidInput, match=f"in which {wrong} has no place"):
        client.predict(model, np.array(values))


def test_pictures_may_be_pixels(client: Client) -> None:
    expected = client.predict("shapes", images=[png(image) for image in PIXELS]).outputs
    for given in (
        PIXELS,
        list(PIXELS),
        [image[..., 0] for image in PIXELS],
        [Image.fromarray(image[..., 0]) for image in PIXELS],
    ):
        answer = client.predict("shapes", images=given).outputs
        for name, array in expected.items():
            np.testing.assert_array_equal(answer[name], array)
    for one in (PIXELS[0], PIXELS[0, ..., 0], Image.fromarray(PIXELS[0, ..., 0])):
        assert len(client.predict("shapes", images=one).outputs["probabilities"]) == 1


def test_a_picture_is_turned_as_its_camera_was_held(client: Client) -> None:
    image = Image.fromarray(PIXELS[0, ..., 0])
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    held = Image.open(io.BytesIO(buffer.getvalue()))
    (of_file, of_image) = (
        client.predict("shapes", images=given).outputs["probabilities"]
        for given in (buffer.getvalue(), held)
    )
    np.testing.assert_array_equal(of_file, of_image)


@pytest.mark.parametrize("pixels", [np.zeros((4, 4), np.float32), np.zeros((4, 4, 5), np.uint8)])
def test_pixels_of_another_kind_are_told(client: Client, pixels: Array) -> None:
    with pytest.raises(InvalidInput, match="an array among the images is uint8 of"):
        client.predict("shapes", images=[pixels])


def test_outputs_are_in_the_order_of_the_signature(
    repository: Publisher, start_server: StartServer, connect: Connect
) -> None:
    names = [f"output-{number}" for number in (3, 1, 2, 9, 0, 7)]
    value = helper.make_tensor_value_info
    repository(
        "many",
        TinyModel(
            model(
                [helper.make_node("Neg", ["x"], [name]) for name in names],
                [value("x", TensorProto.FLOAT, ["n"])],
                [value(name, TensorProto.FLOAT, ["n"]) for name in names],
            )
        ),
    )
    client = connect(start_server().address)
    assert list(client.predict("many", [1.0]).outputs) == names
    chosen = [names[4], names[1]]
    assert list(client.predict("many", [1.0], outputs=chosen).outputs) == chosen


def test_a_wrong_name_is_told(client: Client) -> None:
    for wrong in (FEATURES, FEATURES.tolist()):
        with pytest.raises(InvalidInput, match="feature") as raised:
            client.predict("features", {"feature": wrong})
        assert raised.value.field.startswith("inputs")


def test_odd_numbers_pass_unchanged(client: Client) -> None:
    odd = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45, 3.4e38], np.float32)
    answer = client.predict("floats", odd).outputs["y"]
    np.testing.assert_array_equal(answer.view(np.uint32), odd.view(np.uint32))


def test_strings_come_back_as_text(client: Client) -> None:
    texts = [["", "a\0b\0"], ["żółw 🐢", "two\nlines"]]
    for given in (texts, np.array(texts, object)):
        answer = client.predict("strings", {"x": given}).outputs["y"]
        assert answer.tolist() == texts
        assert answer.dtype == object


def test_images_as_paths_and_as_bytes(client: Client, tmp_path: Path) -> None:
    files = [png(pixels) for pixels in PIXELS]
    path = tmp_path / "ünusual name.png"
    path.write_bytes(files[0])
    prediction = client.predict("shapes", images=[path, str(path), files[1]], top_k=3)
    expected = softmax(PIXELS[[0, 0, 1]].reshape(3, 16) / np.float32(255) @ CLASSIFIER_WEIGHTS)
    np.testing.assert_allclose(prediction.outputs["probabilities"], expected, atol=1e-5)
    assert [row[0].label for row in prediction.classes] == [
        LABELS[place] for place in expected.argmax(axis=1)
    ]
    first = prediction.classes[0]
    assert [score.index for score in first] == np.argsort(-expected[0]).tolist()
    assert sum(score.probability for score in first) == pytest.approx(1, abs=1e-5)
    one = client.predict("shapes", images=path, outputs=["probabilities"], timing=True)
    assert list(one.outputs) == ["probabilities"]
    assert one.timing is not None
    assert one.timing.batch_rows >= 1
    assert one.timing.compute > 0


def test_what_is_no_picture_is_told(client: Client) -> None:
    with pytest.raises(InvalidInput, match="PIL images or uint8 arrays, got int"):
        client.predict("shapes", images=cast(Any, [7]))
    with pytest.raises(FileNotFoundError):
        client.predict("shapes", images=["missing.png"])


def test_embeddings(client: Client) -> None:
    plain = client.embed("features", FEATURES)
    assert plain.vectors.dtype == np.float32
    np.testing.assert_allclose(plain.vectors, FEATURES @ EMBEDDER_WEIGHTS, rtol=1e-5)
    half = client.embed("features", FEATURES, half_precision=True)
    assert half.vectors.dtype == np.float32
    np.testing.assert_allclose(half.vectors, plain.vectors, rtol=1e-3)
    unit = client.embed("features", FEATURES, normalize=True, output="embedding")
    np.testing.assert_allclose(np.linalg.norm(unit.vectors, axis=1), 1, rtol=1e-5)
    spaces = client.model("features").embedding_spaces
    assert [(s.output, s.space_id, s.dimension) for s in spaces] == [
        ("embedding", plain.space_id, 3)
    ]
    with pytest.raises(WrongTask):
        client.embed("shapes", PIXELS)


def test_generated_images(client: Client) -> None:
    first = client.generate("gan", count=5, seed=7)
    assert first.samples is not None
    assert (first.samples.shape, first.samples.dtype) == ((5, 4, 4, 1), np.dtype(np.uint8))
    assert first.seed == 7
    again = client.generate("gan", count=3, seed=7)
    np.testing.assert_array_equal(again.samples, first.samples[:3])
    # float64 latents are sent as float32, the type that all latents have.
    latents = draw_latents(7, 5, 5).astype(np.float64)
    given = client.generate("gan", latents=latents)
    np.testing.assert_array_equal(given.samples, first.samples)
    assert given.seed is None
    drawn = client.generate("gan", png=True)
    assert drawn.samples is None
    assert [data[:4] for data in drawn.images] == [b"\x89PNG"]
    assert drawn.seed is not None
    with pytest.raises(WrongTask):
        client.generate("shapes")


def test_models(client: Client) -> None:
    listed = client.models()
    assert [summary.name for summary in listed] == sorted(summary.name for summary in listed)
    shapes = next(summary for summary in listed if summary.name == "shapes")
    assert (shapes.version, shapes.state) == (1, ModelState.READY)
    assert "Predict" in shapes.calls
    model = client.model("shapes", 1)
    assert model.summary == shapes
    assert model.card is not None
    assert model.card.labels == LABELS
    assert model.card.image is not None
    assert (model.card.image.height, model.card.image.channels) == (4, 1)
    assert [(spec.name, spec.dtype, spec.shape, spec.role) for spec in model.signature.inputs] == [
        ("image", "uint8", (-1, 4, 4, 1), "image")
    ]
    assert (model.golden.rows, model.golden.passed) == (5, True)
    assert len(model.digest) == 64
    assert model.row_independence is not None
    assert model.row_independence.rows == 5
    assert model.row_independence.difference < 1e-5
    assert model.card.row_independence is None
    assert client.model("floats").card is None


@pytest.mark.parametrize("version", [9, "stable"])
def test_versions_that_are_not_there(client: Client, version: int | str) -> None:
    with pytest.raises(ModelNotFound):
        client.predict("features", FEATURES, version=version)
    with pytest.raises(ModelNotFound):
        client.model("features", version)
    with pytest.raises(ModelNotFound):
        client.embed("nowhere", FEATURES)


def test_health(client: Client) -> None:
    assert client.health()
    assert client.health("shapes")
    assert client.health("forwardpass.v1.InferenceService")
    with pytest.raises(ModelNotFound):
        client.health("nowhere")


def test_health_of_what_failed(
    repository: Publisher, start_server: StartServer, connect: Connect
) -> None:
    folder = repository("shapes", classifier())
    (folder / "model.onnx").write_bytes(b"altered after it was published")
    client = connect(start_server().address)
    assert not client.health()
    assert not client.health("shapes")
    assert client.models()[0].state == ModelState.FAILED
    assert "model.onnx" in client.models()[0].state_reason
    for call in (client.predict, client.embed):
        with pytest.raises(ModelFailed, match=r"model\.onnx"):
            call("shapes", PIXELS)
        with pytest.raises(ModelFailed, match=r"model\.onnx"):
            call("shapes", {"image": PIXELS})


def test_a_stream_yields_the_parts_of_what_generate_gives(client: Client) -> None:
    whole = client.generate("gan", count=40, seed=3)
    parts = list(client.generate_stream("gan", count=40, seed=3))
    assert [index for index, _ in parts] == [0, 16, 32]
    together = np.concatenate([part.samples for _, part in parts if part.samples is not None])
    np.testing.assert_array_equal(together, whole.samples)


def test_a_text_comes_whole_or_piece_by_piece(client: Client) -> None:
    wish: dict[str, Any] = {"prompt": "ab", "seed": 5, "length": 30, "temperature": 0.7}
    whole = client.generate("poet", **wish)
    assert (whole.samples, whole.seed) == (None, 5)
    pieces = [part.texts[0] for _, part in client.generate_stream("poet", **wish)]
    assert len(pieces) == 30
    assert whole.texts == ("".join(pieces),)


def test_what_is_wrong_with_a_stream_is_raised_when_it_is_read(client: Client) -> None:
    stream = client.generate_stream("poet", prompt="xyz")
    with pytest.raises(InvalidInput, match="'x' at place 0") as caught:
        next(stream)
    assert caught.value.field == "prompt"


def test_a_stream_that_is_left_is_cancelled(
    repository: Publisher, start_server: StartServer, connect: Connect
) -> None:
    repository("poet", writer())
    running = start_server()
    stream = connect(running.address).generate_stream("poet", length=4096)
    next(stream)
    cast("Generator[Any]", stream).close()
    assert running.server._admission.wait_idle(60)
