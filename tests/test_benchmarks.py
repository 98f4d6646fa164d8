"""What the benchmarks say of figures; the figures themselves are nobody's business here."""

from collections.abc import Sequence
from pathlib import Path

import grpc
import numpy as np
import pytest
from cases.harness import predict
from tiny_models import Publisher, classifier

from benchmarks import __main__ as program
from benchmarks.counting import UNCOUNTED
from benchmarks.load import Load, rate_and_times
from benchmarks.plan import Plan
from benchmarks.report import Failed, Table, ratio, write
from benchmarks.serving import serve
from forwardpass.v1.inference_service_pb2_grpc import InferenceServiceStub

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
