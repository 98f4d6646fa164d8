"""Generates the protobuf modules, their type stubs and the descriptor sets, and copies what
`forwardpass protos` writes; makes the README's links absolute, for pages beyond the repository.

Runs at every editable install, wheel and sdist; `make protos` is an editable install.
What it writes is not committed.
"""

import re
import shutil
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

ROOT = Path(__file__).parent
PROTOS = ROOT / "protos"
# These get no Python modules: a second registration of the package `inference` would break
# tritonclient in the same process. They are loaded into descriptor pools of our own.
DESCRIPTOR_SETS = {
    "open_inference": PROTOS / "forwardpass" / "wire" / "open_inference.binpb",
    "onnx_graph": PROTOS / "forwardpass" / "artefact" / "onnx_graph.binpb",
}

# Others' .proto files, which lie outside of our packages, and so would not be in a wheel.
COPIED = ("grpc", "open_inference")
COPIES = ROOT / "client" / "forwardpass" / "client" / "proto_files"


def generate() -> None:
    """Writes every generated file, or exits with protoc's own message."""
    import grpc_tools
    from grpc_tools import protoc

    includes = [f"-I{PROTOS}", f"-I{Path(grpc_tools.__file__).parent / '_proto'}"]
    native = sorted(str(path) for path in (PROTOS / "forwardpass").rglob("*.proto"))
    runs = [
        [
            f"--python_out={PROTOS}",
            f"--grpc_python_out={PROTOS}",
            f"--mypy_out=quiet:{PROTOS}",
            f"--mypy_grpc_out=quiet:{PROTOS}",
            *native,
        ],
        *(
            [
                f"--descriptor_set_out={target}",
                "--include_imports",
                *sorted(str(path) for path in (PROTOS / folder).glob("*.proto")),
            ]
            for folder, target in DESCRIPTOR_SETS.items()
        ),
    ]
    for arguments in runs:
        if protoc.main(["protoc", *includes, *arguments]):
            sys.exit("protoc failed: its message stands above")


def copy() -> None:
    """Copies others' .proto files into the client; nothing that was there before stays."""
    shutil.rmtree(COPIES, ignore_errors=True)
    for folder in COPIED:
        shutil.copytree(PROTOS / folder, COPIES / folder)


class ProtobufHook(BuildHookInterface[Any]):
    """Generates before anything is packed, so that the files are there to pack."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        generate()
        copy()


class ReadmeHook(MetadataHookInterface):
    """States the README, whose links into the repository lead to the version's tag there."""

    def update(self, metadata: dict[str, Any]) -> None:
        source, tag = metadata["urls"]["Source"], f"v{metadata['version']}"
        text = (ROOT / "README.md").read_text(encoding="utf-8")
        # Not those that have a scheme, nor those within the page. Of a picture the file itself is
        # wanted, and not the page that shows it.
        text = re.sub(r"(!\[[^\]]*\]\()(?!\w+:)", rf"\1{source}/raw/{tag}/", text)
        text = re.sub(r"\]\((?!\w+:|#)", f"]({source}/blob/{tag}/", text)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
