"""What takes manifests apart as a cluster would: the schemas that packages have."""

import importlib
from typing import Any

import pytest

# The first whose nodes know preStop.sleep without being told to, and the newest with a schema.
OLDEST, NEWEST = "1.30", "1.37"
# Groups of custom resources whose models PyPI has, and the package of each.
MODELS = {
    "cert-manager.io": "cert_manager",
    "keda.sh": "keda",
    "monitoring.coreos.com": "prometheus_operator",
}


def check(document: dict[str, Any], version: str) -> None:
    """Checks a document of Kubernetes' own kinds, or of a custom one that PyPI has a model of.

    Raises:
        ValueError: It is not valid, or of a kind that is not known.
    """
    group, _, api = document["apiVersion"].rpartition("/")
    if group not in MODELS:
        kubernetes: Any = pytest.importorskip(
            "kubernetes_validate", reason="kubernetes-validate is not installed"
        )
        try:
            # It goes on with an older schema where it has none of this version.
            assert kubernetes.validate(document, version, strict=True) == version
        except kubernetes.ValidationError as error:
            raise ValueError(str(error)) from None
        except kubernetes.SchemaNotFoundError:
            kind = f"{document['apiVersion']}/{document['kind']}"
            raise ValueError(f"Kubernetes {version} has no {kind}") from None
        return
    package = f"cloudcoil.models.{MODELS[group]}"
    pytest.importorskip(package, reason=f"{package} is not installed")
    model: Any = getattr(importlib.import_module(f"{package}.{api}"), document["kind"])
    taken = model.model_validate(document)
    # A field that the model does not know is left out by it.
    if (known := taken.model_dump(mode="json", by_alias=True, exclude_unset=True)) != document:
        raise ValueError(f"not all of {document} is known: {known}")
