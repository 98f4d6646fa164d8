"""Every recipe's artefact, through a real server, against torch's own answers."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from training import QUICK, Publish

from forwardpass.artefact import Golden, draw_latents, load_golden, within
from forwardpass.client import Client, InvalidInput
from forwardpass.pixels import decode_image, encode_png
from forwardpass.server.app import Server
from forwardpass.server.settings import Settings
from forwardpass.v1 import model_card_pb2


@pytest.fixture(scope="module")
def models(publish_once: Publish) -> Path:
    """One repository with the artefact of every recipe."""
    folders = [publish_once(name).folder for name in QUICK]
    return folders[0].parents[1]


@pytest.fixture(scope="module")
def address(models: Path) -> Iterator[str]:
    server = Server(Settings(models=models, port=0, metrics_port=0, threads=1))
    server.start()
    server.wait_loaded()
    assert server.readiness.ready
    yield f"127.0.0.1:{server.port}"
    server.stop()


def newest(models: Path, name: str) -> Path:
    return max(
        (p for p in (models / name).iterdir() if p.name.isdecimal()), key=lambda p: int(p.name)
    )


def golden_of(models: Path, name: str) -> Golden:
    return load_golden(newest(models, name) / "golden.npz")


@pytest.mark.parametrize("name", sorted(QUICK))
def test_the_server_answers_as_torch_did(models: Path, address: str, name: str) -> None:
    golden = golden_of(models, name)
    with Client(address) as client:
        model = client.model(name)
        assert model.golden is not None
        assert model.golden.rows == golden.rows
        assert model.card is not None
        relative, absolute = model.card.tolerance
        tolerance = model_card_pb2.Tolerance(relative=relative, absolute=absolute)
        for rows in (slice(0, 1), slice(None)):
            inputs = {key: array[rows] for key, array in golden.inputs.items()}
            outputs = client.predict(name, inputs).outputs
            assert outputs.keys() == golden.outputs.keys()
            for key, reference in golden.outputs.items():
                assert within(np.asarray(outputs[key]), reference[rows], tolerance)


def test_a_picture_gets_the_class_that_torch_gave_it(models: Path, address: str) -> None:
    golden = golden_of(models, "mnist-cnn")
    pictures = [encode_png(image) for image in golden.inputs["image"]]
    with Client(address) as client:
        classes = client.predict("mnist-cnn", images=pictures, top_k=1).classes
    best = golden.outputs["probabilities"].argmax(axis=1)
    assert [int(row[0].label) for row in classes] == best.tolist()


def test_embeddings_are_torch_s_and_carry_their_space(models: Path, address: str) -> None:
    golden = golden_of(models, "mnist-resnet")
    with Client(address) as client:
        answer = client.embed("mnist-resnet", golden.inputs)
        (space,) = client.model("mnist-resnet").embedding_spaces
    assert answer.vectors == pytest.approx(golden.outputs["embedding"], abs=1e-4)
    assert answer.space_id == space.space_id


def test_a_seed_draws_what_torch_draws_from_its_latents(models: Path, address: str) -> None:
    golden = golden_of(models, "mnist-gan")
    latents = draw_latents(0, golden.rows, golden.inputs["latent"].shape[1])
    assert (latents == golden.inputs["latent"]).all()
    with Client(address) as client:
        samples = client.generate("mnist-gan", seed=0, count=golden.rows).samples
    assert samples is not None
    difference = samples.astype(int) - golden.outputs["images"].astype(int)
    assert np.abs(difference).max() <= 1


def test_a_class_asked_for_is_drawn_as_torch_draws_it(models: Path, address: str) -> None:
    golden = golden_of(models, "mnist-cgan")  # row n is class n
    latents, images = golden.inputs["latent"], golden.outputs["images"]
    with Client(address) as client:
        for index, label in ((0, "0"), (7, "7")):
            row = slice(index, index + 1)
            by_index = client.generate("mnist-cgan", class_=index, latents=latents[row])
            by_label = client.generate("mnist-cgan", class_=label, latents=latents[row], png=True)
            by_seed = client.generate("mnist-cgan", class_=label, seed=0, count=golden.rows)
            assert by_index.samples is not None
            assert by_seed.samples is not None
            for samples in (by_index.samples, by_seed.samples[row]):
                difference = samples.astype(int) - images[row].astype(int)
                assert np.abs(difference).max() <= 1
            (png,) = by_label.images
            np.testing.assert_array_equal(decode_image(png, channels=1), by_index.samples[0])
        with pytest.raises(InvalidInput, match="the model takes a class"):
            client.generate("mnist-cgan", seed=0)
        with pytest.raises(InvalidInput, match="class 10, but the model has classes 0 to 9"):
            client.generate("mnist-cgan", seed=0, class_=10)


def test_the_command_line_goes_the_whole_way(models: Path, address: str, tmp_path: Path) -> None:
    environment = {**os.environ, "FORWARDPASS_SERVER": address}

    def forwardpass(*arguments: str) -> str:
        command = [str(Path(sys.executable).with_name("forwardpass")), *arguments]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=60
        ).stdout

    images = golden_of(models, "mnist-cnn").inputs["image"]
    for index, image in enumerate(images):
        (tmp_path / f"{index}.png").write_bytes(encode_png(image))
    told = json.loads(forwardpass("predict", "mnist-cnn", str(tmp_path / "0.png"), "--json"))
    best = golden_of(models, "mnist-cnn").outputs["probabilities"][0].argmax()
    assert str(best) in json.dumps(told)
    forwardpass("embed", str(tmp_path), "--model", "mnist-resnet", "--out", f"{tmp_path}/v.npy")
    assert np.load(tmp_path / "v.npy").shape == (len(images), 64)
    forwardpass(
        "generate", "mnist-gan", "--count", "4", "--seed", "1", "--out", f"{tmp_path}/g.png"
    )
    assert decode_image((tmp_path / "g.png").read_bytes(), 1).shape == (62, 62, 1)
    filtered = golden_of(models, "kernels")
    (tmp_path / "china.png").write_bytes(encode_png(filtered.inputs["image"][0]))
    forwardpass(
        *("predict", "kernels", f"{tmp_path}/china.png"),
        *("--pictures", f"{tmp_path}/filtered"),
    )
    for output, expected in filtered.outputs.items():
        picture = (tmp_path / "filtered" / f"0-{output}.png").read_bytes()
        assert (decode_image(picture, channels=3) == expected[0]).all()
