"""`forwardpass-serve check MODELS`: what a server would do with a repository, but no serving."""

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from forwardpass.server.loading.load import State
from forwardpass.server.loading.loaded import Loaded
from forwardpass.server.onnx.signature import TensorSpec
from forwardpass.server.repository.repository import Repository
from forwardpass.server.repository.version import Version


def check(repository: Repository) -> int:
    """Loads, verifies and measures every model, and prints what came of it: JSON, a line each.

    Returns:
        The exit code: 0 where every model has a version that serves and none that was tried failed.
    """
    repository.reconcile(settle=False)
    for version in _versions(repository):
        sys.stdout.write(json.dumps(_facts(version)) + "\n")
    for name, reason in sorted(repository.ignored.items()):
        sys.stdout.write(json.dumps({"ignored": name, "reason": reason}) + "\n")
    models = repository.models.values()
    failed = any(version.failed for version in _versions(repository))
    return 0 if models and not failed and all(model.ready for model in models) else 1


def _versions(repository: Repository) -> Iterator[Version]:
    for _, model in sorted(repository.models.items()):
        yield from model.versions


def _facts(version: Version) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "model": version.name,
        "version": version.number,
        "state": State.Name(version.state).removeprefix("MODEL_STATE_"),
    }
    if version.state_reason:
        facts["reason"] = version.state_reason
    if version.loaded is not None:
        facts |= _loaded_facts(version.loaded)
    return facts


def _loaded_facts(loaded: Loaded) -> dict[str, Any]:
    golden = loaded.golden
    return {
        "digest": loaded.digest,
        "calls": loaded.calls,
        "inputs": _tensors(loaded.signature.inputs),
        "outputs": _tensors(loaded.signature.outputs),
        "golden": golden and {"rows": golden.rows, "max_absolute_error": golden.max_absolute_error},
        "batching": {
            "enabled": loaded.batching.enabled,
            "max_rows": loaded.batching.max_rows,
            "reason": loaded.batching.reason,
        },
        "row_independence": {
            "rows": loaded.independence.rows,
            "max_relative_difference": loaded.independence.difference,
        },
        "curve": [{"rows": p.rows, "seconds": round(p.seconds, 7)} for p in loaded.curve],
        "seconds": round(loaded.seconds, 3),
    }


def _tensors(specs: Mapping[str, TensorSpec]) -> list[dict[str, Any]]:
    return [
        {"name": spec.name, "type": spec.type.name, "shape": list(spec.shape)}
        for spec in specs.values()
    ]
