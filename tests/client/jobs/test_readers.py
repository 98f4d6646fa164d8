"""Everybody reads a job's tables: pyarrow from 14 on, pandas, polars, DuckDB, Hugging Face's."""

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from pyarrow import parquet
from run_commands import Command

from .conftest import MakePictures

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]

# Each prints [rows, the first vector, the first path] of the folder that it is given.
SCRIPTS = {
    "pyarrow": """
import pyarrow.parquet as pq
table = pq.read_table(folder)
found = [len(table), table["embedding"][0].as_py(), table["path"][0].as_py()]
""",
    "pandas": """
import pandas
table = pandas.read_parquet(folder)
found = [len(table), table["embedding"][0].tolist(), table["path"][0]]
""",
    "polars": """
import polars
table = polars.read_parquet(folder + "/*.parquet")
found = [len(table), table["embedding"][0].to_list(), table["path"][0]]
""",
    "duckdb": """
import duckdb
((rows,),) = duckdb.sql(f"select count(*) from '{folder}/*.parquet'").fetchall()
query = f"select embedding, path from '{folder}/*.parquet' order by path limit 1"
((vector, path),) = duckdb.sql(query).fetchall()
found = [rows, list(vector), path]
""",
    "datasets": """
import datasets
table = datasets.load_dataset(
    "parquet", data_files=folder + "/*.parquet", split="train", cache_dir=folder + "-cache"
)
found = [len(table), table[0]["embedding"], table[0]["path"]]
""",
}
_FRAME = """
import json, sys
folder = sys.argv[1]
{script}
print(json.dumps([found[0], [float(x) for x in found[1]], found[2].decode()]))
"""


@pytest.fixture
def vectors(
    run_command: Command,
    model: Path,
    pictures: MakePictures,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A job's vectors, of pictures among which one is broken: once that made a file unreadable."""
    monkeypatch.delenv("FORWARDPASS_SERVER", raising=False)
    monkeypatch.setattr("forwardpass.client.jobs.plan.MAX_SHARD_ROWS", 32)
    root = pictures(100)
    (root / "cats" / "broken.png").write_bytes(b"x")
    assert run_command("embed", root, "--model", model, "--out", tmp_path / "out").code == 7
    return tmp_path / "out" / "vectors"


def read(python: str, script: str, vectors: Path) -> object:
    ended = subprocess.run(
        [python, "-c", _FRAME.format(script=SCRIPTS[script]), str(vectors)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


def expected(vectors: Path) -> object:
    table = parquet.read_table(vectors)
    return [100, table["embedding"][0].as_py(), table["path"][0].as_py().decode()]


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_newest_read_it(vectors: Path, script: str) -> None:
    assert read(sys.executable, script, vectors) == expected(vectors)


@pytest.mark.parametrize("version", ["14.0.2", "16.1.0"])
def test_earlier_pyarrow_reads_it(vectors: Path, tmp_path: Path, version: str) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    python = str(tmp_path / "env" / "bin" / "python")
    packages = [f"pyarrow=={version}", "numpy<2", "pandas"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    for script in ("pyarrow", "pandas"):
        assert read(python, script, vectors) == expected(vectors)
