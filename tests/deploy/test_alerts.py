"""The rules: as promtool takes them, when they fire, and what they tell whoever is called."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from server.test_process import serving
from tiny_models import Publisher, classifier

from .conftest import FindTool
from .prometheus import Prometheus
from .schemas import NEWEST, check
from .sources import ROOT, render

FOLDER = ROOT / "deploy/prometheus"
TESTS = Path(__file__).parent / "alerts.yaml"
README = (ROOT / "deploy/README.md").read_text(encoding="utf-8")
SEVERITIES = {"warning", "critical"}
ALERTS = re.compile(r'alertname="(\w+)", alertstate="firing"')


@pytest.fixture(scope="module")
def document(find_tool: FindTool) -> dict[str, Any]:
    return render(find_tool("kubectl"), FOLDER).get("PrometheusRule")


@pytest.fixture(scope="module")
def alerts(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The alerting rules by their names."""
    rules = [rule for group in document["spec"]["groups"] for rule in group["rules"]]
    return {rule["alert"]: rule for rule in rules if "alert" in rule}


@pytest.fixture(scope="module")
def cases() -> list[dict[str, Any]]:
    """Promtool's test cases."""
    yaml: Any = pytest.importorskip("yaml", reason="PyYAML is not installed")
    found: list[dict[str, Any]] = yaml.safe_load(TESTS.read_text(encoding="utf-8"))["tests"]
    return found


def promtool(find_tool: FindTool, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [find_tool("promtool"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_operator_takes_the_rules(document: dict[str, Any]) -> None:
    check(document, NEWEST)
    groups = [
        {**group, "rules": [{**rule, "exp": rule["expr"]} for rule in group["rules"]]}
        for group in document["spec"]["groups"]
    ]
    with pytest.raises(ValueError, match="not all of"):
        check({**document, "spec": {"groups": groups}}, NEWEST)


def extracted(folder: Path) -> Path:
    """Returns the file of rules that the page's command makes."""
    (command,) = re.findall(r"`(sed [^`]*prometheusrule\.yaml) > rules\.yaml`", README)
    rules = folder / "rules.yaml"
    with rules.open("wb") as file:
        subprocess.run(["bash", "-c", command], cwd=ROOT, stdout=file, check=True, timeout=60)
    return rules


def test_every_alert_fires_when_it_should_and_not_before(
    find_tool: FindTool, tmp_path: Path
) -> None:
    """Without the operator, with the rules as the page has them made."""
    rules = extracted(tmp_path)
    checked = promtool(find_tool, "check", "rules", "--lint-fatal", rules)
    assert checked.returncode == 0, checked.stderr
    shutil.copy(TESTS, tmp_path)
    tested = promtool(find_tool, "test", "rules", tmp_path / TESTS.name)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    # It can fail: with the rules as they are but for one number.
    text = rules.read_text(encoding="utf-8")
    rules.write_text(text.replace("< 0.1 *", "< 0.102 *"), encoding="utf-8")
    tested = promtool(find_tool, "test", "rules", tmp_path / TESTS.name)
    assert tested.returncode != 0
    assert "ForwardpassMemoryShort" in tested.stdout + tested.stderr


def test_every_alert_has_a_case_in_which_it_fires_and_is_silent(
    alerts: dict[str, dict[str, Any]], cases: list[dict[str, Any]]
) -> None:
    assert [case["name"] for case in cases] == list(alerts)
    for case in cases:
        fired = [
            {name for sample in one.get("exp_samples", []) for name in ALERTS.findall(str(sample))}
            for one in case["promql_expr_test"]
            if "ALERTS" in one["expr"]
        ]
        assert {case["name"]} in fired
        assert set() in fired


def test_every_alert_says_what_to_do(alerts: dict[str, dict[str, Any]]) -> None:
    for name, rule in alerts.items():
        assert name.startswith("Forwardpass")
        assert rule["labels"]["severity"] in SEVERITIES
        assert rule["annotations"].keys() == {"summary", "description", "runbook"}
        for text in rule["annotations"].values():
            assert text.strip().endswith("."), text
        assert f"`{name}`" in README


def test_what_the_runbooks_name_is_there(alerts: dict[str, dict[str, Any]]) -> None:
    """Events of the log, metrics and settings."""
    sources = " ".join(path.read_text(encoding="utf-8") for path in (ROOT / "server").rglob("*.py"))
    words = " ".join(rule["annotations"]["runbook"] for rule in alerts.values())
    names = set(re.findall(r"\b[a-z]+_[a-z_]+\b", words))
    assert len(names) > 5
    for name in names:
        # The end of these is put to what is kept.
        bare = name.removesuffix("_total").removesuffix("_kept")
        assert re.search(rf"\b{bare}\b", sources), name


def firing(prometheus: Prometheus) -> list[dict[str, Any]]:
    return [alert for alert in prometheus.ask("alerts")["alerts"] if alert["state"] == "firing"]


def test_a_real_prometheus_tells_of_a_real_certificate_that_ends(
    find_tool: FindTool, document: dict[str, Any], tmp_path: Path
) -> None:
    publish = Publisher(tmp_path / "models")
    publish("clf", classifier())
    folder = tmp_path / "tls"
    folder.mkdir()
    certificate, key = Authority().issue(days=10).write(folder)
    flags = ("--no-sandbox", "--tls-certificate", str(certificate), "--tls-key", str(key))
    with serving(publish.root, *flags) as server:
        server.wait_for("ready")
        address = server.lines[0]["metrics"]
        prometheus = Prometheus(
            find_tool("prometheus"), tmp_path, {address: {"pod": "a"}}, document["spec"]
        )
        try:
            (alert,) = prometheus.wait(lambda: firing(prometheus) or None)
        finally:
            prometheus.stop()
    assert alert["labels"]["alertname"] == "ForwardpassCertificateExpires"
    assert re.fullmatch(
        r"The certificate of a ends in 9d 23h \d+m \d+s\.", alert["annotations"]["summary"]
    )
