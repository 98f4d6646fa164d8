"""What is kept from one start to the next: found where nothing changed, and never believed blindly.

A sandbox that always crashes shows whether it is asked: a graph that gets past it skipped it.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import StartServer
from onnx.external_data_helper import set_external_data
from structlog.testing import capture_logs
from tiny_models import Publisher, TinyModel, classifier, embedder, generator

from forwardpass.artefact import GOLDEN_FILE, Golden, load_golden, save_golden, write_manifest
from forwardpass.server.build import open_repository
from forwardpass.server.loading import cache, sandbox
from forwardpass.server.loading.batch_curve import CurvePoint
from forwardpass.server.loading.cache import Findings, VerificationCache, open_cache
from forwardpass.server.loading.config import ModelConfig
from forwardpass.server.loading.files import RepositoryFiles
from forwardpass.server.loading.independence import Independence
from forwardpass.server.loading.loaded import Loaded
from forwardpass.server.loading.source import Source, read_source
from forwardpass.server.process import cpu
from forwardpass.server.repository.repository import Repository
from forwardpass.server.settings import Settings
from forwardpass.v1.inference_service_pb2 import PredictRequest
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.wire import to_tensor

CRASH = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"]
CRASHED = "loading it or running it once crashed with SIGSEGV"
FINDINGS = Findings(
    [CurvePoint(1, 0.001), CurvePoint(2, 0.002)],
    {},
    Independence(is_shown=True, rows=3, difference=1e-7),
)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the cache, which the environment turns off for other tests."""
    monkeypatch.delenv("FORWARDPASS_CACHE_DIR")
    return tmp_path / "kept"


@pytest.fixture
def crashing_sandbox(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Has every sandbox that is started from then on crash."""
    return lambda: monkeypatch.setattr(sandbox, "_COMMAND", CRASH)


@contextmanager
def opened(repository: Publisher, kept: Path, **settings: Any) -> Iterator[Repository]:
    """Loads every model as a server does, with the cache."""
    chosen: dict[str, Any] = {"threads": 1, "cache_dir": kept, **settings}
    loading = open_repository(Settings(models=repository.root, **chosen))
    loading.reconcile(settle=False)
    yield loading
    loading.close()


def loaded_of(repository: Repository) -> Loaded | None:
    """What the only version has once it is ready."""
    ((version,),) = (model.versions for model in repository.models.values())
    return version.loaded


def is_known(repository: Publisher, kept: Path, **settings: Any) -> bool:
    """Whether a load needed no sandbox; either way it must succeed."""
    with opened(repository, kept, **settings) as loading:
        loaded = loaded_of(loading)
        assert loaded is not None
        return loaded.cached


def reason_of_failure(repository: Publisher, kept: Path, **settings: Any) -> str:
    with opened(repository, kept, **settings) as loading:
        ((version,),) = (model.versions for model in loading.models.values())
        assert version.failed
        return version.state_reason


def the_entry(kept: Path) -> Path:
    (path,) = kept.iterdir()
    return path


def events(lines: Sequence[MutableMapping[str, Any]], name: str) -> list[dict[str, Any]]:
    return [dict(line) for line in lines if line["event"] == name]


def test_a_second_start_needs_no_sandbox_and_no_measuring(
    repository: Publisher, kept: Path, crashing_sandbox: Callable[[], None]
) -> None:
    repository("clf", classifier())
    with capture_logs() as lines, opened(repository, kept) as loading:
        first = loaded_of(loading)
    crashing_sandbox()
    with capture_logs() as later_lines, opened(repository, kept) as loading:
        second = loaded_of(loading)
    assert first is not None
    assert second is not None
    assert (first.cached, second.cached) == (False, True)
    assert events(lines, "model_ready")[0]["cached"] is False
    assert events(later_lines, "model_ready")[0]["cached"] is True
    assert list(second.curve) == list(first.curve)
    assert len(first.curve) >= 2
    assert second.batching == first.batching
    # The golden data were replayed all the same.
    assert first.golden is not None
    assert second.golden == first.golden


def test_a_server_that_knows_its_models_starts_no_sandbox(
    repository: Publisher,
    kept: Path,
    start_server: StartServer,
    crashing_sandbox: Callable[[], None],
) -> None:
    repository("clf", classifier())
    start_server(sandbox=True, cache_dir=kept)
    crashing_sandbox()
    assert start_server(sandbox=True, cache_dir=kept).server.readiness.ready
    # But a model that it does not know has to get past one.
    repository("emb", embedder())
    running = start_server(sandbox=True, cache_dir=kept)
    states = {
        name: m.versions[0].state_reason for name, m in running.server._repository.models.items()
    }
    assert states == {"clf": "", "emb": CRASHED}


def test_answers_are_the_same_bytes(
    repository: Publisher, kept: Path, start_server: StartServer
) -> None:
    repository("clf", classifier())
    repository("gen", generator())
    random = np.random.default_rng(3)
    requests = [
        PredictRequest(model=ModelReference(name=name), inputs={key: to_tensor(make(rows))})
        for rows in (1, 3, 64)
        for name, key, make in (
            ("clf", "image", lambda n: random.integers(0, 256, (n, 4, 4, 1), np.uint8)),
            ("gen", "latent", lambda n: random.normal(size=(n, 5)).astype(np.float32)),
        )
    ]
    answers = []
    for where in ("off", kept, kept):
        running = start_server(sandbox=True, cache_dir=where)
        answers.append([dict(running.inference.Predict(request).outputs) for request in requests])
    without, cold, warm = answers
    assert without == cold == warm


def another_release(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(cache, "release", lambda: "0.0.0")


def another_onnxruntime(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(cache, "ONNXRUNTIME_VERSION", "1.0.0")


def another_processor(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    flags = next(line for line in lines if line.startswith(("flags", "Features")))
    cpuinfo = folder.parents[2] / "cpuinfo"
    cpuinfo.write_text("\n".join(lines).replace(flags, f"{flags} teleport"))
    monkeypatch.setattr(cpu, "CPUINFO", cpuinfo)


def another_model(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    shutil.rmtree(folder)
    Publisher(folder.parents[1])("clf", classifier(bias=1.0))


def other_golden_data(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    golden = load_golden(folder / GOLDEN_FILE)
    parts = [{name: a[:-1] for name, a in t.items()} for t in (golden.inputs, golden.outputs)]
    save_golden(folder / GOLDEN_FILE, Golden(*parts))
    write_manifest(folder)


def another_configuration(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder.parent / "config.pbtxt").write_text("max_batch_size: 16")


Change = Callable[[pytest.MonkeyPatch, Path], None]


@pytest.mark.parametrize(
    "change",
    [
        another_release,
        another_onnxruntime,
        another_processor,
        another_model,
        other_golden_data,
        another_configuration,
    ],
)
def test_whatever_a_result_depends_on_leads_to_another_entry(
    repository: Publisher,
    kept: Path,
    monkeypatch: pytest.MonkeyPatch,
    crashing_sandbox: Callable[[], None],
    change: Change,
) -> None:
    folder = repository("clf", classifier())
    assert not is_known(repository, kept)
    assert is_known(repository, kept)
    change(monkeypatch, folder)
    assert not is_known(repository, kept)
    crashing_sandbox()
    assert is_known(repository, kept)
    assert len(list(kept.iterdir())) == 2


@pytest.mark.parametrize(
    "settings",
    [{"threads": 2}, {"sandbox_bytes": 1 << 30}, {"sandbox_seconds": 50.0}, {"sandbox": False}],
)
def test_whatever_the_server_is_told_leads_to_another_entry(
    repository: Publisher, kept: Path, settings: dict[str, Any]
) -> None:
    repository("clf", classifier())
    assert not is_known(repository, kept, **settings)
    # The verdict of no sandbox is not one.
    assert not is_known(repository, kept)
    assert is_known(repository, kept)
    assert is_known(repository, kept, **settings)


def test_weights_in_a_file_of_their_own_count(repository: Publisher, kept: Path) -> None:
    graph = onnx.ModelProto()
    graph.CopyFrom(embedder().graph)
    (weights,) = graph.graph.initializer
    data = weights.raw_data
    set_external_data(weights, "weights.bin")
    weights.ClearField("raw_data")
    file = repository("emb", TinyModel(graph)) / "weights.bin"
    file.write_bytes(data)
    assert not is_known(repository, kept)
    assert is_known(repository, kept)
    file.write_bytes(data[::-1])
    assert not is_known(repository, kept)


def cut_short(entry: Path) -> None:
    entry.write_bytes(entry.read_bytes()[:-10])


def empty(entry: Path) -> None:
    entry.write_bytes(b"")


def no_text(entry: Path) -> None:
    entry.write_bytes(b"\xff" * 100)


def another_document(entry: Path) -> None:
    entry.write_text("[1, 2]")


def of_another_model(entry: Path) -> None:
    document = json.loads(entry.read_text())
    document["facts"]["model"] = "0" * 64
    entry.write_text(json.dumps(document))


def with_curve(*points: Sequence[object]) -> Callable[[Path], None]:
    def change(entry: Path) -> None:
        document = json.loads(entry.read_text())
        document["curve"] = points
        entry.write_text(json.dumps(document))

    return change


def nested(entry: Path) -> None:
    entry.write_text("[" * 50_000)


def huge(entry: Path) -> None:
    entry.write_text(entry.read_text() + " " * (1 << 17))


def a_link(entry: Path) -> None:
    entry.rename(entry.with_name("elsewhere"))
    entry.symlink_to(entry.with_name("elsewhere"))


def open_to_others(entry: Path) -> None:
    entry.chmod(0o666)


@pytest.mark.parametrize(
    "damage",
    [
        cut_short,
        empty,
        no_text,
        another_document,
        of_another_model,
        with_curve((1, "fast")),
        with_curve((1, 0.1), (3, 0.2)),
        with_curve((1, -0.1)),
        with_curve((1, float("nan"))),
        with_curve((1, 10**400)),
        with_curve((1, 0.1, 0.2)),
        nested,
        huge,
        a_link,
        open_to_others,
    ],
)
def test_an_entry_that_is_not_as_it_was_written_is_passed_over_and_replaced(
    repository: Publisher,
    kept: Path,
    crashing_sandbox: Callable[[], None],
    damage: Callable[[Path], None],
) -> None:
    repository("clf", classifier())
    assert not is_known(repository, kept)
    damage(the_entry(kept))
    with capture_logs() as lines:
        assert not is_known(repository, kept)
    (line,) = events(lines, "cache_entry_ignored")
    assert line["reason"]
    crashing_sandbox()
    assert is_known(repository, kept)


def test_a_version_that_fails_its_golden_check_is_not_kept(
    repository: Publisher, kept: Path, crashing_sandbox: Callable[[], None]
) -> None:
    folder = repository("clf", classifier())
    images = np.zeros((2, 4, 4, 1), np.uint8)
    wrong = np.array([[0.5, 0.25, 0.25]] * 2, np.float32)
    save_golden(folder / GOLDEN_FILE, Golden({"image": images}, {"probabilities": wrong}))
    write_manifest(folder)
    assert "golden check" in reason_of_failure(repository, kept)
    assert list(kept.iterdir()) == []
    # Were it kept all the same, it would fail as before.
    with opened(repository, kept) as loading:
        store = loading._options.cache
        assert store is not None
        files = RepositoryFiles(repository.root)
        store.keep(read_source(files, folder, manifest_required=True), ModelConfig(), FINDINGS)
    crashing_sandbox()
    assert "golden check" in reason_of_failure(repository, kept)


def test_a_graph_that_kills_its_sandbox_is_not_kept(
    repository: Publisher, kept: Path, crashing_sandbox: Callable[[], None]
) -> None:
    repository("clf", classifier())
    crashing_sandbox()
    assert reason_of_failure(repository, kept) == CRASHED
    assert list(kept.iterdir()) == []


def below_a_file(kept: Path) -> Path:
    kept.write_bytes(b"")
    return kept / "below"


def open_to_all(kept: Path) -> Path:
    kept.mkdir()
    kept.chmod(0o777)
    return kept


def open_to_a_group(kept: Path) -> Path:
    kept.mkdir()
    kept.chmod(0o770)
    return kept


def of_somebody_else(kept: Path) -> Path:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    kept.mkdir()
    os.chown(kept, 12345, 12345)
    return kept


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (below_a_file, "Not a directory"),
        (open_to_all, "others may write to it: its mode is 777"),
        (open_to_a_group, "others may write to it: its mode is 770"),
        (of_somebody_else, "it belongs to user 12345, not to this one"),
    ],
)
def test_a_folder_that_cannot_be_trusted_is_not_used(
    repository: Publisher, kept: Path, make: Callable[[Path], Path], reason: str
) -> None:
    repository("clf", classifier())
    folder = make(kept)
    for _ in range(2):
        with capture_logs() as lines:
            assert not is_known(repository, folder)
        (line,) = events(lines, "no_cache")
        assert reason in line["reason"]
    assert not folder.is_dir() or not list(folder.iterdir())


def test_what_cannot_be_written_is_told_once_and_stops_nothing(
    repository: Publisher, kept: Path
) -> None:
    repository("clf", classifier())
    repository("emb", embedder())
    settings = Settings(models=repository.root, threads=1, cache_dir=kept)
    with capture_logs() as lines:
        loading = open_repository(settings)
        kept.rmdir()
        loading.reconcile(settle=False)
        assert all(model.ready for model in loading.models.values())
        loading.close()
    (line,) = events(lines, "cache_not_written")
    assert line["reason"] == "No such file or directory"


def test_a_check_finds_everything_out_again_for_the_next_start(
    repository: Publisher, kept: Path, crashing_sandbox: Callable[[], None]
) -> None:
    repository("clf", classifier())
    assert not is_known(repository, kept)
    before = json.loads(the_entry(kept).read_text())
    with_curve((1, 0.25))(the_entry(kept))
    code = "from forwardpass.server.cli import main; main()"
    flags = ["check", str(repository.root), "--threads", "1", "--cache-dir", str(kept)]
    command = [sys.executable, "-c", code, *flags]
    printed = subprocess.run(command, stdout=subprocess.PIPE, timeout=60, check=True).stdout
    after = json.loads(the_entry(kept).read_text())
    assert after["facts"] == before["facts"]
    curve = [{"rows": rows, "seconds": round(seconds, 7)} for rows, seconds in after["curve"]]
    assert json.loads(printed)["curve"] == curve
    assert len(curve) >= 2
    crashing_sandbox()
    assert is_known(repository, kept)


def source_of(number: int) -> Source:
    """Another source for each number."""
    digest = number.to_bytes(32)
    return Source(
        b"", {}, digest.hex(), None, "", digest, frozenset(), has_control_flow=False, divides=False
    )


def test_t129_a_repository_of_many_versions_finds_them_all_again(kept: Path) -> None:
    store, config = VerificationCache(kept, {}), ModelConfig()
    sources = [source_of(number) for number in range(300)]
    store.expect(len(sources))
    for source in sources:
        store.keep(source, config, FINDINGS)
    # At the next start one of them is new, and is kept before the others are looked for.
    store = VerificationCache(kept, {})
    store.expect(len(sources) + 1)
    store.keep(source_of(300), config, FINDINGS)
    assert [store.find(source, config) for source in sources] == [FINDINGS] * 300
    # Where there are few, their number is bounded.
    store = VerificationCache(kept, {})
    store.expect(1)
    store.keep(source_of(301), config, FINDINGS)
    assert len(list(kept.iterdir())) == 256


def test_the_least_used_entries_go(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_MAX_ENTRIES", 3)
    store, config = VerificationCache(kept, {}), ModelConfig()
    store.expect(0)
    sources = [source_of(number) for number in range(4)]
    (kept / "notes.txt").write_text("of somebody else")
    for source in sources[:3]:
        store.keep(source, config, FINDINGS)
        # Times of change that no clock's resolution blurs.
        for path in kept.glob("*.json"):
            earlier = path.stat().st_mtime_ns - 10**9
            os.utime(path, ns=(earlier, earlier))
    assert store.find(sources[0], config) == FINDINGS
    store.keep(sources[3], config, FINDINGS)
    assert [store.find(source, config) for source in sources] == [
        FINDINGS,
        None,
        FINDINGS,
        FINDINGS,
    ]
    assert (kept / "notes.txt").exists()


def test_the_folder_is_the_user_s_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert open_cache("off", {}) is None
    assert list(tmp_path.iterdir()) == []
    assert open_cache("auto", {}) is not None
    folder = tmp_path / ".cache" / "forwardpass" / "verified"
    assert folder.stat().st_mode & 0o777 == 0o700
    for base, expected in (("elsewhere", folder), (str(tmp_path / "xdg"), tmp_path / "xdg")):
        monkeypatch.setenv("XDG_CACHE_HOME", base)
        assert open_cache("auto", {}) is not None
        assert expected.is_dir()
