"""For the KServe SDK's own environment: prints what its models do not know of manifests, as JSON.

Run as: python unknown.py < MANIFESTS, which are a list, as JSON.
"""

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import kserve  # installed in the environment that runs this, as is kubernetes
import kubernetes  # type: ignore[import-not-found]

_PLAIN = {"str": str, "int": int, "bool": bool}


def unknown(kind: str, value: Any, path: str) -> Iterator[str]:
    """Yields where a value has a field or a type that its kind has not.

    Args:
        kind: As the SDK's models name it: "str", "list[V1Container]", "dict(str, str)".
        value: What stands there, as JSON gives it.
        path: Where it stands.
    """
    model = getattr(kserve, kind, None) or getattr(kubernetes.client, kind, None)
    if each := re.fullmatch(r"list\[(.+)\]", kind):
        for number, element in enumerate(value):
            yield from unknown(each[1], element, f"{path}[{number}]")
    elif each := re.fullmatch(r"dict\(str, (.+)\)", kind):
        for key, element in value.items():
            yield from unknown(each[1], element, f"{path}.{key}")
    elif model is not None:
        attributes = {name: attribute for attribute, name in model.attribute_map.items()}
        for key, element in value.items():
            if key not in attributes:
                yield f"{path}.{key}"
            else:
                yield from unknown(model.openapi_types[attributes[key]], element, f"{path}.{key}")
    elif kind in _PLAIN and not isinstance(value, _PLAIN[kind]):
        yield path


def main() -> None:
    """Reads the manifests and prints the list."""
    found: list[str] = []
    for manifest in json.load(sys.stdin):
        version = manifest["apiVersion"].rpartition("/")[2].capitalize()
        found += unknown(f"{version}{manifest['kind']}", manifest, manifest["kind"])
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
