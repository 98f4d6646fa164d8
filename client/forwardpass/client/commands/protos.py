"""`forwardpass protos`: the contract as .proto files, for generators of other languages."""

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import typer


def run(out: Path) -> None:
    contents = _read()
    _check_nothing_else(out, contents)
    for name, content in contents.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        typer.echo(path)
    typer.echo(
        f"\nThey import one another from {out}, and google/protobuf, which protoc has. For Java:\n"
        f"  mkdir -p stubs && protoc -I {out} --java_out=stubs {out}/forwardpass/v1/*.proto\n"
        "docs/other-languages.md has the commands for services, and for other languages."
    )


def _folders() -> dict[str, Traversable]:
    """Returns where the .proto files of each folder lie, by the path that they are imported by."""
    copies = files("forwardpass.client").joinpath("proto_files")
    return {
        "forwardpass/v1": files("forwardpass.v1"),
        "google/rpc": files("google.rpc"),
        "grpc/health/v1": copies.joinpath("grpc", "health", "v1"),
        "open_inference": copies.joinpath("open_inference"),
    }


def _read() -> dict[str, bytes]:
    """Returns the contents of the .proto files, by the path that they are imported by."""
    return {
        f"{folder}/{file.name}": file.read_bytes()
        for folder, place in _folders().items()
        for file in sorted(place.iterdir(), key=lambda file: file.name)
        if file.name.endswith(".proto")
    }


def _check_nothing_else(out: Path, contents: dict[str, bytes]) -> None:
    """Compares what is in a folder with what will be written there.

    Raises:
        typer.BadParameter: The folder holds another file: it may be somebody's sources.
    """
    for path in out.rglob("*"):
        if not path.is_dir() and path.relative_to(out).as_posix() not in contents:
            raise typer.BadParameter(
                f"{path} is none of the files that are written. Name a folder that is new or "
                "empty, or one that holds nothing but what this command has written",
                param_hint="--out",
            )
