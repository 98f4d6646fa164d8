"""From a CSV file of one's own to answers for raw rows, labels included."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from training import EXAMPLES, Publish

from forwardpass.client import Client
from forwardpass.server.app import Server
from forwardpass.server.settings import Settings


@pytest.fixture(scope="module")
def address(publish_once: Publish, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    models = tmp_path_factory.mktemp("models")
    for name in ("table", "text-classifier", "forecaster"):
        shutil.copytree(publish_once(name).folder, models / name / "1")
    server = Server(Settings(models=models, port=0, metrics_port=0, threads=1))
    server.start()
    server.wait_loaded()
    yield f"127.0.0.1:{server.port}"
    server.stop()


def test_a_data_frame_of_raw_rows_is_answered_with_labels(address: str) -> None:
    frame = pd.read_csv(EXAMPLES / "penguins.csv")
    assert frame.isna().any(axis=None)
    rows = frame.drop(columns="species")
    rows["sex"] = rows["sex"].fillna("")  # in a column of numbers NaN stays
    with Client(address) as client:
        classes = client.predict("table", rows, top_k=1).classes
    right = [told[0].label == true for told, true in zip(classes, frame["species"], strict=True)]
    assert sum(right) > 0.9 * len(frame)


def test_a_row_is_answered_on_the_command_line(address: str, tmp_path: Path) -> None:
    row = pd.read_csv(EXAMPLES / "penguins.csv").iloc[0].drop("species")
    file = tmp_path / "row.json"
    values = json.loads(row.to_json())
    file.write_text(json.dumps({name: [[value]] for name, value in values.items()}))
    program = Path(sys.executable).with_name("forwardpass")
    command = [str(program), "predict", "table", str(file), "--server", address, "--json"]
    told = subprocess.run(command, check=True, capture_output=True, text=True)
    ((best, *_),) = (row["classes"] for row in json.loads(told.stdout)["rows"])
    assert best["label"] == "Adelie"


def test_a_text_is_answered_with_a_label(address: str) -> None:
    with Client(address) as client:
        told = client.predict("text-classifier", texts=["Where is my parcel?"], top_k=3)
    assert {each.label for each in told.classes[0]} == {"delivery", "praise", "refund"}


def test_a_series_of_any_length_is_forecast(address: str) -> None:
    with Client(address) as client:
        for length in (3, 100):
            answer = client.predict("forecaster", {"series": [[10.0] * length]})
            assert answer.outputs["forecast"].shape == (1, length)
