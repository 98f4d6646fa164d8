"""Dark strokes on bright, for a model that learned from bright on dark: told, and turned."""

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from conftest import StartServer
from PIL import Image
from run_commands import Command
from tiny_models import LABELS, Publisher, TinyModel, classifier

from forwardpass.client import Client, InvalidInput, PixelStatistics, PolarityWarning
from forwardpass.client.engine import Rows
from forwardpass.client.inputs import Picture
from forwardpass.client.models import Model
from forwardpass.client.polarity import PolarityCheck
from forwardpass.client.results import Prediction
from forwardpass.client.steps import Call, Offload, Step, Warn
from forwardpass.pixels import encode_png
from forwardpass.v1 import inference_service_pb2, model_card_pb2
from forwardpass.wire import Array

from .scripted import Connect, StartScripted

# A bright spot on black, and its negative.
SPOT = np.zeros((4, 4, 1), np.uint8)
SPOT[1:3, 1:3] = 230
NEGATIVE = 255 - SPOT
ON_DARK = model_card_pb2.PixelStatistics(
    mean=0.13, deviation=0.31, ground_mean=0.01, ground_deviation=0.02
)
ON_BRIGHT = model_card_pb2.PixelStatistics(
    mean=0.87, deviation=0.31, ground_mean=0.99, ground_deviation=0.02
)
PHOTOGRAPHS = model_card_pb2.PixelStatistics(
    mean=0.47, deviation=0.24, ground_mean=0.3, ground_deviation=0.1
)

LEFT_OUT = {"row": 1200, "column": 1}


def learned_from(
    pixels: model_card_pb2.PixelStatistics, rows: int = 1000, *, embeds: bool = False
) -> TinyModel:
    tiny = classifier()
    assert tiny.card is not None
    data = model_card_pb2.DataSource(train_rows=rows, pixels=pixels, left_out=LEFT_OUT)
    tiny.card.data.CopyFrom(data)
    if embeds:
        tiny.card.signature.outputs[0].role = model_card_pb2.TENSOR_ROLE_EMBEDDING
        del tiny.card.labels[:]
    return tiny


@pytest.fixture
def address(repository: Publisher, start_server: StartServer) -> Iterator[str]:
    repository("digits", learned_from(ON_DARK))
    repository("ink", learned_from(ON_BRIGHT))
    repository("photos", learned_from(PHOTOGRAPHS))
    repository("few", learned_from(ON_DARK, rows=99))
    repository("vectors", learned_from(ON_DARK, embeds=True))
    repository("unknown", classifier())
    # The server is in this process, and its log would be mixed with what a command prints.
    with structlog.testing.capture_logs():
        yield start_server().address


@pytest.fixture
def client(address: str, connect: Connect) -> Client:
    return connect(address)


@pytest.fixture
def command(address: str, run_command: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("FORWARDPASS_SERVER", address)
    return run_command


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A spot on black, and its negative, as PNG files in a folder."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    pixels = {"dark": SPOT, "bright": NEGATIVE}
    paths = {name: folder / f"{name}.png" for name in pixels}
    for name, path in paths.items():
        path.write_bytes(encode_png(pixels[name]))
    return paths


def test_the_card_tells_what_pictures_were_learned_from(client: Client, command: Command) -> None:
    def pixels(model: Model) -> PixelStatistics | None:
        assert model.card is not None
        return model.card.data.pixels if model.card.data else None

    assert pixels(client.model("digits")) == PixelStatistics(0.13, 0.31, 0.01, 0.02)
    assert pixels(client.model("unknown")) is None
    assert "grounds of 0.01 ± 0.02, pixels of 0.13 ± 0.31" in command("models", "digits").out


def test_the_card_tells_how_much_was_left_out(client: Client, command: Command) -> None:
    card = client.model("digits").card
    assert card is not None
    assert card.data is not None
    assert card.data.left_out == LEFT_OUT
    assert "1 column, 1,200 rows" in command("models", "digits").out


def test_a_negative_is_told_with_its_name_and_the_way_out(
    client: Client, files: dict[str, Path]
) -> None:
    with pytest.warns(PolarityWarning, match="invert=True") as told:
        client.predict("digits", images=[files["dark"], files["bright"]])
    (warning,) = told
    assert Path(warning.filename) == Path(__file__)
    assert str(warning.message) == (
        f"{files['bright']} has a bright ground, and digits version 1 learned from pictures with a "
        "dark one (0.01, where 0 is black and 1 white): the answer is likely to be wrong. Give "
        "invert=True, or --invert on the command line, to send the negative."
    )
    with pytest.warns(PolarityWarning, match=r"^images\[0\] \(and 1 more\) has a dark ground"):
        client.predict("ink", images=[SPOT, files["bright"].read_bytes(), SPOT])
    with pytest.warns(PolarityWarning, match=r"^images\[0\] has a bright ground"):
        client.embed("vectors", images=Image.fromarray(NEGATIVE[..., 0]))


# Any warning fails a test.
@pytest.mark.parametrize(
    ("model", "pixels"),
    [
        ("digits", SPOT),
        ("ink", NEGATIVE),
        ("photos", SPOT),
        ("photos", NEGATIVE),
        ("few", NEGATIVE),
        ("unknown", NEGATIVE),
    ],
)
def test_no_other_picture_is_warned_of(client: Client, model: str, pixels: Array) -> None:
    assert len(client.predict(model, images=pixels).outputs["probabilities"]) == 1


def test_sixteen_pictures_of_a_call_are_looked_at(client: Client) -> None:
    client.predict("digits", images=[SPOT] * 16 + [NEGATIVE])
    with pytest.warns(PolarityWarning, match=r"images\[15\]"):
        client.predict("digits", images=[SPOT] * 15 + [NEGATIVE])


def test_a_large_png_is_not_looked_at_and_a_large_jpeg_is(client: Client, tmp_path: Path) -> None:
    large = Image.new("L", (1100, 1000), 255)
    large.save(tmp_path / "large.png")
    large.save(tmp_path / "large.jpg")
    client.predict("digits", images=tmp_path / "large.png")
    with pytest.warns(PolarityWarning, match=r"large\.jpg"):
        client.predict("digits", images=tmp_path / "large.jpg")
    # Two of these are too many.
    half = Image.new("L", (800, 800), 255)
    half.save(tmp_path / "half.png")
    with pytest.warns(PolarityWarning, match=r"half\.png has"):
        client.predict("digits", images=[tmp_path / "half.png", tmp_path / "half.png"])


def test_inverted_pictures_are_answered_as_their_negatives(
    client: Client, files: dict[str, Path]
) -> None:
    answer = client.predict("digits", images=files["dark"]).outputs["probabilities"]
    turned = client.predict("digits", images=files["bright"], invert=True)
    np.testing.assert_array_equal(turned.outputs["probabilities"], answer)
    vectors = client.embed("vectors", images=files["dark"]).vectors
    again = client.embed("vectors", images=[NEGATIVE], invert=True).vectors
    np.testing.assert_array_equal(again, vectors)


def test_inverting_what_was_right_is_told_too(client: Client) -> None:
    with pytest.warns(
        PolarityWarning, match=r"images\[0\], inverted, has a bright .*Leave out invert=True"
    ):
        client.predict("digits", images=SPOT, invert=True)


def test_only_pictures_can_be_inverted(client: Client) -> None:
    with pytest.raises(InvalidInput, match="no images"):
        client.predict("digits", {"image": SPOT[np.newaxis]}, invert=True)
    with pytest.raises(InvalidInput, match="no images"):
        client.embed("vectors", images=[], invert=True)
    with pytest.raises(
        InvalidInput, match=r"images\[0\] cannot be inverted: the bytes are neither"
    ):
        client.predict("digits", images=b"no picture", invert=True)


def test_who_may_not_see_cards_gets_the_answer_all_the_same(
    scripted: StartScripted, connect: Connect
) -> None:
    # It answers no GetModel.
    server = scripted(inference_service_pb2.PredictResponse())
    assert connect(server.target).predict("m", images=NEGATIVE).outputs == {}
    assert len(server.seen) == 1


def looked_at(client: Client, *pictures: Picture, seconds: float = 30) -> list[Step]:
    """Returns the steps of looking at pictures that version 1 has answered."""
    answer = Prediction("digits", 1, {}, (), (), None)
    rows = Rows(None, None, None, invert=False, preparation=None)
    flow = client._operations.look_at(pictures, answer, time.monotonic() + seconds, rows)
    steps: list[Step] = []
    given: Any = None
    with suppress(StopIteration):
        while True:
            steps.append(step := flow.send(given))
            given = None if isinstance(step, Warn) else client._do(step)
    return steps


def test_a_version_s_card_is_asked_for_once(client: Client) -> None:
    picture = Picture("spot.png", encode_png(NEGATIVE))
    first, second = (looked_at(client, picture) for _ in range(2))
    assert [type(step) for step in first] == [Call, Offload, Warn]
    assert [type(step) for step in second] == [Offload, Warn]
    assert all("spot.png has a bright ground" in str(steps[-1]) for steps in (first, second))


def test_no_card_is_asked_for_where_no_time_is_left(client: Client) -> None:
    picture = Picture("spot.png", encode_png(NEGATIVE))
    assert [type(step) for step in looked_at(client, picture, seconds=0)] == [Offload]
    # The next call, which has time, is told.
    assert isinstance(looked_at(client, picture)[-1], Warn)


def test_cards_of_many_versions_are_forgotten() -> None:
    check = PolarityCheck()
    for version in range(65):
        check.remember(("digits", version), None)
    assert check.knows(("digits", 64))
    assert not check.knows(("digits", 0))


def test_predict_warns_on_a_line_of_its_own(command: Command, files: dict[str, Path]) -> None:
    ended = command("predict", "digits", files["dark"], files["bright"], "--json")
    assert ended.code == 0
    assert ended.err.startswith(f"warning: {files['bright']} has a bright ground, and digits ver")
    assert ended.err.count("\n") == 1
    first, second = ended.json["rows"]
    assert first["classes"] != second["classes"]


def test_predict_inverts(command: Command, files: dict[str, Path], tmp_path: Path) -> None:
    (expected,) = command("predict", "digits", files["dark"], "--json").json["rows"]
    ended = command("predict", "digits", files["bright"], "--invert", "--json")
    (row,) = ended.json["rows"]
    assert (ended.err, row["classes"]) == ("", expected["classes"])
    assert {score["label"] for score in row["classes"]} == set(LABELS)
    np.save(tmp_path / "x.npy", SPOT[np.newaxis])
    refused = command("predict", "digits", tmp_path / "x.npy", "--invert")
    assert (refused.code, refused.err) == (
        2,
        "error: invert is for pictures, and there are no images\n",
    )


def test_embed_warns_once_of_all_and_inverts(
    command: Command, client: Client, files: dict[str, Path], tmp_path: Path
) -> None:
    folder = files["bright"].parent
    for number in range(80):
        (folder / f"{number}.png").write_bytes(encode_png(NEGATIVE))
    (folder / "0.png").write_bytes(b"no picture")
    out = tmp_path / "vectors.npy"
    ended = command("embed", folder, "--model", "vectors", "--out", out)
    (warning,) = (line for line in ended.err.splitlines() if line.startswith("warning: "))
    assert warning.startswith(f"warning: {folder / '1.png'} (and 79 more) has a bright ground")
    (folder / "dark.png").unlink()
    quiet = command("embed", folder, "--model", "vectors", "--out", out, "--invert")
    assert "warning" not in quiet.err
    expected = client.embed("vectors", images=SPOT).vectors[0]
    np.testing.assert_allclose(np.load(out)[1:], [expected] * 80, rtol=1e-6)


def test_embed_inverts_nothing_but_pictures(command: Command, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", SPOT[np.newaxis])
    ended = command(
        "embed", tmp_path / "x.npy", "--model", "vectors", "--out", tmp_path / "y.npy", "--invert"
    )
    assert ended.code == 2
    assert "is for pictures" in ended.err
