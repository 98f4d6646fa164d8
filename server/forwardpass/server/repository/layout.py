"""What is a model and what a version, by the names of folders, and why others are none."""

import re
from pathlib import Path

from forwardpass.artefact import MODEL_FILE
from forwardpass.server.errors import quote
from forwardpass.server.loading.files import RepositoryFiles

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_NUMBER = re.compile(r"[1-9][0-9]{0,17}")
_SHOWN = 3


def is_number(name: str) -> bool:
    """Whether a folder of that name may be a version."""
    return _NUMBER.fullmatch(name) is not None


def why_no_model(files: RepositoryFiles, path: Path) -> str:
    """Returns why an entry of a repository is no model; empty where it is one.

    Args:
        files: Opens the repository's files.
        path: MODELS/<name>.

    Raises:
        OSError: It cannot be looked at.
    """
    above = files.root.absolute().parent
    if path.name == MODEL_FILE:
        return f"the folder that is served looks like a version: serve {above.parent}"
    if reason := why_no_folder(files, path):
        return reason
    names = [entry.name for entry in path.iterdir() if not entry.name.startswith(".")]
    reason = ""
    if MODEL_FILE in names and is_number(path.name):
        reason = f"it is a version, and the folder that is served looks like a model: serve {above}"
    elif MODEL_FILE in names:
        reason = (
            f"{MODEL_FILE} lies in it directly; move it into a folder of its version, such as 1"
        )
    elif not any(map(is_number, names)):
        shown = ", ".join(map(quote, sorted(names)[:_SHOWN])) or "nothing"
        reason = (
            f"it has no folder of a version; versions are numbered 1, 2, 3 and so on, without "
            f"leading zeros, and it has {shown}"
        )
    elif not _NAME.fullmatch(path.name):
        reason = (
            "a model's name has letters, digits, '.', '_' and '-', at most 128, and begins with a "
            "letter or a digit; rename the folder"
        )
    return reason


def why_no_folder(files: RepositoryFiles, path: Path) -> str:
    """Returns why an entry is no folder of the repository; empty where it is one.

    Args:
        files: Opens the repository's files.
        path: MODELS/<name>, or MODELS/<name>/<number>.

    Raises:
        OSError: It cannot be looked at.
    """
    if files.has_folder(path):
        return ""
    if not path.is_symlink():
        path.lstat()
        return "it is no folder"
    if not path.is_dir():
        return "it is a link that leads to no folder"
    # Callers may read this too, so it does not say where it leads.
    return (
        "it is a link out of the repository; to have such links followed name the folder where it "
        "leads, or one above that, by --follow-links"
    )
