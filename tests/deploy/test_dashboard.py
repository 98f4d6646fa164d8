"""The dashboard: every query of it gives the right numbers of calls that a test has made."""

import importlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from certificates import Authority
from server.test_process import ServerProcess, serving, steps
from tiny_models import Publisher, busy, classifier

from forwardpass.server.metrics.counters import SECONDS
from forwardpass.v1.inference_service_pb2 import PredictRequest
from forwardpass.v1.inference_service_pb2_grpc import InferenceServiceStub
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.wire import to_tensor

from .conftest import FindTool
from .prometheus import PATIENCE, Prometheus, Values, labelled
from .sources import ROOT, render

FILE = ROOT / "deploy/grafana/forwardpass.json"
DASHBOARD: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
JOB = "inference/forwardpass"
# Grafana's units that are used here; it shows any other text as it is.
UNITS = {"none", "s", "reqps", "bytes", "percentunit"}
# What a round of calls consists of.
ROWS, ANSWERED, WRONG, REFUSED = 3, 20, 7, 5
# A call whose run is stopped, and one that waits for it.
LEFT = 2
# When the server last answered.
SCRAPED_AT = "timestamp(forwardpass_ready)"
METHOD = labelled(grpc_service="forwardpass.v1.InferenceService", grpc_method="Predict")
CLF, BUSY = (labelled(model=name, version="1") for name in ("clf", "busy"))
# What a query is to give for one set of labels: a number, or what tells whether it may be.
Expected = Mapping[frozenset[tuple[str, str]], Any]


def read_by_grafana(dashboard: dict[str, Any]) -> Any:
    """Returns what is left of a dashboard once Grafana's own models have read it."""
    name = "grafana_foundation_sdk"
    models: Any = pytest.importorskip(f"{name}.models.dashboard", reason=f"{name} is not installed")
    encoder: Any = importlib.import_module(f"{name}.cog.encoder").JSONEncoder()
    return json.loads(encoder.encode(models.Dashboard.from_json(dashboard)))


def lost(given: Any, kept: Any, path: str = "") -> Iterator[str]:
    """Yields where a value stands that is not among those that were kept, or is another."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, value in given.items():
            yield from lost(value, kept.get(key), f"{path}/{key}")
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for index, (value, one) in enumerate(zip(given, kept, strict=True)):
            yield from lost(value, one, f"{path}/{index}")
    elif given != kept:
        yield path


def test_grafana_knows_every_field() -> None:
    assert list(lost(DASHBOARD, read_by_grafana(DASHBOARD))) == []
    misspelt = {**DASHBOARD, "tittle": "forwardpass"}
    assert list(lost(misspelt, read_by_grafana(misspelt))) == ["/tittle"]


def texts() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        yield panel["title"]
        if panel["type"] != "row":
            yield panel["description"]


def test_every_panel_says_what_it_shows_and_in_which_unit() -> None:
    for text in texts():
        assert text[0].isupper(), text
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert all(target["legendFormat"] for target in panel["targets"])
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_panels_lie_beside_one_another() -> None:
    def cells(panel: Mapping[str, Any]) -> set[tuple[int, int]]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        return {
            (place["x"] + column, place["y"] + line)
            for column in range(place["w"])
            for line in range(place["h"])
        }

    for one, other in combinations(DASHBOARD["panels"], 2):
        assert not cells(one) & cells(other), (one["title"], other["title"])


def test_every_query_asks_the_prometheus_that_is_chosen() -> None:
    assert VARIABLES["datasource"]["query"] == "prometheus"
    places = [DASHBOARD, *PANELS, *(target for panel in PANELS for target in panel["targets"])]
    places += [one for name, one in VARIABLES.items() if name != "datasource"]
    for place in places[1:]:
        assert place["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_kustomize_makes_a_config_map_of_it(find_tool: FindTool) -> None:
    made = render(find_tool("kubectl"), FILE.parent).get("ConfigMap")
    assert made["metadata"]["labels"] == {"grafana_dashboard": "1"}
    assert json.loads(made["data"][FILE.name]) == DASHBOARD


class Caller:
    """Makes rounds of calls, all alike, and keeps what they tell.

    Args:
        channel: To the server.
        prometheus: Scrapes it.

    Attributes:
        rounds: How many have been made.
        phases: Seconds of the answered ones of the last round in each phase.
    """

    def __init__(self, channel: grpc.Channel, prometheus: Prometheus) -> None:
        self._stub: Any = InferenceServiceStub(channel)
        self._prometheus = prometheus
        self.rounds = 0
        self.phases: dict[str, float] = {}

    def call(self, meanwhile: Callable[[], None]) -> None:
        """Makes a round of calls.

        Args:
            meanwhile: Done while one call runs and one waits, and the rest have ended.
        """
        images = np.zeros((ROWS, 4, 4, 1), np.uint8)
        request = predict("clf", image=images, timing=True)
        answers = [self._stub.Predict(request, timeout=PATIENCE).timing for _ in range(ANSWERED)]
        self.phases = {
            phase: sum(getattr(timing, phase).ToNanoseconds() for timing in answers) / 1e9
            for phase in ("decode", "queue", "compute", "encode")
        }
        for _ in range(WRONG):
            self._fail(predict("clf", image=images[:, 1:]), grpc.StatusCode.INVALID_ARGUMENT)
        running = self._stub.Predict.future(steps(100_000_000), timeout=PATIENCE)
        self._wait("forwardpass_calls_in_flight", 1)
        waiting = self._stub.Predict.future(steps(1), timeout=PATIENCE)
        self._wait('forwardpass_queue_jobs{model="busy"}', 1)
        for _ in range(REFUSED):
            self._fail(steps(1), grpc.StatusCode.RESOURCE_EXHAUSTED)
        meanwhile()
        waiting.cancel()
        self._wait('forwardpass_queue_jobs{model="busy"}', 0)
        running.cancel()
        self.rounds += 1
        total = self.rounds * (ANSWERED + WRONG + REFUSED + LEFT)
        self._wait("sum(grpc_server_handled_total)", total)
        self._wait("forwardpass_calls_in_flight", 0)

    def _fail(self, request: PredictRequest, code: grpc.StatusCode) -> None:
        with pytest.raises(grpc.RpcError) as caught:
            self._stub.Predict(request, timeout=PATIENCE)
        error: Any = caught.value
        assert error.code() is code

    def _wait(self, expression: str, wanted: float) -> None:
        self._prometheus.wait_value(expression, lambda value: value == wanted)


def predict(model: str, *, timing: bool = False, **inputs: Any) -> PredictRequest:
    tensors = {name: to_tensor(array) for name, array in inputs.items()}
    return PredictRequest(model=ModelReference(name=model), inputs=tensors, timing=timing)


def expressions(window: str) -> Iterator[tuple[str, str, str]]:
    """Yields title, reference and query of each target, with everything chosen at the top."""
    for panel in PANELS:
        for target in panel["targets"]:
            text = target["expr"].replace("$__rate_interval", window)
            for name, variable in VARIABLES.items():
                text = text.replace(f"${name}", variable.get("allValue") or ".+")
            assert "$" not in text, text
            yield panel["title"], target["refId"], text


def expression(title: str) -> str:
    """Returns the one query of a panel that has no window of time."""
    (only,) = [text for found, _, text in expressions("1m") if found == title]
    return only


@contextmanager
def scraped(find_tool: FindTool, folder: Path) -> Iterator[tuple[Prometheus, ServerProcess, Any]]:
    """A server by TLS and the Prometheus that scrapes it, and when the certificate ends."""
    publish = Publisher(folder / "models")
    publish("clf", classifier())
    publish("busy", busy())
    authority = Authority()
    pair = authority.issue(days=30)
    certificate, key = pair.write(folder)
    flags = ("--tls-certificate", str(certificate), "--tls-key", str(key), "--max-queued", "1")
    with serving(publish.root, "--no-sandbox", "--threads", "1", *flags) as server:
        server.wait_for("ready")
        targets = {server.lines[0]["metrics"]: {"job": JOB, "pod": "a"}}
        prometheus = Prometheus(find_tool("prometheus"), folder, targets)
        try:
            with grpc.secure_channel(server.address, authority.trusted()) as channel:
                yield prometheus, server, (channel, pair.expires)
        finally:
            prometheus.stop()


def test_every_query_gives_what_the_calls_were(find_tool: FindTool, tmp_path: Path) -> None:
    with scraped(find_tool, tmp_path) as (prometheus, server, (channel, ends)):
        instance = server.lines[0]["metrics"]
        caller = Caller(channel, prometheus)
        # Series begin with the first event that they count, and rates with the second value.
        caller.call(lambda: None)
        begin = scraped_after(prometheus, now(prometheus))

        def meanwhile() -> None:
            prometheus.wait_value(expression("Calls under way"), lambda value: value == LEFT)
            in_queues = expression("Jobs in queues")
            prometheus.wait(lambda: prometheus.query(in_queues).get(BUSY) == 1 or None)

        caller.call(meanwhile)
        end = scraped_after(prometheus, now(prometheus))
        # From a scrape to a scrape, so that rates are of what was counted in between, and no more.
        window = round((end - begin) * 1000) + 1
        given = {
            (title, reference): prometheus.query(text, end)
            for title, reference, text in expressions(f"{window}ms")
        }
        variables = {
            name: prometheus.label_values(variable["query"]["query"].replace("$job", JOB))
            for name, variable in VARIABLES.items()
            if name != "datasource"
        }
    assert variables == {"job": [JOB], "instance": [instance], "model": ["busy", "clf"]}
    wanted = expected(caller, labelled(instance=instance), 1000 / window, ends - end)
    assert wanted.keys() == given.keys()
    for key, values in given.items():
        compare(key, values, wanted[key])
    median, high, highest = (given["Time of a call", reference] for reference in "ABC")
    assert [*median.values()] <= [*high.values()] <= [*highest.values()]


def scraped_after(prometheus: Prometheus, moment: float) -> float:
    """Returns when the server was first scraped after a moment."""
    return prometheus.wait_value(SCRAPED_AT, lambda at: at > moment)


def now(prometheus: Prometheus) -> float:
    """Returns the time of Prometheus, which is that of its samples."""
    value = prometheus.ask("query", query="time()")["result"][1]
    return float(value)


def positive(value: float) -> bool:
    return 0 < value < math.inf


def compare(key: tuple[str, str], values: Values, wanted: Expected) -> None:
    # Of methods and models that nobody called there are zeros.
    assert wanted.keys() <= values.keys(), key
    for labels, value in values.items():
        right = wanted.get(labels, 0)
        holds = right(value) if callable(right) else value == pytest.approx(right, rel=1e-3)
        assert holds, (key, labels, value, right)


def expected(
    caller: Caller, server: frozenset[tuple[str, str]], each: float, left: float
) -> dict[tuple[str, str], Expected]:
    """Returns what each query is to give.

    Args:
        caller: Has made the calls.
        server: The label of the one server.
        each: The rate of one event.
        left: Seconds until the certificate ends.
    """
    one = labelled()
    phases = caller.phases

    def may_be(value: float) -> bool:
        return 0 < value <= max(SECONDS)

    def codes(**numbers: int) -> Expected:
        return {labelled(grpc_code=code): number * each for code, number in numbers.items()}

    return {
        ("Servers that are ready", "A"): {one: 1},
        ("Models that are ready", "A"): {one: 2},
        ("Models whose runs fail", "A"): {one: 0},
        ("Calls under way", "A"): {one: 0},
        ("Restarts within an hour", "A"): {one: 0},
        ("Until the first certificate ends", "A"): {one: left},
        ("Calls a second, by status", "A"): codes(
            OK=ANSWERED, INVALID_ARGUMENT=WRONG, RESOURCE_EXHAUSTED=REFUSED, CANCELLED=LEFT
        ),
        ("Calls a second, by method", "A"): {METHOD: (ANSWERED + WRONG + REFUSED + LEFT) * each},
        **{("Time of a call", reference): {one: may_be} for reference in "ABC"},
        ("Busy seconds a second, by model", "A"): {CLF: phases["compute"] * each, BUSY: positive},
        ("Busiest model of each server", "A"): {server: positive},
        ("Thread that answers calls, of each server", "A"): {server: positive},
        ("Jobs that wait, on average", "A"): {CLF: phases["queue"] * each, BUSY: positive},
        ("Calls refused, and jobs not run", "A"): {one: REFUSED * each},
        ("Calls refused, and jobs not run", "B"): {labelled(reason="cancelled"): each},
        ("Pushed out for memory", "A"): {server: 0},
        ("Where the time of a request goes", "A"): {
            labelled(phase=phase): seconds / ANSWERED for phase, seconds in phases.items()
        },
        ("Rows a second, by model", "A"): {CLF: ROWS * ANSWERED * each},
        ("Rows in a run", "A"): {CLF: ROWS},
        ("Computing a request, by model", "A"): {CLF: phases["compute"] / ANSWERED},
        ("Versions that are loaded", "A"): {CLF: 1, BUSY: 1},
        ("Jobs in queues", "A"): {CLF: 0, BUSY: 0},
        ("Memory of each server", "A"): {server: positive},
        ("Memory that is left", "A"): {server: lambda value: 0 < value <= 1},
        ("Processor time of each server", "A"): {server: positive},
        ("Bytes under way", "A"): {server: 0},
        ("Streams and watches that are open", "A"): {one: 0},
        ("Streams and watches that are open", "B"): {one: 0},
        ("Lines of the log that were dropped", "A"): {server: 0},
    }


def test_every_metric_that_is_asked_for_is_in_the_servers_page() -> None:
    """Of some there is nothing to ask on one server: those that several workers have."""
    page = (ROOT / "server/README.md").read_text(encoding="utf-8")
    names = {
        name
        for _, _, text in expressions("1m")
        for name in re.findall(r"\b(?:forwardpass|grpc_server)_\w+", text)
    }
    described: Sequence[str] = re.findall(r"`((?:forwardpass|grpc_server)_\w+)`", page)
    for name in names - {"grpc_service"}:
        bare = re.sub(r"_(?:bucket|sum|count)$", "", name)
        assert bare in described, name
