"""What the benchmarks say of figures; the figures themselves are nobody's business here."""

import shutil
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import grpc
import numpy as np
import pytest
from cases.harness import predict
from tiny_models import Publisher, classifier

from benchmarks import __main__ as program
from benchmarks.builds import checked_out, constraints, find_commit, worktree
from benchmarks.counting import UNCOUNTED
from benchmarks.figures import RATE, SECONDS, Figure
from benchmarks.load import Load, rate_and_times
from benchmarks.plan import Plan
from benchmarks.questions import publish
from benchmarks.report import Failed, Table, ratio, write
from benchmarks.serving import serve
from benchmarks.sizing import (
    PREDICT_IMAGE,
    Network,
    limit_mebibytes,
    measure_network,
    pod_settings,
)
from benchmarks.streams import PREDICT_STREAM, stream_target
from forwardpass.v1.inference_service_pb2_grpc import InferenceServiceStub
from forwardpass.v1.model_service_pb2 import ModelReference

ROOT = Path(__file__).parents[1]
PAGE = """# Figures

<!-- make bench writes from here -->
old
<!-- to here -->

the end
"""


def interval(told: str) -> tuple[float, float, float]:
    median, low, high = (float(part.strip("[],")) for part in told.split())
    return median, low, high


def test_a_ratio_that_never_changes_has_no_width() -> None:
    assert ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0]) == "2.00 [2.00, 2.00]"


def test_a_ratio_is_taken_within_a_round() -> None:
    # A machine that halves its speed in the last round changes neither ratio nor interval.
    assert ratio([10.0, 10.0, 5.0], [20.0, 20.0, 10.0]) == "0.50 [0.50, 0.50]"


def test_nineteen_of_twenty_intervals_hold_what_is_true() -> None:
    random = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        noise = np.exp(random.normal(scale=0.2, size=9))
        median, low, high = interval(ratio((3 * noise).tolist(), [1.0] * 9))
        assert low <= median <= high
        held += low <= 3 <= high
    # The bootstrap of a median over nine rounds holds about as often as it says.
    assert 0.9 <= held / 400 <= 1


def test_a_rate_leaves_the_ends_of_a_run_out() -> None:
    # A call a millisecond, but for a start of a second and an end of another.
    ends = np.concatenate([[0.0], 1e6 + 1e3 * np.arange(98), [3e6]])
    rows = np.stack([ends - 500.0, np.full(100, 200.0), np.full(100, 500.0)], axis=1)
    load: Load = rate_and_times(rows)
    assert load.rate == pytest.approx(1000.0)
    assert load.milliseconds.tolist() == [0.5] * 100
    # Of streams it is the answers that count.
    assert rate_and_times(rows, answers=7).rate == pytest.approx(7000.0)


def test_the_page_keeps_what_others_wrote(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE, encoding="utf-8")
    table = Table("Speed", "Measured with care.", ["what", "figure"], [["calls", "7"]])
    write(page, "A machine.", [table, Failed("soak", "no server")])
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Figures\n\n<!-- make bench writes from here -->\n\nA machine.")
    assert text.endswith("<!-- to here -->\n\nthe end\n")
    assert "old" not in text
    assert (
        "### Speed\n\nMeasured with care.\n\n| what | figure |\n| --- | --- |\n| calls | 7 |"
        in text
    )
    assert "### soak\n\nNot measured:\n\n```\nno server\n```" in text


def test_a_measurement_that_fails_does_not_lose_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    table = Table("Speed", "", ["what"], [["7"]])

    def fail(plan: Plan) -> Sequence[Table | Failed]:
        raise SystemExit("it answers wrongly")

    page = tmp_path / "page.md"
    page.write_text(PAGE, encoding="utf-8")
    monkeypatch.setattr(program, "PAGE", page)
    monkeypatch.setattr(program, "MEASUREMENTS", {"bad": fail, "good": lambda plan: [table]})
    monkeypatch.setattr("sys.argv", ["benchmarks", str(tmp_path)])
    monkeypatch.setattr("os.sched_setaffinity", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 1
    text = page.read_text(encoding="utf-8")
    assert "SystemExit: it answers wrongly" in text
    assert "| 7 |" in text
    assert "bad was not measured" in capfd.readouterr().out


def test_the_server_that_does_not_count_answers_all_the_same(repository: Publisher) -> None:
    repository("clf", classifier())
    request = predict("clf", {"image": np.zeros((1, 4, 4, 1), np.uint8)})
    with serve(repository.root, program=UNCOUNTED) as uncounted:
        with grpc.insecure_channel(uncounted.address) as channel:
            assert InferenceServiceStub(channel).Predict(request).model.name == "clf"
        assert not uncounted.handled()


def figure(current: Sequence[float]) -> Figure:
    return Figure("calls", RATE, [100.0] * len(current), list(current))


def test_a_row_falls_short_when_its_whole_interval_is_below_the_limit() -> None:
    assert figure([96.0] * 9).falls_short()
    assert figure([96.0] * 9).cells()[1:] == [
        "100/s",
        "96/s",
        "0.960 [0.960, 0.960]",
        "FALLS SHORT",
    ]
    # At the limit, and where the interval reaches across it, there is doubt.
    assert not figure([97.0] * 9).falls_short()
    assert not figure([80.0, 80.0, 80.0, 120.0, 120.0]).falls_short()
    assert not figure([120.0] * 9).falls_short()


def test_of_seconds_fewer_are_better() -> None:
    slower = Figure("start", SECONDS)
    for _ in range(9):
        slower.add(base=1.0, current=1.25)
    assert slower.ratio().median == pytest.approx(0.8)
    assert slower.falls_short()


def test_constraints_have_the_versions_of_all_packages_but_ours() -> None:
    lines = constraints().splitlines()
    assert f"numpy=={version('numpy')}" in lines
    assert f"onnxruntime=={version('onnxruntime')}" in lines
    assert not [line for line in lines if line.startswith("forwardpass")]


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with a commit."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "--quiet")
    git(folder, "config", "user.name", "A Tester")
    git(folder, "config", "user.email", "tester@example.org")
    (folder / "speed").write_text("fast", encoding="utf-8")
    git(folder, "add", "speed")
    git(folder, "commit", "--quiet", "--message", "Fast")
    return folder


def test_a_worktree_has_the_commit_and_goes_again(checkout: Path, tmp_path: Path) -> None:
    (checkout / "speed").write_text("slow", encoding="utf-8")
    folder = tmp_path / "there"
    with worktree(checkout, find_commit(checkout, "HEAD"), folder):
        assert (folder / "speed").read_text(encoding="utf-8") == "fast"
        # What building leaves there does not keep it.
        (folder / "built").touch()
    assert not folder.exists()
    assert len(git(checkout, "worktree", "list").splitlines()) == 1


def test_a_worktree_goes_when_what_it_is_for_is_interrupted(checkout: Path, tmp_path: Path) -> None:
    folder = tmp_path / "there"
    with (
        pytest.raises(KeyboardInterrupt),
        worktree(checkout, find_commit(checkout, "HEAD"), folder),
    ):
        raise KeyboardInterrupt
    assert not folder.exists()
    assert len(git(checkout, "worktree", "list").splitlines()) == 1


def test_uncommitted_changes_are_measured_and_stay(checkout: Path, tmp_path: Path) -> None:
    head = find_commit(checkout, "HEAD")
    assert checked_out(checkout) == head
    (checkout / "speed").write_text("slow", encoding="utf-8")
    changed = checked_out(checkout)
    assert changed.told == f"{head.told} with uncommitted changes"
    with worktree(checkout, changed, tmp_path / "there"):
        assert (tmp_path / "there" / "speed").read_text(encoding="utf-8") == "slow"
    assert (checkout / "speed").read_text(encoding="utf-8") == "slow"
    assert git(checkout, "status", "--short") == "M speed"
    assert find_commit(checkout, "HEAD") == head


def test_a_commit_that_is_not_there_is_named(checkout: Path) -> None:
    with pytest.raises(SystemExit, match="elsewhere"):
        find_commit(checkout, "elsewhere")


def test_all_that_two_builds_are_asked_is_answered_rightly(tmp_path: Path) -> None:
    questions = [question for group in publish(tmp_path).values() for question in group]
    assert len({question.what for question in questions}) == len(questions)
    with serve(tmp_path) as serving:
        for question in questions:
            assert question.target(serving.address).answer_bytes > 0
        serving.check_handled()


def test_a_stream_that_is_answered_wrongly_is_not_measured(repository: Publisher) -> None:
    repository("clf", classifier())
    message = PREDICT_STREAM.encode(ModelReference(name="clf"), np.zeros((1, 4, 4, 1), np.uint8))
    with (
        serve(repository.root) as serving,
        pytest.raises(SystemExit, match="PredictStream wrongly"),
    ):
        stream_target(serving.address, PREDICT_STREAM, message, np.full((1, 3), 9.0), 10)


def test_a_pods_limit_is_that_of_the_formula_in_the_readme() -> None:
    readme = (ROOT / "deploy/README.md").read_text(encoding="utf-8")
    formula = "memory limit = 100 MiB + 4 x the model files + 16 x the longest message"
    assert formula in readme
    message = int(pod_settings()["max_message_bytes"])
    assert limit_mebibytes(0, message) == 100 + 16 * 8
    assert limit_mebibytes(10 * 2**20, message) == 100 + 4 * 10 + 16 * 8


def test_what_a_pod_takes_is_measured_beside_its_limit(
    repository: Publisher, tmp_path: Path
) -> None:
    if shutil.which("h2load") is None:
        pytest.skip("h2load is not installed")
    version = repository("clf", classifier())
    network = Network("clf", "float", version, (4, 4, 1), PREDICT_IMAGE, "probabilities")
    name, call, _, *memory, limit, rate = measure_network(network, tmp_path / "pod", 1)
    assert (name, call, limit) == ("clf, float", "Predict", "228")
    at_rest, loaded, most = map(float, memory)
    assert 0 < at_rest <= most
    assert 0 < loaded <= most < 228
    assert float(rate.replace(",", "")) > 0


def test_a_server_that_does_not_start_says_why(repository: Publisher) -> None:
    repository("clf", classifier())
    with pytest.raises(SystemExit, match="unrecognized argument: --no-such-flag"):
        serve(repository.root, "--no-such-flag")
