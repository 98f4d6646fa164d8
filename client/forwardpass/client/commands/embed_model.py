"""Which model embeds: one that a server serves, or one in this process."""

from pathlib import Path

import typer

from forwardpass.client.commands.connection import Connection, split_model
from forwardpass.client.jobs.embedder import OpenEmbedder
from forwardpass.client.jobs.server_embedder import OpenServer

# Where the trainer puts models unless told otherwise.
_MODELS = Path("models")


def model_name(model: str, *, is_served: bool) -> str:
    """Returns the name of the model that MODEL on the command line names; as `open_model`."""
    folder = _folder(model, is_served=is_served)
    if folder is None:
        return split_model(model)[0]
    return folder.parent.name if (folder / "model.onnx").is_file() else folder.name


def open_model(
    connection: Connection,
    model: str,
    *,
    is_served: bool,
    wait: float,
    threads: int | None = None,
) -> OpenEmbedder:
    """Returns how to get at a model: in this process where it is a folder and no server is named.

    Args:
        connection: The server that is called otherwise.
        model: A name, or a model's folder, or that of a version; each maybe with :VERSION.
        is_served: Whether a server was named.
        wait: Seconds that a server may be away.
        threads: How many runs, or calls, at a time; as many as there are cores where None.

    Raises:
        typer.BadParameter: There is no such version, or both a server and a folder were named.
    """
    folder = _folder(model, is_served=is_served)
    name, version = split_model(model)
    if folder is None:
        return OpenServer(connection.settings(), name, version, wait, threads)
    from forwardpass.client.local import OpenLocal, find_version

    if isinstance(version, str):
        raise typer.BadParameter(
            f"{version!r} is a label, which only a server knows: name the version's number",
            param_hint="--model",
        )
    return OpenLocal(find_version(folder, version), threads)


def _folder(model: str, *, is_served: bool) -> Path | None:
    """Returns the folder that is meant; None where a server is."""
    name, _ = split_model(model)
    path = Path(name)
    if len(path.parts) > 1 or path.is_absolute():
        if is_served:
            raise typer.BadParameter(
                f"{name} is a folder, which runs in this process: leave out --server, or name the "
                "model that the server serves",
                param_hint="--model",
            )
        if not path.is_dir():
            raise typer.BadParameter(f"there is no folder {name}", param_hint="--model")
        return path
    return None if is_served or not (_MODELS / name).is_dir() else _MODELS / name
