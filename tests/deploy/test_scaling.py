"""Autoscaling: the manifests, and what their query gives as load on real servers comes and goes."""

import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import grpc
import pytest
from server.test_process import ServerProcess, serving, steps
from tiny_models import Publisher, busy

from forwardpass.v1.inference_service_pb2_grpc import InferenceServiceStub

from .conftest import FindTool
from .prometheus import PATIENCE, Prometheus
from .schemas import NEWEST, OLDEST, check
from .sources import ROOT, Manifests, render

KUSTOMIZE = ROOT / "deploy/kustomize"
OVERLAY = KUSTOMIZE / "overlays/autoscale"
# What KEDA's scaler for Prometheus knows of the parameters that are free text to Kubernetes.
PROMETHEUS_PARAMETERS = {
    *("serverAddress", "query", "threshold", "activationThreshold", "namespace", "customHeaders"),
    *("ignoreNullValues", "queryParameters", "unsafeSsl", "timeout", "authModes"),
}
# The servers each have one.
MODEL = "busy"


@pytest.fixture(scope="module")
def keda(find_tool: FindTool) -> Manifests:
    return render(find_tool("kubectl"), OVERLAY)


@pytest.fixture(scope="module")
def hpa(find_tool: FindTool, tmp_path_factory: pytest.TempPathFactory) -> Manifests:
    def changed(text: str) -> str:
        # Its rule has the namespace, so that nothing is put into a query.
        without, _, _ = text.partition("# The namespace")
        return without.replace("components/autoscale\n", "components/autoscale-hpa\n")

    return overlay(find_tool, tmp_path_factory.mktemp("hpa"), changed)


def overlay(find_tool: FindTool, folder: Path, changed: Callable[[str], str]) -> Manifests:
    """Returns what becomes of a copy of the overlay that was changed."""
    text = changed((OVERLAY / "kustomization.yaml").read_text(encoding="utf-8"))
    text = text.replace("../..", os.path.relpath(KUSTOMIZE, folder))
    (folder / "kustomization.yaml").write_text(text, encoding="utf-8")
    return render(find_tool("kubectl"), folder)


def trigger(manifests: Manifests) -> dict[str, Any]:
    """Returns the metadata of the trigger that asks Prometheus."""
    (only,) = [
        one["metadata"]
        for one in manifests.get("ScaledObject")["spec"]["triggers"]
        if one["type"] == "prometheus"
    ]
    metadata: dict[str, Any] = only
    return metadata


def one_line(query: str) -> str:
    return " ".join(query.split())


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_document_is_taken(keda: Manifests, hpa: Manifests, version: str) -> None:
    for document in (*keda.documents, *hpa.documents):
        check(document, version)
    metadata = trigger(keda)
    assert metadata.keys() <= PROMETHEUS_PARAMETERS
    # Kubernetes lets text pass only.
    assert {type(value) for value in metadata.values()} == {str}


def test_a_misspelt_field_of_a_scaled_object_is_seen(keda: Manifests) -> None:
    document = keda.get("ScaledObject")
    spec = {**document["spec"], "maxReplicas": 8}
    with pytest.raises(ValueError, match="not all of"):
        check({**document, "spec": spec}, NEWEST)


@pytest.mark.parametrize("name", ["keda", "hpa"])
def test_nobody_but_the_autoscaler_says_how_many_pods_there_are(
    name: str, request: pytest.FixtureRequest, manifests: Manifests
) -> None:
    scaled: Manifests = request.getfixturevalue(name)
    assert "replicas" not in scaled.get("Deployment")["spec"]
    kind = "ScaledObject" if name == "keda" else "HorizontalPodAutoscaler"
    target = scaled.get(kind)["spec"]["scaleTargetRef"]
    assert target["name"] == manifests.get("Deployment")["metadata"]["name"]
    # It never goes below what the base has.
    least = scaled.get(kind)["spec"]["minReplicaCount" if name == "keda" else "minReplicas"]
    assert least == manifests.get("Deployment")["spec"]["replicas"]


def test_both_forms_say_the_same(keda: Manifests, hpa: Manifests) -> None:
    yaml: Any = pytest.importorskip("yaml", reason="PyYAML is not installed")
    one, other = keda.get("ScaledObject")["spec"], hpa.get("HorizontalPodAutoscaler")["spec"]
    assert (one["minReplicaCount"], one["maxReplicaCount"]) == (
        other["minReplicas"],
        other["maxReplicas"],
    )
    assert one["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == other["behavior"]
    external, cpu = (metric[metric["type"].lower()] for metric in other["metrics"])
    assert external["target"] == {
        "type": "AverageValue",
        "averageValue": f"{1000 * float(trigger(keda)['threshold']):g}m",
    }
    _, keda_cpu = one["triggers"]
    assert keda_cpu["metadata"]["value"] == str(cpu["target"]["averageUtilization"])
    # The rule of prometheus-adapter that makes the metric.
    adapter = (ROOT / "deploy/prometheus/adapter.yaml").read_text(encoding="utf-8")
    (rule,) = yaml.safe_load(adapter)["rules"]["external"]
    assert rule["name"]["as"] == external["metric"]["name"]
    query = rule["metricsQuery"].replace("<<.LabelMatchers>>", 'namespace="inference"')
    assert one_line(query) == one_line(trigger(keda)["query"])
    # And the page.
    page = (ROOT / "deploy/README.md").read_text(encoding="utf-8")
    assert one_line(query).replace('"inference"', '"..."') in page
    assert f"is to get {trigger(keda)['threshold']} of it" in page


def test_the_query_has_the_namespace_of_the_overlay(find_tool: FindTool, tmp_path: Path) -> None:
    elsewhere = overlay(
        find_tool, tmp_path, lambda text: text.replace("namespace: inference", "namespace: shop")
    )
    assert elsewhere.get("ScaledObject")["metadata"]["namespace"] == "shop"
    query = trigger(elsewhere)["query"]
    assert 'namespace="shop"' in query
    assert "inference" not in query


def test_no_answer_takes_no_pods_away(keda: Manifests) -> None:
    assert trigger(keda)["ignoreNullValues"] == "false"


class Load:
    """Callers, each of whom makes one call after the other.

    Attributes:
        seconds: For how long the model ran, as the answers tell.
    """

    CALLERS = 2

    def __init__(self, servers: list[ServerProcess]) -> None:
        self.seconds = 0.0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._call, args=[server])
            for server in servers
            for _ in range(self.CALLERS)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _call(self, server: ServerProcess) -> None:
        request = steps(3_000)
        request.timing = True
        with grpc.insecure_channel(server.address) as channel:
            stub: Any = InferenceServiceStub(channel)
            while not self._stop.is_set():
                spent = stub.Predict(request, timeout=PATIENCE).timing.compute.ToNanoseconds() / 1e9
                with self._lock:
                    self.seconds += spent


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[ServerProcess]]:
    publish = Publisher(tmp_path / "models")
    publish(MODEL, busy())
    with ExitStack() as stack:
        started = [
            stack.enter_context(serving(publish.root, "--no-sandbox", "--threads", "1"))
            for _ in range(2)
        ]
        for server in started:
            server.wait_for("ready")
        yield started


def test_the_query_follows_the_load(
    find_tool: FindTool, keda: Manifests, servers: list[ServerProcess], tmp_path: Path
) -> None:
    spec, metadata = keda.get("ScaledObject")["spec"], trigger(keda)
    # Only the time over which it looks is a test's own.
    assert metadata["query"].count("[1m]") == 1
    query = metadata["query"].replace("[1m]", "[4s]")

    def pods(value: float) -> int:
        """As the HorizontalPodAutoscaler computes it that KEDA makes."""
        least: int = spec["minReplicaCount"]
        most: int = spec["maxReplicaCount"]
        return min(max(math.ceil(value / float(metadata["threshold"])), least), most)

    targets = {
        server.lines[0]["metrics"]: {"namespace": "inference", "pod": f"pod-{number}"}
        for number, server in enumerate(servers)
    }
    prometheus = Prometheus(find_tool("prometheus"), tmp_path, targets)
    try:
        assert pods(prometheus.wait_value(query, lambda value: value < 0.3)) == 2
        with Load(servers) as load:
            # Each of the two pods has a model that computes nearly all the time.
            prometheus.wait_value(query, lambda value: pods(value) > 2)
        assert pods(prometheus.wait_value(query, lambda value: value < 0.3)) == 2
        # The model and the thread that answers calls both count.
        inner = query.removeprefix("max(").removesuffix(")")
        assert {dict(labels).get("model") for labels in prometheus.query(inner)} == {MODEL, None}
        asked = pytest.approx(load.seconds)
        prometheus.wait_value("sum(forwardpass_busy_seconds_total)", lambda value: value == asked)
        # As it stands, and in another namespace, whose pods are others'.
        assert len(prometheus.query(metadata["query"])) == 1
        assert prometheus.query(metadata["query"].replace("inference", "shop")) == {}
    finally:
        prometheus.stop()
