"""A real Prometheus, which scrapes servers that a test has started."""

import json
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

PATIENCE = 60
# How often it scrapes and evaluates rules, in milliseconds.
INTERVAL = 500
# What an instant query gives: values by their labels, without the name.
Values: TypeAlias = dict[frozenset[tuple[str, str]], float]


def labelled(**labels: str) -> frozenset[tuple[str, str]]:
    """Returns the key of a value in `Values`."""
    return frozenset(labels.items())


class Prometheus:
    """Prometheus in a process of its own.

    Args:
        program: Where its program is.
        folder: Where its configuration and its data go.
        targets: The labels of each server, by the address of its metrics.
        rules: What it evaluates, in the form that `rule_files` have.
    """

    def __init__(
        self,
        program: str,
        folder: Path,
        targets: Mapping[str, Mapping[str, str]],
        rules: Mapping[str, Any] | None = None,
    ) -> None:
        interval = f"{INTERVAL}ms"
        # JSON is YAML.
        (folder / "rules.yml").write_text(json.dumps(rules or {"groups": []}))
        configuration = {
            "global": {"scrape_interval": interval, "evaluation_interval": interval},
            "rule_files": ["rules.yml"],
            "scrape_configs": [
                {
                    "job_name": "forwardpass",
                    "static_configs": [
                        {"targets": [address], "labels": dict(labels)}
                        for address, labels in targets.items()
                    ],
                }
            ],
        }
        (folder / "prometheus.yml").write_text(json.dumps(configuration))
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    program,
                    "--config.file=prometheus.yml",
                    "--storage.tsdb.path=data",
                    "--web.listen-address=127.0.0.1:0",
                ],
                cwd=folder,
                stderr=log,
            )
        try:
            self._address: str = self.wait(self._find_address)
            self.wait(lambda: self._is_ready() or None)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends it at once."""
        self._process.kill()
        self._process.wait(PATIENCE)

    def wait(self, look: Callable[[], Any]) -> Any:
        """Asks until there is an answer, which is returned.

        Args:
            look: Gives it; None while there is none.
        """
        deadline = time.monotonic() + PATIENCE
        while (answer := look()) is None:
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, "what is waited for did not come"
            time.sleep(INTERVAL / 1000 / 2)
        return answer

    def ask(self, page: str, **parameters: str) -> Any:
        """Returns the data of an answer of its API."""
        query = urllib.parse.urlencode(parameters)
        url = f"http://{self._address}/api/v1/{page}?{query}"
        with urllib.request.urlopen(url, timeout=PATIENCE) as response:
            answer = json.load(response)
        assert answer["status"] == "success", answer
        assert not answer.get("warnings"), answer
        return answer["data"]

    def query(self, expression: str, at: float | None = None) -> Values:
        """Returns what a query gives at a time, in seconds since 1970; None for now."""
        when = {} if at is None else {"time": repr(at)}
        data = self.ask("query", query=expression, **when)
        assert data["resultType"] == "vector"
        return {
            frozenset((key, value) for key, value in one["metric"].items() if key != "__name__"): (
                float(one["value"][1])
            )
            for one in data["result"]
        }

    def value(self, expression: str) -> float | None:
        """Returns the one value that a query gives now; None for none."""
        values = [*self.query(expression).values()]
        assert len(values) <= 1, values
        return values[0] if values else None

    def wait_value(self, expression: str, holds: Callable[[float], bool]) -> float:
        """Asks a query of one value until that is as it should be."""

        def look() -> float | None:
            value = self.value(expression)
            return value if value is not None and holds(value) else None

        found: float = self.wait(look)
        return found

    def label_values(self, variable: str) -> Sequence[str]:
        """Returns what Grafana's label_values(series, label) gives."""
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable)
        assert found is not None, variable
        values: list[str] = self.ask(f"label/{found[2]}/values", **{"match[]": found[1]})
        return values

    def _find_address(self) -> str | None:
        found = re.search(r'msg="Listening on" address=(\S+)', self._log.read_text())
        return None if found is None else found[1]

    def _is_ready(self) -> bool:
        with (
            suppress(urllib.error.HTTPError),
            urllib.request.urlopen(f"http://{self._address}/-/ready", timeout=PATIENCE),
        ):
            return True
        return False
