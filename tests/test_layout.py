"""The rules of the layout: who may import whom, and where no file may lie."""

import ast
import graphlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("protos", "server", "trainer", "client")
SOURCES = sorted(
    path
    for part in PARTS
    for path in (ROOT / part / "forwardpass").rglob("*.py")
    if "_pb2" not in path.name
)
# The namespaces that live under protos/ may be used by every part.
SHARED = (
    "forwardpass.v1",
    "forwardpass.wire",
    "forwardpass.artefact",
    "forwardpass.extras",
    "forwardpass.mail",
    "forwardpass.pixels",
)


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_by(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def test_sources_are_found() -> None:
    assert len(SOURCES) > 50


# Part -> the parts that it may import beside itself and the contract.
OTHERS: dict[str, tuple[str, ...]] = {
    "protos": (),
    "server": (),
    # A model that is trained may be tried by the client.
    "trainer": ("forwardpass.client",),
    "client": (),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_imports_what_it_may(part: str) -> None:
    allowed = (*SHARED, *OTHERS[part], *([f"forwardpass.{part}"] if part != "protos" else []))
    for path in SOURCES:
        if path.is_relative_to(ROOT / part):
            for name in imports(path):
                if name.startswith("forwardpass"):
                    assert name.startswith(allowed), f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize(
    ("library", "places"),
    [
        ("torch", ["trainer/"]),
        ("lightning_fabric", ["trainer/"]),
        ("onnx", ["trainer/"]),
        (
            "onnxruntime",
            [
                "trainer/",
                "server/forwardpass/server/onnx/",
                "client/forwardpass/client/local",
            ],
        ),
        (
            "grpc",
            ["client/", "server/forwardpass/server/transport/"],
        ),
        ("prometheus_client", ["server/"]),
    ],
)
def test_a_library_is_imported_where_it_belongs(library: str, places: list[str]) -> None:
    for path in SOURCES:
        name = path.relative_to(ROOT).as_posix()
        if library in imported_by(path):
            assert any(name.startswith(place) for place in places), f"{name} imports {library}"


# Package or module -> what it may import of its own part. In the server and the trainer a line may
# name only lines below it, so that no import runs back up and there is no circle.
SERVER = {
    "cli": "workers check app build settings_sources options settings repository onnx process",
    "workers": "app settings metrics transport process",
    "check": "repository loading onnx",
    "app": "build routes settings repository metrics transport process",
    "build": "routes settings rpc repository loading scheduling onnx metrics transport process",
    "routes": "native open_inference rpc repository scheduling",
    "settings_sources": "options settings transport errors",
    "options": "settings errors",
    "settings": "errors",
    "native": "rpc repository loading scheduling onnx transport errors",
    "open_inference": "rpc repository loading scheduling onnx transport process errors",
    "rpc": "repository loading scheduling onnx metrics transport process aligned errors",
    "repository": "loading scheduling metrics errors",
    "loading": "scheduling onnx metrics transport process errors",
    "scheduling": "metrics transport aligned errors",
    "onnx": "aligned errors",
    "metrics": "transport process",
    "transport": "process errors",
    "process": "",
    "aligned": "",
    "errors": "",
}
TRAINER = {
    "cli": (
        "data errors export publishing quantize recipes running sweep tables training untrained zoo"
    ),
    "tables": "display export",
    "__init__": "errors export publishing",
    "publishing": "errors export",
    "sweep": "errors export plots recipes running training",
    "quantize": "data display errors export recipes training",
    "running": "errors export recipes training",
    "recipes": (
        "data errors evaluation export forecasting models plots pretrained scratch traces training"
    ),
    "forecasting": "data evaluation export models plots training",
    "scratch": "data models",
    "untrained": "export models training zoo",
    "zoo": "data errors export models",
    "export": "display errors training",
    "evaluation": "data",
    "plots": "data training",
    "pretrained": "data errors models training",
    "data": "errors training",
    "training": "errors",
    "traces": "errors",
    "display": "",
    "models": "",
    "errors": "",
}
CLIENT = {
    "cli": "commands",
    "commands": "__init__ card client errors jobs local models polarity results settings "
    "whole_file",
    "local": "card errors jobs polarity",
    "jobs": "card client errors inputs models polarity results settings whole_file",
    "__init__": "async_client card channel client errors models polarity preparation results",
    "async_client": "caller channel connection errors operations retries settings steps",
    "client": "caller channel connection errors operations retries settings steps",
    "caller": "channel operations settings",
    "operations": "engine errors inputs methods models requests results settings steps",
    "engine": "card errors inputs many models polarity requests results retries settings steps",
    "many": "errors inputs models retries settings steps",
    "requests": "errors inputs models",
    "connection": "channel errors methods settings",
    "retries": "errors settings steps",
    "steps": "settings",
    "settings": "channel errors",
    "preparation": "",
    "polarity": "card inputs",
    "inputs": "card errors",
    "whole_file": "",
    "models": "card errors shown",
    "channel": "errors",
    "methods": "",
    "sklearn": "channel client errors models preparation settings",
    "results": "errors shown",
    "shown": "",
    "card": "",
    "errors": "",
}
LAYERS = {
    part: {layer: imported.split() for layer, imported in table.items()}
    for part, table in {"server": SERVER, "trainer": TRAINER, "client": CLIENT}.items()
}


def layers_of(part: str) -> Iterator[tuple[Path, str, str]]:
    """Yields (file, the layer it lies in, a layer of the same part that it imports)."""
    home = ROOT / part / "forwardpass" / part
    prefix = f"forwardpass.{part}."
    # A name that is no module is one of the part's own `__init__`.
    layers = LAYERS[part]
    for path in SOURCES:
        if path.is_relative_to(home):
            layer = path.relative_to(home).parts[0].removesuffix(".py")
            for name in imports(path):
                if name.startswith(prefix):
                    imported = name.removeprefix(prefix).split(".")[0]
                    yield path, layer, imported if imported in layers else "__init__"


@pytest.mark.parametrize("part", LAYERS)
def test_a_layer_imports_what_its_line_of_the_table_says(part: str) -> None:
    table = LAYERS[part]
    found: dict[str, set[str]] = {layer: set() for layer in table}
    for path, layer, imported in layers_of(part):
        if imported != layer:
            assert imported in table[layer], f"{path.relative_to(ROOT)} imports {imported}"
            found[layer].add(imported)
    # A line that allows what nobody does is out of date.
    assert found == {layer: set(allowed) for layer, allowed in table.items()}


def test_every_module_of_a_part_has_a_line_in_its_table() -> None:
    for part, table in LAYERS.items():
        home = ROOT / part / "forwardpass" / part
        names = {
            path.relative_to(home).parts[0].removesuffix(".py")
            for path in SOURCES
            if path.is_relative_to(home)
        }
        assert names - {"__init__"} == table.keys() - {"__init__"}


@pytest.mark.parametrize("part", ["server", "trainer"])
def test_no_import_runs_back_up(part: str) -> None:
    order = list(LAYERS[part])
    for layer, allowed in LAYERS[part].items():
        for imported in allowed:
            assert order.index(imported) > order.index(layer), f"{layer} imports {imported}"


@pytest.mark.parametrize("part", ["server", "trainer"])
def test_no_module_imports_itself_by_way_of_others(part: str) -> None:
    home = ROOT / part
    modules = {
        ".".join(path.relative_to(home).with_suffix("").parts).removesuffix(".__init__"): path
        for path in SOURCES
        if path.is_relative_to(home)
    }
    graph = {
        name: {
            imported if imported in modules else imported.rpartition(".")[0]
            for imported in imports(path)
        }
        & modules.keys()
        for name, path in modules.items()
    }
    # It raises where there is a circle, and names it.
    graphlib.TopologicalSorter(graph).prepare()


def test_no_room_of_the_server_holds_a_fifth_of_it() -> None:
    home = ROOT / "server" / "forwardpass" / "server"
    lines = {
        path.relative_to(home): len(path.read_text(encoding="utf-8").splitlines())
        for path in SOURCES
        if path.is_relative_to(home)
    }
    for room in {path.parts[0] for path in lines}:
        size = sum(count for path, count in lines.items() if path.parts[0] == room)
        assert size <= sum(lines.values()) / 5, room


def test_no_source_unpickles_or_evaluates() -> None:
    forbidden = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
    for path in SOURCES:
        assert not imported_by(path) & forbidden, path
        text = path.read_text(encoding="utf-8")
        assert "allow_pickle=True" not in text, path
        assert "weights_only=False" not in text, path


def test_the_namespace_has_no_init_file() -> None:
    # One such file would hide the parts that lie in the other folders.
    assert not list(ROOT.glob("*/forwardpass/__init__.py"))


def test_every_part_is_typed() -> None:
    packages = [p for part in PARTS for p in (ROOT / part / "forwardpass").iterdir() if p.is_dir()]
    written = [p for p in packages if (p / "__init__.py").exists()]
    assert len(written) == len(PARTS) + 4
    assert all((p / "py.typed").exists() for p in written)


def test_third_party_imports_are_declared() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = [*project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        declared += extra
    known = {
        requirement.split(">")[0].split("=")[0].replace("-", "_").lower()
        for requirement in declared
    }
    # Where the module has another name than its distribution.
    known |= {
        "google",
        "grpc",
        "grpc_health",
        "grpc_reflection",
        "PIL",
        "sklearn",
        "lightning_fabric",
    }
    # What these bring with them by contract.
    known |= {"pydantic", "forwardpass", "click"}
    for path in SOURCES:
        outside = imported_by(path) - set(sys.stdlib_module_names)
        assert outside <= known, f"{path.relative_to(ROOT)} imports {outside - known}"
