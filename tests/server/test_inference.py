import io

import numpy as np
import pytest
from conftest import Running, StartServer
from onnx import TensorProto
from PIL import Image
from tiny_models import (
    CLASSIFIER_WEIGHTS,
    EMBEDDER_WEIGHTS,
    GENERATOR_WEIGHTS,
    LABELS,
    Publisher,
    classifier,
    echo,
    embedder,
    generator,
    softmax,
)

from forwardpass.artefact import draw_latents
from forwardpass.pixels import decode_image, encode_png
from forwardpass.server.rpc.schema import PREDICT as PREDICT_SCHEMA
from forwardpass.v1.inference_service_pb2 import EmbedRequest, GenerateRequest, PredictRequest
from forwardpass.v1.model_service_pb2 import GetModelRequest, ModelReference
from forwardpass.wire import Array, from_tensor, to_tensor

CLASSIFIER, EMBEDDER, GENERATOR = (ModelReference(name=name) for name in ("clf", "emb", "gen"))
IMAGES = np.random.default_rng(3).integers(0, 256, (6, 4, 4, 1), np.uint8)
FEATURES = np.random.default_rng(4).normal(size=(7, 4)).astype(np.float32)


LONG = PREDICT_SCHEMA.scanned_from


@pytest.fixture
def running(repository: Publisher, start_server: StartServer) -> Running:
    repository("clf", classifier())
    repository("emb", embedder())
    repository("gen", generator())
    return start_server()


def probabilities(images: Array) -> Array:
    return softmax(images.reshape(-1, 16) / np.float32(255) @ CLASSIFIER_WEIGHTS)


def test_predict_answers_what_numpy_computes(running: Running) -> None:
    request = PredictRequest(model=CLASSIFIER, inputs={"image": to_tensor(IMAGES)})
    response = running.inference.Predict(request)
    assert (response.model.name, response.model.version) == ("clf", 1)
    answer = from_tensor(response.outputs["probabilities"])
    assert answer == pytest.approx(probabilities(IMAGES), abs=1e-6)
    assert not response.classifications
    assert not response.HasField("timing")


def test_a_long_request_is_answered_like_a_short_one(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("echo", echo(TensorProto.UINT8, ["n", "width"]))
    running = start_server()
    for width in (5, LONG):
        pixels = np.random.default_rng(5).integers(0, 256, (2, width), np.uint8)
        request = PredictRequest(model=ModelReference(name="echo"), inputs={"x": to_tensor(pixels)})
        answer = from_tensor(running.inference.Predict(request).outputs["y"])
        assert np.array_equal(answer, pixels)


def test_top_k_names_the_likeliest_classes_first(running: Running) -> None:
    request = PredictRequest(model=CLASSIFIER, inputs={"image": to_tensor(IMAGES)}, top_k=2)
    response = running.inference.Predict(request)
    for row, classification in zip(probabilities(IMAGES), response.classifications, strict=True):
        best = np.argsort(-row)[:2]
        assert [one.index for one in classification.classes] == best.tolist()
        assert [one.label for one in classification.classes] == [LABELS[i] for i in best]
        assert [one.probability for one in classification.classes] == pytest.approx(row[best])


def test_encoded_images_are_decoded_and_resized_as_the_card_says(running: Running) -> None:
    large = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 20), np.uint8))
    buffer = io.BytesIO()
    large.save(buffer, "JPEG")
    encoded = [encode_png(IMAGES[0]), buffer.getvalue()]
    response = running.inference.Predict(PredictRequest(model=CLASSIFIER, images=encoded))
    pixels = np.stack([IMAGES[0], decode_image(encoded[1], 1, (4, 4))])
    answer = from_tensor(response.outputs["probabilities"])
    assert answer == pytest.approx(probabilities(pixels), abs=1e-6)


def test_timing_tells_every_phase_when_asked(running: Running) -> None:
    request = PredictRequest(model=CLASSIFIER, inputs={"image": to_tensor(IMAGES)}, timing=True)
    timing = running.inference.Predict(request).timing
    for phase in (timing.queue, timing.decode, timing.compute, timing.encode):
        assert phase.ToNanoseconds() > 0
    assert timing.batch_rows == len(IMAGES)


def test_embed_answers_vectors_and_their_space(running: Running) -> None:
    request = EmbedRequest(model=EMBEDDER, inputs={"features": to_tensor(FEATURES)})
    response = running.inference.Embed(request)
    expected = FEATURES @ EMBEDDER_WEIGHTS
    assert from_tensor(response.embeddings) == pytest.approx(expected, abs=1e-5)
    (space,) = running.models.GetModel(GetModelRequest(model=EMBEDDER)).model.embedding_spaces
    assert (space.output, space.space_id, space.dimension) == ("embedding", response.space_id, 3)

    request.normalize = request.half_precision = True
    vectors = from_tensor(running.inference.Embed(request).embeddings)
    assert vectors.dtype == np.float16
    assert np.linalg.norm(vectors.astype(np.float32), axis=1) == pytest.approx(1, abs=1e-3)


def test_t29_the_zero_vector_stays_zero_when_normalized(running: Running) -> None:
    zeros = to_tensor(np.zeros((1, 4), np.float32))
    request = EmbedRequest(model=EMBEDDER, inputs={"features": zeros}, normalize=True)
    assert from_tensor(running.inference.Embed(request).embeddings).tolist() == [[0, 0, 0]]


def test_generate_with_a_seed_repeats_and_does_not_depend_on_the_count(running: Running) -> None:
    def draw(count: int) -> Array:
        request = GenerateRequest(model=GENERATOR, seed=7, count=count)
        response = running.inference.Generate(request)
        assert response.seed == 7
        return from_tensor(response.samples)

    many = draw(40)
    assert many.shape == (40, 4, 4, 1)
    assert (draw(40) == many).all()
    assert (draw(3) == many[:3]).all()
    expected = 255 / (1 + np.exp(-draw_latents(7, 40, 5) @ GENERATOR_WEIGHTS))
    assert np.abs(many.reshape(40, 16) - expected).max() <= 1


def test_generate_tells_the_seed_that_it_drew(running: Running) -> None:
    first = running.inference.Generate(GenerateRequest(model=GENERATOR))
    assert first.HasField("seed")
    again = running.inference.Generate(GenerateRequest(model=GENERATOR, seed=first.seed))
    assert again.samples == first.samples
    other = running.inference.Generate(GenerateRequest(model=GENERATOR))
    assert other.seed != first.seed


def test_generate_takes_latents_and_gives_pictures(running: Running) -> None:
    latents = draw_latents(9, 2, 5)
    request = GenerateRequest(model=GENERATOR, latents=to_tensor(latents))
    samples = from_tensor(running.inference.Generate(request).samples)
    request.png = True
    response = running.inference.Generate(request)
    assert not response.HasField("seed")
    assert not response.HasField("samples")
    assert (np.stack([decode_image(image, 1) for image in response.images]) == samples).all()


def test_strings_and_special_numbers_pass_unchanged(
    repository: Publisher, start_server: StartServer
) -> None:
    repository("text", echo(TensorProto.STRING, ["n"]))
    repository("real", echo(TensorProto.FLOAT, ["n"]))
    running = start_server()
    texts = np.array(["", "a\0b", "ünïcödé 🙂", "x" * 1000], object)
    special = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45, 3.4e38], np.float32)
    for name, array in (("text", texts), ("real", special)):
        request = PredictRequest(model=ModelReference(name=name), inputs={"x": to_tensor(array)})
        tensor = running.inference.Predict(request).outputs["y"]
        assert tensor == to_tensor(array)
