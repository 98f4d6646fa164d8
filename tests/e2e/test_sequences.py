"""Step models through a real server: a stream of steps, and texts, against the unrolled network."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from training import Publish

from forwardpass.artefact import MODEL_FILE, draw_uniforms, load_golden
from forwardpass.client import Client
from forwardpass.server.app import Server
from forwardpass.server.native.text import choose
from forwardpass.server.settings import Settings
from forwardpass.trainer.export.parity import open_session
from forwardpass.v1.inference_service_pb2 import PredictRequest, PredictStreamRequest
from forwardpass.v1.inference_service_pb2_grpc import InferenceServiceStub
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.wire import from_tensor, to_tensor

FORECASTERS = ("sunspots", "airline")


@pytest.fixture(scope="module")
def models(publish_once: Publish) -> Path:
    folders = [publish_once(name).folder for name in (*FORECASTERS, "text")]
    return folders[0].parents[1]


@pytest.fixture(scope="module")
def address(models: Path) -> Iterator[str]:
    server = Server(Settings(models=models, port=0, metrics_port=0, threads=1))
    server.start()
    server.wait_loaded()
    yield server.address
    server.stop()


@pytest.mark.parametrize("name", FORECASTERS)
def test_a_stream_of_steps_forecasts_what_torch_does_unrolled(
    models: Path, address: str, name: str
) -> None:
    golden = load_golden(models / name / "1" / "golden.npz")
    series, expected = golden.inputs["series"], golden.outputs["forecast"]
    model = ModelReference(name=f"{name}-step")

    def requests() -> Iterator[PredictStreamRequest]:
        # Twice the same, with the state put back in between.
        for _ in range(2):
            for at in range(series.shape[1]):
                yield PredictStreamRequest(
                    request=PredictRequest(
                        model=model,
                        inputs={"value": to_tensor(series[:, at : at + 1])},
                        outputs=["forecast"],
                    ),
                    reset_state=at == 0,
                )

    with grpc.insecure_channel(address) as channel:
        answers = list(InferenceServiceStub(channel).PredictStream(requests()))
    forecasts = np.concatenate(
        [from_tensor(answer.response.outputs["forecast"]) for answer in answers], axis=1
    )
    assert forecasts == pytest.approx(np.tile(expected, 2), rel=1e-4, abs=1e-3)
    # Without its state it would forecast otherwise.
    with Client(address) as client:
        zeros = {
            spec.name: np.zeros((8, spec.shape[1]), np.float32)
            for spec in client.model(f"{name}-step").signature.inputs[1:]
        }
        alone = client.predict(f"{name}-step", {"value": series[:, -1:], **zeros})
    assert np.abs(alone.outputs["forecast"] - expected[:, -1:]).max() > 1


@pytest.mark.parametrize("name", FORECASTERS)
def test_a_series_of_any_length_is_forecast_in_one_call(
    models: Path, address: str, name: str
) -> None:
    golden = load_golden(models / name / "1" / "golden.npz")
    with Client(address) as client:
        for steps in (1, 7, golden.inputs["series"].shape[1]):
            answer = client.predict(name, golden.inputs["series"][:3, :steps])
            # What comes later changes no forecast made before it.
            expected = golden.outputs["forecast"][:3, :steps]
            assert answer.outputs["forecast"] == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_the_text_is_what_the_step_gives_when_it_is_made_by_hand(
    models: Path, address: str
) -> None:
    session = open_session((models / "text" / "1" / MODEL_FILE).read_bytes())
    prompt, length = "Call me Ish", 50
    with Client(address) as client:
        card = client.model("text").card
        assert card is not None
        (text,) = client.generate("text", prompt=prompt, seed=3, length=length).texts
    state = np.zeros((1, session.get_inputs()[1].shape[1]), np.float32)
    tokens = [card.labels.index(character) for character in prompt]
    for at, uniform in enumerate(
        [0.0] * (len(prompt) - 1) + draw_uniforms(3, 1, length)[0].tolist()
    ):
        token = np.array(tokens[at : at + 1], np.int64)
        logits, state = session.run(None, {"token": token, "h": state})
        if at >= len(prompt) - 1:
            tokens += choose(logits, 1.0, np.array([uniform])).tolist()
    assert text == "".join(card.labels[token] for token in tokens[len(prompt) :])
