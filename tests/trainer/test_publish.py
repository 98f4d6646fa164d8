"""What a reader of the repository sees, whatever happens to whoever writes in it."""

import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from forwardpass.artefact import Golden, verify_manifest
from forwardpass.trainer.errors import PublishError
from forwardpass.trainer.export.draft import with_card
from forwardpass.trainer.export.publish import publish
from forwardpass.trainer.export.published import newest_version
from forwardpass.v1 import model_card_pb2

GOLDEN = Golden({"x": np.zeros((2, 1), np.float32)}, {"y": np.ones((2, 1), np.float32)})
PLOTS = {"a.png": b"a picture"}

# Publishes once, and ends itself by SIGKILL at the n-th call that changes the disk.
KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from forwardpass.artefact import Golden
from forwardpass.trainer.export.publish import publish
count, seen = int(sys.argv[2]), 0

def killing(call):
    def killed(*arguments, **keywords):
        global seen
        seen += 1
        if seen == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **keywords)
    return killed

for name in ("mkdir", "fsync", "rename"):
    setattr(os, name, killing(getattr(os, name)))
golden = Golden({"x": np.zeros((2, 1), np.float32)}, {"y": np.ones((2, 1), np.float32)})
publish(Path(sys.argv[1]), "net", b"new" * 1000, golden, {"a.png": b"a picture"}, report="a page")
"""


def versions(models: Path) -> list[int]:
    """Asserts that every version a reader sees is whole, and returns their numbers."""
    folders = [path for path in (models / "net").iterdir() if not path.name.startswith(".")]
    for folder in folders:
        verify_manifest(folder)
    return sorted(int(folder.name) for folder in folders)


def publish_small(models: Path) -> Path:
    return publish(models, "net", b"a model", GOLDEN, PLOTS, report="a page")


def test_versions_count_up_and_stay_as_they_are(tmp_path: Path) -> None:
    first = publish_small(tmp_path)
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}

    assert publish_small(tmp_path).name == "2"
    assert versions(tmp_path) == [1, 2]
    assert {path: path.read_bytes() for path in before} == before
    assert sorted(path.name for path in first.iterdir()) == [
        "golden.npz",
        "manifest.json",
        "model.onnx",
        "plots",
        "report.html",
    ]


def test_a_number_is_never_given_again(tmp_path: Path) -> None:
    for _ in range(3):
        newest = publish_small(tmp_path)
    shutil.rmtree(newest)
    assert publish_small(tmp_path).name == "4"
    # It takes the folder of the model itself for a number to be forgotten.
    for version in ("1", "2", "4"):
        shutil.rmtree(tmp_path / "net" / version)
    assert publish_small(tmp_path).name == "5"


def test_a_record_that_says_nothing_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / ".publish.lock").write_text("what?")
    assert publish_small(tmp_path).name == "1"
    assert publish_small(tmp_path).name == "2"


def test_a_number_that_is_taken_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "net" / "7").mkdir(parents=True)
    (tmp_path / "net" / "7" / "notes.txt").write_text("not ours")

    assert publish_small(tmp_path).name == "8"
    assert (tmp_path / "net" / "7" / "notes.txt").exists()


def test_a_number_that_is_taken_at_the_last_moment_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def overtaken(source: Path, target: Path) -> None:
        if target.name == "1":
            target.mkdir()
            (target / "theirs").touch()
        rename(source, target)

    monkeypatch.setattr(os, "rename", overtaken)

    assert publish_small(tmp_path).name == "2"
    assert (tmp_path / "net" / "1" / "theirs").exists()


def test_publishers_of_one_model_take_turns(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(publish_small, [tmp_path] * 8))

    assert sorted(int(folder.name) for folder in folders) == versions(tmp_path)
    assert versions(tmp_path) == list(range(1, 9))


def test_the_newest_version_is_the_newest_whole_one(tmp_path: Path) -> None:
    assert newest_version(tmp_path, "net") is None
    whole = publish_small(tmp_path)
    damaged = publish_small(tmp_path)
    (damaged / "model.onnx").write_bytes(b"another")
    (tmp_path / "net" / "9").mkdir()

    assert newest_version(tmp_path, "net") == whole


def test_a_publisher_killed_at_any_step_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    publish_small(tmp_path)
    outcomes = []
    for count in range(1, 100):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(tmp_path), str(count)], check=False
        )
        outcomes.append(versions(tmp_path))
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL

    # Folders, files, manifest, rename: killed at each; only the last sync comes after the rename.
    assert len(outcomes) > 8
    assert [len(seen) for seen in outcomes[-3:]] == [1, 2, 3]
    # A number that was given to nobody is left out.
    assert outcomes[-3] == [1]
    assert outcomes[-2] == outcomes[-1][:2]
    assert not list(tmp_path.glob("net/.tmp-*"))


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "from forwardpass.trainer.errors import PublishError\n"
        + KILLED.replace("publish(Path", "try: publish(Path")
        + "except PublishError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), "0"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert "net could not be published" in done.stdout, done.stderr
    assert "File too large. Nothing of it was left" in done.stdout
    assert versions(tmp_path) == []
    assert not list(tmp_path.glob("net/.tmp-*"))


def test_a_full_disk_leaves_nothing_and_what_was_there(small_disk: Path) -> None:
    publish_small(small_disk)

    with pytest.raises(PublishError, match=r"No space left on device\. Nothing of it was left"):
        publish(small_disk, "net", bytes(1 << 20), GOLDEN, PLOTS, report="a page")

    assert versions(small_disk) == [1]
    assert not list(small_disk.glob("net/.tmp-*"))
    assert publish_small(small_disk).name == "2"


def test_t90_a_graph_that_no_server_loads_is_not_published() -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    for operator, domain in (("Steal", "evil.ops"), ("EPContext", "com.microsoft")):
        node = helper.make_node(operator, ["x"], ["y"], domain=domain)
        graph = helper.make_graph([node], "net", [value], [])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, 1)])
        with pytest.raises(PublishError, match=operator):
            with_card(model, model_card_pb2.ModelCard())
