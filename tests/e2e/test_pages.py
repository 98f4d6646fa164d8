"""What the pages tell a reader to run is run, as it stands, in the order in which it stands."""

import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from training import QUICK, Publish

from forwardpass.client.cli import app

from .pages import PAGES, ROOT, Block, Shell, blocks, languages, open_shell, outside_of_blocks

# The first that needs them waits until the recipes have trained.
pytestmark = pytest.mark.timeout(1200)

# A command that no test would find, as it stands between no fences.
_INDENTED_COMMAND = re.compile(
    r"^ {4,}(?:\$ |echo |(?:forwardpass|forwardpass-train|forwardpass-serve|pip|curl|docker) \S)",
    re.MULTILINE,
)
RUN = [page for page in PAGES if any(not block.mark for block in blocks(page))]
HEAVY = [block for page in PAGES for block in blocks(page) if block.mark == "heavy"]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_stands_in_a_block(page: str) -> None:
    assert not _INDENTED_COMMAND.findall(outside_of_blocks(page))
    # Of another one, such as sh, no block would be run.
    assert languages(page) <= {"console", "python", "yaml"}


def test_few_blocks_are_not_run() -> None:
    everything = [block for page in PAGES for block in blocks(page)]
    assert len([block for block in everything if block.mark == "not run"]) <= 10
    assert len(everything) > 50


def test_examples_in_the_help_name_models_that_recipes_publish() -> None:
    # The others are of a job's folder.
    named = ("models", "predict", "embed", "generate", "health")
    examples = [
        str(command.epilog)
        for command in app.registered_commands
        if command.callback and command.callback.__name__ in named
    ]
    assert len(examples) == len(named)
    for example in examples:
        assert any(re.search(rf"\b{name}\b(?!-)", example) for name in QUICK), example


@pytest.fixture(scope="module")
def variables(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """A reader's environment, in which the commands are found."""
    home = tmp_path_factory.mktemp("home")
    (home / ".cache").mkdir()
    (home / ".cache" / "forwardpass").symlink_to(cache)
    own = {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "FORWARDPASS_CACHE_DIR": str(tmp_path_factory.mktemp("verified")),
        "FORWARDPASS_LOG_FORMAT": "json",
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "error",
    }
    kept = ("LANG", "PIP_INDEX_URL", "PIP_CONFIG_FILE", "SSL_CERT_FILE", "TMPDIR")
    return own | {name: os.environ[name] for name in kept if name in os.environ}


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with what a reader's clone has beside the sources: an environment, and examples."""
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parents[1])
    for name in ("deploy", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def publish_named(page: str, publish_once: Publish, models: Path) -> None:
    """Publishes the models that a page's blocks name, and one in any case, trained quickly."""
    text = " ".join(["digits-mlp", *(block.text for block in blocks(page))])
    for name in QUICK:
        if re.search(rf"\b{name}\b(?!-)", text):
            folder = publish_once(name).folder
            for each in (name, f"{name}-step"):
                if (folder.parents[1] / each).exists():
                    shutil.copytree(folder.parents[1] / each / "1", models / each / "1")


@pytest.mark.parametrize("page", RUN)
def test_a_page_can_be_followed(
    page: str, publish_once: Publish, clone: Path, variables: Mapping[str, str]
) -> None:
    models = clone / "models"
    if page == "README.md":
        # What `make demo` leaves behind.
        models = clone / "demo" / "models"
    publish_named(page, publish_once, models)
    with open_shell(clone, variables, alone=True) as shell:
        if page == "README.md":
            shell.run(command("forwardpass-train fetch mnist --pictures demo/pictures"))
        for block in blocks(page):
            if not block.mark:
                shell.run(block)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where blocks that train find examples, and what those before them have trained."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "examples").symlink_to(ROOT / "examples")
    return folder


@pytest.mark.heavy
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("block", HEAVY, ids=lambda block: f"{block.page}:{block.line}")
def test_a_block_that_trains_can_be_followed(
    block: Block, trained: Path, variables: Mapping[str, str]
) -> None:
    with open_shell(trained, variables, alone=False) as shell:
        shell.run(block)


def command(text: str) -> Block:
    return Block(__file__, 1, "console", f"$ {text}", "", "")


def test_a_command_that_fails_is_told(tmp_path: Path, variables: Mapping[str, str]) -> None:
    def run(shell: Shell, text: str) -> None:
        shell.run(Block("PAGE.md", 7, "console", text, "", ""))

    with open_shell(tmp_path, variables, alone=True) as shell:
        run(shell, "$ cd /\n$ test $PWD = /")
        with pytest.raises(AssertionError, match=r"PAGE.md:7: forwardpass-train run typo"):
            run(shell, "$ true\nwhat it prints\n$ forwardpass-train run typo\n")
        with pytest.raises(AssertionError, match="no-such-folder"):
            run(shell, "$ forwardpass-serve no-such-folder &")
        with pytest.raises(AssertionError, match="ZeroDivisionError"):
            shell.run(Block("PAGE.md", 7, "python", "1 / 0\n", "", ""))
