"""Every recipe's artefact, through a real server, against torch's own answers."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet
from training import QUICK, Publish

from forwardpass.artefact import Golden, draw_latents, load_golden, within
from forwardpass.client import Client, InvalidInput
from forwardpass.pixels import decode_image, encode_png
from forwardpass.server.app import Server
from forwardpass.server.settings import Settings
from forwardpass.trainer.data import imagenet_photos
from forwardpass.trainer.evaluation import accuracy, predict
from forwardpass.trainer.recipes import transfer
from forwardpass.trainer.training.head import fit_head
from forwardpass.trainer.training.settings import parse_settings
from forwardpass.trainer.training.workspace import Workspace
from forwardpass.v1 import model_card_pb2
from forwardpass.wire import Array

# The first test here waits until every recipe has trained, which a busy machine takes minutes for.
pytestmark = pytest.mark.timeout(1200)


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


@pytest.mark.parametrize(
    "name",
    [
        *("mnist-resnet", "fashion-cnn", "cifar10-resnet", "resnet50-imagenet", "transfer"),
        *("faces-pca", "faces-autoencoder", "words"),
    ],
)
def test_embeddings_are_torch_s_and_carry_their_space(
    models: Path, address: str, name: str
) -> None:
    golden = golden_of(models, name)
    with Client(address) as client:
        answer = client.embed(name, golden.inputs)
        model = client.model(name)
    assert model.card is not None
    relative, absolute = model.card.tolerance
    tolerance = model_card_pb2.Tolerance(relative=relative, absolute=absolute)
    assert within(answer.vectors, golden.outputs["embedding"], tolerance)
    (space,) = model.embedding_spaces
    assert answer.space_id == space.space_id


E_MAIL = (
    "Subject: =?utf-8?q?Fr=C3=A9e?= money\nMIME-Version: 1.0\nContent-Type: text/html\n\n"
    "<p>CLICK here!!! <b>100%</b> free &amp; guaranteed</p>\n"
)


def test_an_e_mail_gets_the_probability_that_torch_gives_it(
    models: Path, address: str, tmp_path: Path
) -> None:
    golden = golden_of(models, "spam")
    texts = golden.inputs["text"].tolist()
    with Client(address) as client:
        prediction = client.predict("spam", texts=texts, top_k=2)
        hostile = ["", "\0", "😀", "qwxz, qwxqz", "free " * 200_000]
        answers = client.predict("spam", texts=hostile).outputs["probabilities"]
    np.testing.assert_allclose(
        prediction.outputs["probabilities"], golden.outputs["probabilities"], atol=1e-5
    )
    for row, expected in zip(prediction.classes, golden.outputs["probabilities"], strict=True):
        assert row[0].label == ("ham", "spam")[int(expected.argmax())]
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-6)
    # Of none of the first does the vocabulary have a word.
    np.testing.assert_array_equal(answers[1:4], answers[[0, 0, 0]])
    assert (answers[4] != answers[0]).any()

    (tmp_path / "offer.eml").write_text(E_MAIL)
    command = [str(Path(sys.executable).with_name("forwardpass")), "predict", "spam", "--json"]
    environment = {**os.environ, "FORWARDPASS_SERVER": address}
    told = [
        json.loads(
            subprocess.run(
                [*command, *given],
                input=E_MAIL,
                env=environment,
                capture_output=True,
                text=True,
                check=True,
                timeout=60,
            ).stdout
        )
        for given in (
            ["--mail", str(tmp_path / "offer.eml")],
            ["--mail", "-"],
            ["--text", "Frée money\n\nCLICK here!!! 100% free & guaranteed"],
        )
    ]
    assert told[0]["outputs"] == told[1]["outputs"] == told[2]["outputs"]
    assert told[0]["rows"][0]["input"] == str(tmp_path / "offer.eml")


def test_a_texts_vector_is_the_mean_of_its_words_vectors(
    models: Path, address: str, tmp_path: Path
) -> None:
    golden = golden_of(models, "words")
    with Client(address) as client:
        answer = client.embed("words", texts=golden.inputs["text"].tolist())
        (space,) = client.model("words").embedding_spaces
        one, other, both, none, empty = client.embed(
            "words", texts=["the", "of", "of THE, qwxz", "qwxz", ""]
        ).vectors
        long = client.embed("words", texts=["the of\n" * 150_000, "the"]).vectors
    np.testing.assert_allclose(answer.vectors, golden.outputs["embedding"], atol=1e-5)
    assert answer.space_id == space.space_id
    assert np.abs(one).max() > 0
    np.testing.assert_allclose(both, (one + other) / 2, atol=1e-6)
    np.testing.assert_allclose(long, [(one + other) / 2, one], atol=1e-4)
    assert not none.any()
    assert not empty.any()

    (tmp_path / "lines.txt").write_text("the\n\nof THE, qwxz\r\n qwxz", encoding="utf-8")
    forwardpass = str(Path(sys.executable).with_name("forwardpass"))
    command = ["embed", "lines.txt", "--model", "words", "--out", "v.npy", "--neighbours", "1"]
    told = subprocess.run(
        [forwardpass, *command, "--server", address, "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), [one, both, none])
    assert json.loads(told.stdout)["neighbours"][0]["nearest"][0]["input"] == "of THE, qwxz"


def test_a_photo_gets_its_name_and_the_embedding_that_torch_gave_it(
    models: Path, address: str, cache: Path
) -> None:
    wheel = zipfile.ZipFile(cache / imagenet_photos.WHEEL.file)
    photo = wheel.read("foolbox/data/imagenet_00_243.jpg")
    golden = golden_of(models, "resnet50-imagenet")
    with Client(address) as client:
        answer = client.predict("resnet50-imagenet", images=[photo], top_k=5)
        vectors = client.embed("resnet50-imagenet", images=[photo]).vectors
    assert answer.classes[0][0].label == "bull mastiff"
    assert answer.classes[0][0].probability > 0.9
    assert vectors == pytest.approx(golden.outputs["embedding"][:1], abs=1e-3)


def test_a_head_on_the_servers_vectors_is_as_good_as_the_recipes(
    publish_once: Publish, address: str, tmp_path: Path, shared: Workspace
) -> None:
    settings = parse_settings(transfer.Settings, QUICK["transfer"])
    data = transfer.load_photos(settings, shared)
    for name, split in (("train", data.train), ("test", data.test)):
        for number, (image, index) in enumerate(zip(split.inputs, split.targets, strict=True)):
            folder = tmp_path / name / data.labels[index]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}.png").write_bytes(encode_png(image))

    def embed(name: str) -> tuple[Array, Array]:
        out = tmp_path / f"{name}.parquet"
        subprocess.run(
            [
                str(Path(sys.executable).with_name("forwardpass")),
                *("embed", f"{tmp_path}/{name}", "--model", "transfer", "--out", f"{out}"),
                *("--server", address),
            ],
            capture_output=True,
            check=True,
        )
        table = parquet.read_table(out)
        vectors = (
            table["embedding"].combine_chunks().flatten().to_numpy().reshape(len(table), -1).copy()
        )
        return vectors, np.array([data.labels.index(label) for label in table["label"].to_pylist()])

    head = fit_head(*embed("train"), settings.decay)
    vectors, classes = embed("test")
    (logits,) = predict(head, vectors)
    expected = publish_once("transfer").card.metrics["accuracy"]
    assert accuracy(logits, classes) == pytest.approx(expected)


def test_a_face_is_drawn_again_from_the_vector_that_embed_gives(models: Path, address: str) -> None:
    for name in ("faces-pca", "faces-autoencoder"):
        golden = golden_of(models, name)
        photo = encode_png(golden.inputs["image"][0])
        with Client(address) as client:
            vectors = client.embed(name, images=[photo]).vectors
            drawn = np.asarray(client.predict(name, images=[photo]).outputs["reconstruction"])
        assert vectors == pytest.approx(golden.outputs["embedding"][:1], abs=0.05)
        assert vectors.std() > 1
        assert np.abs(drawn.astype(int) - golden.outputs["reconstruction"][:1]).max() <= 1


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
    assert decode_image((tmp_path / "g.png").read_bytes(), 1).shape == (16 * 62, 16 * 62, 1)
    filtered = golden_of(models, "kernels")
    (tmp_path / "china.png").write_bytes(encode_png(filtered.inputs["image"][0]))
    forwardpass(
        *("predict", "kernels", f"{tmp_path}/china.png"),
        *("--pictures", f"{tmp_path}/filtered"),
    )
    for output, expected in filtered.outputs.items():
        picture = (tmp_path / "filtered" / f"0-{output}.png").read_bytes()
        assert (decode_image(picture, channels=3) == expected[0]).all()
