"""Images are prepared as the card says, or as a request does, and the vectors' id tells it."""

from pathlib import Path

import numpy as np
import pytest
from conftest import Running, StartServer
from failures import failure_of
from looking_models import expected, looks
from tiny_models import Publisher, embedder

from forwardpass.artefact import space_id
from forwardpass.client import Client
from forwardpass.pixels import encode_png, open_image, to_pixels
from forwardpass.v1.inference_service_pb2 import EmbedRequest, EmbedResponse, PredictRequest
from forwardpass.v1.model_card_pb2 import ImagePreparation
from forwardpass.v1.model_service_pb2 import GetModelRequest, ModelReference
from forwardpass.wire import Array, Filter, Preparation, Reason, Resize, from_tensor, to_tensor

CROP = Preparation(Resize.CROP, 0.8, Filter.LANCZOS, 0x204060)


@pytest.fixture
def running(repository: Publisher, start_server: StartServer) -> Running:
    repository("usual", looks())
    repository("cropping", looks(preparation=CROP))
    repository("features", embedder())
    return start_server()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(1).integers(0, 256, (20, 40, 3), np.uint8)
    path = tmp_path / "photo.png"
    path.write_bytes(encode_png(pixels))
    return path


def embed(running: Running, model: str, photo: Path, asked: ImagePreparation | None) -> Array:
    vectors = from_tensor(answer(running, model, photo, asked).embeddings)
    return vectors.reshape(4)


def answer(
    running: Running, model: str, photo: Path, asked: ImagePreparation | None
) -> EmbedResponse:
    return running.inference.Embed(
        EmbedRequest(
            model=ModelReference(name=model), images=[photo.read_bytes()], image_preparation=asked
        )
    )


def close(left: Array, right: Array) -> bool:
    return bool(np.allclose(left, right, rtol=1e-4, atol=1e-2))


def test_the_card_says_what_is_done_and_a_request_may_say_otherwise(
    running: Running, photo: Path
) -> None:
    stretched, cropped = expected(photo), expected(photo, CROP)
    assert not close(stretched, cropped)
    assert close(embed(running, "usual", photo, None), stretched)
    assert close(embed(running, "cropping", photo, None), cropped)
    # All of it is the request's: what it leaves out is as usual, not as on the card.
    assert close(embed(running, "cropping", photo, ImagePreparation()), stretched)
    request = PredictRequest(
        model=ModelReference(name="cropping"),
        images=[photo.read_bytes()],
        image_preparation=ImagePreparation(),
    )
    outputs = running.inference.Predict(request).outputs
    assert close(from_tensor(outputs["vector"])[0], stretched)


def test_the_id_of_vectors_tells_how_pictures_were_prepared(running: Running, photo: Path) -> None:
    digest = running.models.GetModel(
        GetModelRequest(model=ModelReference(name="cropping"))
    ).model.digest
    usual = space_id(digest, "vector")
    other = space_id(digest, "vector", Preparation())
    with Client(running.address) as client:
        (known,) = client.model("cropping").embedding_spaces
        assert known.space_id == usual
        for preparation, right in ((None, usual), (CROP, usual), (Preparation(), other)):
            found = client.embed("cropping", images=[photo], preparation=preparation)
            assert found.space_id == right
            # Whoever prepares them says so, also of requests that are alike.
            how = preparation or CROP
            pixels = to_pixels(open_image(photo.read_bytes()), 3, (6, 5), how)[np.newaxis]
            for _ in range(3):
                same = client.embed("cropping", pixels, preparation=preparation)
                assert same.space_id == right
                assert close(same.vectors, found.vectors)


@pytest.mark.parametrize(
    ("model", "asked", "message"),
    [
        ("usual", ImagePreparation(crop=0.5), "image_preparation: crop is 0.5, which needs"),
        ("usual", ImagePreparation(resize=7), "unknown to this version"),  # type: ignore[arg-type]
        ("features", ImagePreparation(), "the model takes no images to prepare"),
    ],
)
def test_what_there_is_not_is_refused(
    running: Running, model: str, asked: ImagePreparation, message: str
) -> None:
    name = "features" if model == "features" else "image"
    rows = np.zeros((1, 4), np.float32) if name == "features" else np.zeros((1, 6, 5, 3), np.uint8)
    request = EmbedRequest(
        model=ModelReference(name=model), inputs={name: to_tensor(rows)}, image_preparation=asked
    )
    failure = failure_of(running.inference.Embed, request)
    assert (failure.reason, failure.field) == (Reason.INVALID_INPUT, "image_preparation")
    assert message in failure.message
