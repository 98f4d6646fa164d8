"""The page that every version has for people."""

import base64
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from tiny_models import (
    Publisher,
    TinyModel,
    classifier,
    echo,
    embedder,
    gallery,
    generator,
    stepper,
    writer,
)

from forwardpass.artefact import Golden, read_manifest, verify_manifest
from forwardpass.client import Client
from forwardpass.pixels import encode_png
from forwardpass.server.app import Server
from forwardpass.server.settings import Settings
from forwardpass.trainer import publish
from forwardpass.trainer.export.calls import describe_task
from forwardpass.trainer.export.draft import Draft, publish_draft
from forwardpass.trainer.export.report import make_report
from forwardpass.v1 import model_card_pb2 as pb
from forwardpass.wire import Array

PICTURE = np.random.default_rng(0).integers(0, 256, (4, 4, 1), dtype=np.uint8)
HOSTILE = """<script>alert("1")</script><img src=x onerror='alert(2)'>&lt;</style>"""
# The golden inputs of each.
INPUTS: dict[str, dict[str, Array]] = {
    "classifier": {"image": np.stack([PICTURE, 255 - PICTURE])},
    "embedder": {"features": np.arange(8, dtype=np.float32).reshape(2, 4)},
    "generator": {"latent": np.arange(10, dtype=np.float32).reshape(2, 5) / 10},
    "stepper": {
        "x": np.array([[1], [2]], np.float32),
        "total": np.array([[3], [4]], np.float32),
    },
    "writer": {"token": np.array([1, 2]), "h": np.array([[0, 0, 0], [1, 0, 1]], np.float32)},
}
TASKS = {
    "classifier": "Classification of images",
    "embedder": "Embedding of rows",
    "generator": "Generation of images",
    "stepper": "Prediction, step by step",
    "writer": "Generation of text",
}
MAKE = {
    "classifier": classifier,
    "embedder": embedder,
    "generator": generator,
    "stepper": stepper,
    "writer": writer,
}


class Page(HTMLParser):
    """What a browser makes of a page.

    Attributes:
        tags: Each start tag, with its attributes.
        text: All that stands between tags.
        blocks: What stands in each <pre>.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.blocks: list[str] = []
        self._in_block = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "pre":
            self._in_block = True
            self.blocks.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_block = self._in_block and tag != "pre"

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_block:
            self.blocks[-1] += data


def answered(tiny: TinyModel, inputs: dict[str, Array]) -> Golden:
    session = onnxruntime.InferenceSession(tiny.graph.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    return Golden(inputs, dict(zip(names, session.run(names, inputs), strict=True)))


def publish_tiny(models: Path, name: str) -> Path:
    """Publishes one of tests/tiny_models.py as recipes publish theirs."""
    tiny = MAKE[name]()
    assert tiny.card is not None
    signature = tiny.card.signature
    inputs = {spec.name: spec.role for spec in signature.inputs}
    outputs = {spec.name: spec.role for spec in signature.outputs}
    # The draft's last step describes the graph anew.
    del signature.inputs[:], signature.outputs[:]
    draft = Draft(
        name=name,
        graph=tiny.graph,
        golden=answered(tiny, INPUTS[name]),
        card=tiny.card,
        inputs=inputs,
        outputs=outputs,
        plots={"a-picture.png": encode_png(PICTURE)},
    )
    return publish_draft(draft, models)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a model of each task, beside files to call them with."""
    folder = tmp_path_factory.mktemp("reports")
    models = folder / "models"
    for name in MAKE:
        publish_tiny(models, name)
    texts = ["free money now", "win money", "dear friend, lunch?", "see you at noon"]
    spam = make_pipeline(TfidfVectorizer(), LogisticRegression(C=1000))
    spam.fit(texts, ["spam", "spam", "ham", "ham"])
    publish(spam, "spam", inputs={"text": texts}, models=models)
    rows = np.random.default_rng(0).normal(size=(4, 20)).astype(np.float32)
    publish(echo(TensorProto.FLOAT, ["n", 20]).graph, "wide", inputs={"x": rows}, models=models)
    # Written without a report, as an earlier version did.
    Publisher(models)("gallery", gallery())
    (folder / "photo.png").write_bytes(encode_png(PICTURE))
    np.save(folder / "rows.npy", np.ones((3, 4), np.float32))
    return models


@pytest.fixture(scope="module")
def address(models: Path) -> Iterator[str]:
    server = Server(Settings(models=models, port=0, metrics_port=0, threads=1))
    server.start()
    server.wait_loaded()
    yield server.address
    server.stop()


def page_of(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def report(card: pb.ModelCard, plots: Mapping[str, bytes] | None = None) -> str:
    """Returns the page of the classifier with another card, and plots."""
    golden = classifier().golden
    assert golden is not None
    return make_report("net", card, b"a model", golden, plots or {})


def card_of(**changes: object) -> pb.ModelCard:
    card = classifier().card
    assert card is not None
    card.MergeFrom(pb.ModelCard(**changes))  # type: ignore[arg-type]
    return card


def test_the_manifest_seals_the_report(models: Path) -> None:
    folder = models / "classifier" / "1"
    assert "report.html" in read_manifest(folder).files
    verify_manifest(folder)


def test_versions_are_served_with_a_report_and_without(models: Path, address: str) -> None:
    assert not (models / "gallery" / "1" / "report.html").exists()
    with Client(address) as client:
        assert {each.name for each in client.models()} == {each.name for each in models.iterdir()}


def test_the_page_fetches_and_runs_nothing(models: Path) -> None:
    for path in models.glob("*/1/report.html"):
        page = page_of(path.parent)
        tags = Page(page).tags
        assert {tag for tag, _ in tags}.isdisjoint({"script", "link", "iframe", "object", "form"})
        for _, attributes in tags:
            assert not any(key.startswith("on") or key == "href" for key in attributes)
            assert (attributes.get("src") or "data:image/png;base64,").startswith("data:image/png")
        assert "url(" not in page
        assert "@import" not in page
        policy = [attributes["content"] for _, attributes in tags if "http-equiv" in attributes]
        assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_the_page_is_for_phones_the_dark_and_paper(models: Path) -> None:
    page = page_of(models / "classifier" / "1")
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    assert "@media (max-width:" in page
    assert "@media (prefers-color-scheme: dark)" in page
    assert "@media print" in page


def test_no_text_becomes_markup() -> None:
    hostile = card_of(
        description=HOSTILE,
        recipe=HOSTILE,
        settings={HOSTILE: HOSTILE},
        labels=[HOSTILE],
        metrics={HOSTILE: 1.0},
        data=pb.DataSource(
            name=HOSTILE,
            origin=HOSTILE,
            license=HOSTILE,
            sha256=HOSTILE,
            test_rows=1,
            left_out={HOSTILE: 1},
        ),
        versions={HOSTILE: HOSTILE},
        reference=HOSTILE,
        judge=pb.PublishedModel(name=HOSTILE, version=1, sha256=HOSTILE),
        golden_source=HOSTILE,
        quantization=pb.Quantization(
            parent_sha256=HOSTILE,
            parent_metrics={HOSTILE: 1.0},
            differences={HOSTILE: pb.OutputDifference()},
        ),
    )
    for spec in (*hostile.signature.inputs, *hostile.signature.outputs):
        spec.name = HOSTILE
    hostile.signature.states.add(input=HOSTILE, output=HOSTILE)
    hostile.image.input = HOSTILE
    harmless = pb.ModelCard.FromString(
        hostile.SerializeToString().replace(HOSTILE.encode(), b"x" * len(HOSTILE))
    )
    golden = classifier().golden
    assert golden is not None
    page, other = (
        Page(make_report(text, card, b"", golden, {f"{text}.png": b""}))
        for text, card in ((HOSTILE, hostile), ("x" * len(HOSTILE), harmless))
    )
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in other.tags]
    assert page.text.count(HOSTILE) == other.text.count("x" * len(HOSTILE)) > 20


def test_equal_versions_have_equal_pages(models: Path) -> None:
    names = ["b", "a", "c"]
    pages = {
        report(
            card_of(
                metrics=dict.fromkeys(order, 0.5),
                settings=dict.fromkeys(order, "1"),
                versions=dict.fromkeys(order, "2"),
            ),
            dict.fromkeys(order, b"a picture"),
        )
        for order in (names, names[::-1])
    }
    assert len(pages) == 1
    again = publish_tiny(models.parent / "again", "classifier")
    assert page_of(again) == page_of(models / "classifier" / "1")


def test_plots_are_in_the_page() -> None:
    page = Page(report(card_of(), {"learning-curves.png": encode_png(PICTURE)}))
    ((_, image),) = [each for each in page.tags if each[0] == "img"]
    assert image["alt"] == "Learning curves"
    data = (image["src"] or "").removeprefix("data:image/png;base64,")
    assert base64.b64decode(data) == encode_png(PICTURE)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"data": pb.DataSource(name="mnist", test_rows=10_000)},
            "Measured on 10,000 test rows of mnist",
        ),
        (
            {"judge": pb.PublishedModel(name="mnist-cnn", version=3)},
            "As mnist-cnn, version 3, reads what this model draws.",
        ),
        ({"recipe": "xor"}, "Measured by the recipe xor."),
        ({}, "As stated by whoever published the model."),
    ],
)
def test_metrics_say_what_they_were_measured_on(changes: dict[str, object], sentence: str) -> None:
    text = Page(report(card_of(metrics={"accuracy": 0.98765}, **changes))).text
    assert sentence in text
    assert "0.9877" in text


def test_an_int8_version_stands_beside_its_parent() -> None:
    card = card_of(
        metrics={"accuracy": 0.97},
        parity_error=0.25,
        quantization=pb.Quantization(
            parent_version=4,
            parent_metrics={"accuracy": 0.98},
            calibration_rows=512,
            differences={"probabilities": pb.OutputDifference(max_absolute=0.1, same_class=0.5)},
        ),
    )
    text = Page(report(card)).text
    for words in (
        "Classification of images, 8-bit integers",
        "Version 4",
        "0.9700",
        "0.9800",
        "512 rows",
        "50.00%",
        "0.25 from the same graph in float arithmetic",
    ):
        assert words in text


def test_many_labels_are_folded_away() -> None:
    few, many = (
        report(card_of(labels=[f"class {number}" for number in range(count)])) for count in (9, 99)
    )
    assert "<details>" not in few
    assert "<details><summary>All 102 labels</summary>" in many  # with the classifier's three
    assert "class 98" in many


def test_what_there_is_not_is_left_out() -> None:
    card = pb.ModelCard(signature=card_of().signature)
    text = Page(report(card)).text
    for title in ("Metrics", "Plots", "Labels", "Data"):
        assert f"\n{title}\n" not in text
    assert "\nSignature\n" in text


@pytest.mark.parametrize("name", TASKS)
def test_the_task_follows_from_what_tensors_mean(name: str) -> None:
    card = MAKE[name]().card
    assert card is not None
    assert describe_task(card) == TASKS[name]


@pytest.mark.parametrize("name", [*MAKE, "spam", "wide"])
def test_the_calls_of_a_page_work(models: Path, address: str, name: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    serve, *calls, check = Page(page_of(models / name / "1")).blocks
    assert (serve, check) == ("forwardpass-serve models", "forwardpass-serve check models")
    assert calls
    for call in calls:
        environment = {**os.environ, "PATH": path}
        if not call.startswith("forwardpass embed"):  # which runs without a server
            environment["FORWARDPASS_SERVER"] = address
        is_python = call.startswith(("from", "import"))
        code = call.replace("127.0.0.1:8001", address)
        done = subprocess.run(
            [sys.executable, "-c", code] if is_python else ["bash", "-ec", code],
            cwd=models.parent,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, (call, done.stderr)
