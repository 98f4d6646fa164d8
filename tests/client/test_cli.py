"""The command line against the real server: what it prints, what it writes, how it ends."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import structlog
from conftest import Running, StartServer
from onnx import TensorProto
from run_commands import Command, Ended
from tiny_models import (
    EMBEDDER_WEIGHTS,
    LABELS,
    Publisher,
    TinyModel,
    classifier,
    echo,
    embedder,
    generator,
    writer,
)

from forwardpass.client import errors
from forwardpass.client.commands.exit_code import explain
from forwardpass.pixels import decode_image, encode_png
from forwardpass.v1 import inference_service_pb2, model_card_pb2, tensor_pb2

from .scripted import StartScripted

FEATURES = np.random.default_rng(3).normal(size=(6, 4)).astype(np.float32)


def text_card() -> model_card_pb2.ModelCard:
    """Says of the graph that gives its strings back that they are text."""
    text = model_card_pb2.TensorSpec(
        name="x",
        data_type=tensor_pb2.DATA_TYPE_STRING,
        shape=[-1],
        role=model_card_pb2.TENSOR_ROLE_TEXT,
    )
    out = model_card_pb2.TensorSpec(name="y", data_type=tensor_pb2.DATA_TYPE_STRING, shape=[-1])
    return model_card_pb2.ModelCard(
        signature=model_card_pb2.Signature(inputs=[text], outputs=[out], batched=True)
    )


@pytest.fixture
def served(repository: Publisher, start_server: StartServer) -> Iterator[Running]:
    repository("shapes", classifier())
    repository("features", embedder())
    repository("gan", generator())
    repository("poet", writer())
    repository("floats", echo(TensorProto.FLOAT, ["n"]))
    strings = echo(TensorProto.STRING, ["n"])
    repository("strings", strings)
    repository("reader", TinyModel(strings.graph, text_card()))
    # The server is in this process, and its log would be mixed with what the command prints.
    with structlog.testing.capture_logs():
        yield start_server()


@pytest.fixture
def command(served: Running, run_command: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("FORWARDPASS_SERVER", served.address)
    return run_command


def test_a_server_is_called_through_its_socket(
    repository: Publisher, start_server: StartServer, run_command: Command, tmp_path: Path
) -> None:
    repository("shapes", classifier())
    with structlog.testing.capture_logs():
        served = start_server(host=f"unix:{tmp_path}/forwardpass.sock")
        ended = run_command("health", "shapes", "--server", served.address)
    assert (ended.code, ended.out) == (0, "SERVING\n")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a [bold] name.png"
    pixels = np.random.default_rng(4).integers(0, 256, (9, 7, 3), np.uint8)
    path.write_bytes(encode_png(pixels))
    return path


@pytest.mark.parametrize(
    "name", ["models", "predict", "embed", "generate", "health", "neighbours", "duplicates", "map"]
)
def test_every_command_has_help_with_an_example(command: Command, name: str) -> None:
    ended = command(name, "--help")
    assert ended.code == 0
    assert f"Example: forwardpass {name}" in ended.out
    assert ("FORWARDPASS_SERVER" in ended.out) == (name not in ("duplicates", "map"))


def test_models(command: Command) -> None:
    table = command("models")
    assert table.code == 0
    assert all(name in table.out for name in ("shapes", "features", "ready", "Generate"))
    listed = command("models", "--json").json
    assert [summary["name"] for summary in listed] == sorted(s["name"] for s in listed)
    assert listed[0]["state"] == "ready"


def test_one_model(command: Command) -> None:
    page = command("models", "shapes:1").out
    assert all(text in page for text in (*LABELS, "probabilities", "5 agree with torch"))
    told = command("models", "shapes", "--json").json
    assert told["card"]["labels"] == list(LABELS)
    assert told["golden"]["passed"]
    assert told["signature"]["inputs"][0]["shape"] == [-1, 4, 4, 1]


def test_predict_names_classes(command: Command, picture: Path) -> None:
    table = command("predict", "shapes", picture, picture)
    assert table.code == 0
    assert table.out.count(str(picture)) == 2
    assert all(label in table.out for label in LABELS)
    told = command("predict", "shapes", picture, "--top-k", 1, "--json").json
    assert [row["input"] for row in told["rows"]] == [str(picture)]
    (best,) = told["rows"][0]["classes"]
    assert best["label"] == LABELS[best["index"]]
    assert max(told["outputs"]["probabilities"][0]) == pytest.approx(best["probability"])
    assert "probabilities" in command("predict", "shapes", picture, "--top-k", 0).out


def test_predict_reads_every_kind_of_file(command: Command, tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", FEATURES)
    np.savez(tmp_path / "f.npz", features=FEATURES)
    (tmp_path / "list.json").write_text(json.dumps(FEATURES.tolist()))
    (tmp_path / "named.json").write_text(json.dumps({"features": FEATURES.tolist()}))
    given = ["f.npy", "f.npz", "list.json", "named.json"]
    arguments = [str(tmp_path / name) for name in given] + [f"features={tmp_path / 'f.npy'}"]
    for number, argument in enumerate(arguments):
        out = tmp_path / f"{number}.npz"
        ended = command("predict", "features", argument, "--out", out)
        assert (ended.code, ended.err) == (0, "")
        with np.load(out) as saved:
            np.testing.assert_allclose(saved["embedding"], FEATURES @ EMBEDDER_WEIGHTS, rtol=1e-5)


def test_predict_saves_pictures(command: Command, tmp_path: Path) -> None:
    latents = np.random.default_rng(5).normal(size=(2, 5)).astype(np.float32)
    np.save(tmp_path / "z.npy", latents)
    folder = tmp_path / "new" / "pictures"

    ended = command("predict", "gan", tmp_path / "z.npy", "--pictures", folder)

    assert (ended.code, ended.err) == (0, "")
    paths = [folder / "0-images.png", folder / "1-images.png"]
    assert ended.out.replace("\n", "") == f"wrote {paths[0]}, {paths[1]}"
    arrays = tmp_path / "o.npz"
    command("predict", "gan", tmp_path / "z.npy", "--out", arrays)
    with np.load(arrays) as saved:
        for path, image in zip(paths, saved["images"], strict=True):
            assert (decode_image(path.read_bytes(), channels=image.shape[-1]) == image).all()
    refused = command("predict", "features", tmp_path / "z.npy", "--pictures", folder)
    assert refused.code != 0
    assert "features has no image output, so it gives no pictures" in refused.err


def test_predict_takes_and_saves_text(command: Command, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps(["żółw", "b"]), encoding="utf-8")
    out = tmp_path / "t.npz"
    told = command("predict", "strings", tmp_path / "t.json", "--json", "--out", out)
    assert told.json["outputs"] == {"y": ["żółw", "b"]}
    with np.load(out, allow_pickle=False) as saved:
        assert saved["y"].tolist() == ["żółw", "b"]
    told = command("predict", "reader", "--text", "żółw", "--text", "", "--json").json
    assert told["outputs"] == {"y": ["żółw", ""]}
    refused = command("predict", "strings", "--text", "a")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith("error: ")


def test_predict_reads_e_mails(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lunch.eml"
    path.write_bytes(b"From: bob\nSubject: Lunch\n\nat noon?\n")
    (tmp_path / "piped").write_bytes(b"Subject: Tea\n\nat five\n")

    with (tmp_path / "piped").open() as piped:
        monkeypatch.setattr("sys.stdin", piped)
        told = command("predict", "reader", "--mail", path, "--mail", "-", "--json").json

    assert told["outputs"] == {"y": ["Lunch\n\nat noon?", "Tea\n\nat five"]}
    missing = command("predict", "reader", "--mail", tmp_path / "none.eml")
    assert (missing.code, missing.out) == (2, "")


def test_json_has_names_for_odd_numbers(command: Command, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([np.nan, np.inf, -np.inf, 1], np.float32))
    told = command("predict", "floats", tmp_path / "x.npy", "--json").json
    assert told["outputs"]["y"] == ["NaN", "Infinity", "-Infinity", 1.0]


def test_generate_draws_a_picture(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "grid.png"
    ended = command("generate", "gan", "--count", 9, "--seed", 7, "--out", out)
    assert ended.code == 0
    assert "seed 7" in ended.out
    # Of 20 x 20 pixels: samples of 4 x 4, with a gap of 2 around each.
    picture = decode_image(out.read_bytes(), 1)
    assert picture.shape == (50 * 20, 50 * 20, 1)
    array = tmp_path / "samples.npy"
    told = command("generate", "gan", "--count", 2, "--out", array, "--json").json
    assert isinstance(told["seed"], int)
    assert np.load(array).shape == (2, 4, 4, 1)
    again = command("generate", "gan", "--count", 2, "--seed", told["seed"], "--json").json
    assert again["samples"] == np.load(array).tolist()


def test_a_picture_of_samples_is_large_enough_to_see_and_no_larger(
    command: Command, tmp_path: Path
) -> None:
    """Each pixel is a square of whole pixels; the samples themselves stay as they are."""
    pictures = {}
    for count in (1, 1024):
        out = tmp_path / f"{count}.png"
        assert command("generate", "gan", "--count", count, "--seed", 7, "--out", out).code == 0
        pictures[count] = decode_image(out.read_bytes(), 1)
    one = command("generate", "gan", "--count", 1, "--seed", 7, "--json").json["samples"][0]
    factor = 1000 // 8
    assert pictures[1].shape == (8 * factor, 8 * factor, 1)
    small = pictures[1][::factor, ::factor]
    assert small[2:6, 2:6].tolist() == one
    np.testing.assert_array_equal(pictures[1], small.repeat(factor, 0).repeat(factor, 1))
    assert pictures[1024].shape == (5 * 194, 5 * 194, 1)


def test_generated_texts_are_all_that_goes_on(
    run_command: Command, scripted: StartScripted, tmp_path: Path
) -> None:
    answer = inference_service_pb2.GenerateResponse(texts=["To be", "or ñot"], seed=7)
    server = scripted(generated=answer)
    ended = run_command("generate", "poet", "--prompt", "To", "--server", server.target)
    assert (ended.code, ended.out) == (0, "To be\nor ñot\n")
    assert "2 texts" in ended.err
    assert "seed 7" in ended.err
    out = tmp_path / "poem.npy"
    refused = run_command("generate", "poet", "--out", out, "--server", server.target)
    assert refused.code == 2
    assert not out.exists()


def test_a_text_is_printed_as_it_is_written(command: Command) -> None:
    arguments = ("generate", "poet", "--prompt", "ab", "--seed", "7", "--length", "40")
    whole, streamed = command(*arguments), command(*arguments, "--stream")
    assert whole.code == 0
    assert len(whole.out) == 41
    assert "seed 7" in whole.err
    assert streamed == whole
    for more in (["--count", "2"], ["--json"], ["--out", "x.npy"]):
        assert command(*arguments, "--stream", *more).code == 2
    refused = command("generate", "gan", "--stream")
    assert refused.code == 2
    assert "no texts" in refused.err


def test_health(command: Command) -> None:
    assert command("health") == Ended(0, "SERVING\n", "")
    assert command("health", "gan", "--json").json == {"status": "SERVING"}


def test_health_of_what_failed(
    command: Command, repository: Publisher, start_server: StartServer
) -> None:
    folder = repository("broken", embedder())
    (folder / "model.onnx").write_bytes(b"altered after it was published")
    server = start_server()
    ended = command("health", "broken", "--server", server.address)
    assert ended == Ended(4, "NOT_SERVING\n", "")
    embedded = command(
        "embed", "/", "--model", "broken", "--out", "v.npy", "--server", server.address
    )
    assert embedded.code == 1
    assert "model.onnx" in embedded.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["models", "nowhere"], 3, "nowhere"),
        (["models", "gan:9"], 3, "9"),
        (["models", "gan:"], 2, "MODEL:VERSION"),
        (["health", "nowhere"], 3, "nowhere"),
        (["health", "--server", "127.0.0.1:1"], 4, "is the server running"),
        (["predict", "shapes"], 2, "nothing to predict"),
        (["predict", "shapes", "missing.png"], 2, "missing.png"),
        (["predict", "shapes", __file__], 2, "expected .png"),
        (["predict", "shapes", "x", "--out", "y.txt"], 2, ".npz"),
        (["embed", "/", "--model", "features"], 2, "--out"),
        (["embed", "/", "--model", "gan", "--out", "v.npy"], 2, "no embedding output"),
        (["embed", "/", "--model", "features", "--out", "v.csv"], 2, ".parquet"),
        (["embed", "/etc/passwd", "--model", "features", "--out", "v.npy"], 2, "a folder"),
        (["embed", "missing", "--model", "features", "--out", "v.npy"], 2, "missing"),
        (["generate", "shapes"], 2, "no generator"),
        (["generate", "gan", "--prompt", "x"], 2, "prompt"),
        (["generate", "gan", "--count", "0"], 2, "count"),
        (["generate", "gan", "--out", "x.jpg"], 2, ".npy"),
        (["models", "--timeout", "0"], 2, "timeout"),
        (["models", "--tls-ca", "missing.pem"], 2, "missing.pem"),
        (["models", "--token", "line end\n"], 2, "printable ASCII"),
    ],
)
def test_expected_errors_are_one_sentence_and_a_code(
    command: Command, arguments: list[str], code: int, words: str
) -> None:
    ended = command(*arguments)
    assert (ended.code, ended.out) == (code, "")
    # Errors of usage stand in a box, broken into lines where the terminal ends.
    assert words in " ".join(re.sub("[─│╭╮╯╰]", " ", ended.err).split())
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ServerError("x", request_id="7"), 1),
        (errors.ModelFailed("x"), 1),
        (errors.Unsupported("x"), 1),
        (errors.Cancelled("x"), 1),
        (errors.InvalidInput("x"), 2),
        (errors.WrongTask("x"), 2),
        (errors.MessageTooLarge("x"), 2),
        (FileNotFoundError("x"), 2),
        (errors.ModelNotFound("x"), 3),
        (errors.Unavailable("x"), 4),
        (errors.TimedOut("x"), 4),
        (errors.Overloaded("x"), 5),
        (errors.AccessDenied("x"), 6),
    ],
)
def test_exit_codes(error: Exception, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain(error) == code
    assert capsys.readouterr().err.startswith("error: x")


def test_a_fault_of_ours_keeps_its_trace() -> None:
    with pytest.raises(ZeroDivisionError):
        explain(ZeroDivisionError("x"))
