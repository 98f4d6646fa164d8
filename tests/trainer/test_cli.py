"""The command as a person or a program types it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from training import Publish

from forwardpass.artefact import Golden
from forwardpass.trainer.cli import main
from forwardpass.trainer.data import SOURCES
from forwardpass.trainer.export.publish import publish
from forwardpass.trainer.recipes import RECIPES, find_recipe
from forwardpass.trainer.zoo import ARCHITECTURES

from . import commands

LIST_WITHOUT_TORCH = """
import sys
from forwardpass.trainer.cli import app
app(["list"], standalone_mode=False)
print("torch" in sys.modules, "matplotlib" in sys.modules)
"""


MAIN_AND_TORCH = """
import sys
from forwardpass.artefact import Golden
from forwardpass.trainer.cli import main
sys.argv[0] = "forwardpass-train"
try:
    main()
finally:
    sys.stdout.flush()
    print("torch" in sys.modules, file=sys.stderr)
"""


def train(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return commands.train(cwd, *arguments, environment={"COLUMNS": "120", "NO_COLOR": "1"})


def test_list_names_every_recipe_without_loading_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIST_WITHOUT_TORCH], capture_output=True, text=True, check=True
    )

    assert all(name in done.stdout for name in RECIPES)
    assert done.stdout.splitlines()[-1] == "False False"


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("run mnist", ["mnist-cnn", "mnist-resnet", "mnist-gan", "mnist-cgan"]),
        ("settings x", ["xor"]),
        ("run ", list(RECIPES)),
        ("fetch m", ["mnist", "moby-dick"]),
        ("fetch ", list(SOURCES)),
        ("se", ["settings"]),
    ],
)
def test_a_shell_completes_names_without_loading_torch(words: str, names: list[str]) -> None:
    typed = f"forwardpass-train {words}"
    completing = {
        "_FORWARDPASS_TRAIN_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(typed.count(" ")),
    }
    done = subprocess.run(
        [sys.executable, "-c", MAIN_AND_TORCH],
        env=os.environ | completing,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout.split() == names
    assert done.stderr == "False\n"


@pytest.mark.parametrize(
    "arguments", [["run", "typo"], ["settings", "typo"], ["fetch", "typo"], ["rn", "xor"]]
)
def test_a_name_that_cannot_be_is_told_without_loading_torch(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MAIN_AND_TORCH, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "False"


def test_data_is_fetched_without_loading_torch(cache: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MAIN_AND_TORCH, "fetch", "mnist", "--cache", str(cache)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "False"


def test_a_command_that_is_mistyped_is_guessed() -> None:
    done = train("rn", "mnist-cnn")

    assert done.returncode == 2
    assert "No such command 'rn'. Did you mean 'run'?" in done.stderr


def test_settings_lists_what_a_recipe_lets_one_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, as a new one would load torch first."""
    told = []
    for arguments in (["xor", "--json"], ["mnist-gan", "--json"], ["mnist-gan"]):
        monkeypatch.setattr(sys, "argv", ["forwardpass-train", "settings", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        told.append(capsys.readouterr().out)
    rows, presets = ({row.pop("name"): row for row in json.loads(text)} for text in told[:2])

    assert rows.keys() == find_recipe("xor").settings().as_text().keys()
    assert rows["learning_rate"] == {
        "type": "a number",
        "default": "0.02",
        "meaning": "the highest; see schedule",
    }
    assert presets["preset"]["type"] == "one of full, demo"
    assert "demo: 2,250" in presets["preset"]["meaning"]
    assert " preset " in told[2]


def test_the_data_sets_that_can_be_fetched_are_in_the_help() -> None:
    told = " ".join(train("fetch", "--help").stdout.split())

    for source in SOURCES.values():
        assert f"{source.name}: {source.about}" in told


def test_list_as_json() -> None:
    rows = json.loads(train("list", "--json").stdout)

    assert [row["name"] for row in rows] == list(RECIPES)
    assert all(row["makes"] and row["data"] and row["time"] and row["result"] for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["run", "mnist"],
            "there is no recipe 'mnist'; did you mean 'mnist-cgan', 'mnist-cnn', 'mnist-gan' or",
        ),
        (["settings", "digits"], "there is no recipe 'digits'; did you mean 'digits-mlp'?"),
        (["run", "mnist-cn"], "there is no recipe 'mnist-cn'; did you mean 'mnist-cnn'?"),
        (["run", "xor", "sed=1"], "there is no setting 'sed'; did you mean 'seed'?"),
        (["run", "xor", "seed=one"], "seed=one: give a whole number"),
        (["run", "xor", f"seed={1 << 64}"], f"seed={1 << 64}: give a number of at most"),
        (["run", "xor", "--tempo", "3"], "there is no option '--tempo'; settings are given as"),
        (["run", "xor", "--seed", "3"], "'--seed' is no option, but a setting; write seed=VALUE"),
        (["quantize", "digits-mpl"], "there is no model 'digits-mpl'; did you mean 'digits-mlp'?"),
        (["quantize", "digits-mlp", "--version", "2"], "there is no version of digits-mlp '2'; "),
        (["zoo", "vgg16"], "there is no architecture 'vgg16'; did you mean 'vgg-16'?"),
        (["fetch", "mnits"], "there is no data set 'mnits'; did you mean 'mnist'?"),
    ],
)
def test_a_name_or_value_that_cannot_be_exits_with_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In this process, as a new one would load torch first."""
    (tmp_path / "models" / "digits-mlp" / "1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["forwardpass-train", *arguments])

    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 2
    written = capsys.readouterr()
    assert written.err.startswith(f"error: {message}")
    assert not written.out


def test_what_fails_exits_with_1_and_a_message(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    done = train("run", "xor", "attempts=1", "--runs", "file/runs", cwd=tmp_path)

    assert done.returncode == 1
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_cannot_be_written_is_named_with_its_option(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for option, what, command in (
        ("--runs", "runs", ["run", "xor"]),
        ("--cache", "data", ["fetch", "penguins"]),
    ):
        done = train(*command, option, "file/inside", cwd=tmp_path)
        assert done.returncode == 1
        told = done.stderr.replace("\n", " ")
        assert "file/inside" in told
        assert f"cannot be written: Not a directory. Give another place for {what}, by" in told
        assert option in told


@pytest.mark.parametrize("options", [[], ["--debug"]])
def test_what_nobody_foresaw_shows_where_it_was_on_demand(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise LookupError("what now?")

    monkeypatch.setattr("forwardpass.trainer.cli.find_source", fail)
    monkeypatch.setattr(sys, "argv", ["forwardpass-train", *options, "fetch", "mnist"])
    if options:
        with pytest.raises(LookupError, match="what now"):
            main()
        return
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    code = "from forwardpass.trainer.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "run", "digits-mlp", "epochs=100000"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    ) as training:
        assert training.stderr is not None
        for line in training.stderr:
            if line.startswith("epoch 2/"):
                training.send_signal(signal.SIGINT)
                break
        rest = training.stderr.read()
    assert training.returncode == 130
    assert "stopped; the same command goes on from the last checkpoint" in rest
    assert "Traceback" not in rest


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK"])
def test_a_process_with_a_number_and_nothing_else_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(name, "1")
    monkeypatch.setattr(sys, "argv", ["forwardpass-train", "run", "xor"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert f"{name} is set, as in one of several processes, but WORLD_SIZE is not" in (
        capsys.readouterr().err.replace("\n", " ")
    )


def test_run_prints_its_result_for_programs_and_progress_beside(tmp_path: Path) -> None:
    done = train("run", "digits-mlp", "epochs=1", "limit=100", "--json", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (tmp_path / facts["model"]).is_file()
    assert facts["version"] == 1
    assert 0 <= facts["metrics"]["accuracy"] <= 1
    assert "epoch 1/1" in done.stderr


def test_quantize_prints_both_versions_metrics_for_programs(
    publish_once: Publish, tmp_path: Path
) -> None:
    shutil.copytree(publish_once("digits-mlp").folder, tmp_path / "models" / "digits-mlp" / "1")

    done = train("quantize", "digits-mlp", "--max-loss", "0.05", "--json", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (tmp_path / facts["model"]).stat().st_size == facts["bytes"]
    assert (facts["version"], facts["parent_version"]) == (2, 1)
    assert facts["metrics"].keys() == facts["parent_metrics"].keys() == {"accuracy"}
    again = train("quantize", "digits-mlp", cwd=tmp_path)
    assert again.returncode == 1
    assert again.stderr.startswith("error: models/digits-mlp/2 is int8 already")
    table = train("quantize", "digits-mlp", "--version", "1", "--max-loss", "0.05", cwd=tmp_path)
    assert f"accuracy {facts['metrics']['accuracy']:.4f}" in table.stdout


def test_zoo_lists_sizes_for_people_and_programs() -> None:
    rows = {row.pop("name"): row for row in json.loads(train("zoo", "--json").stdout)}
    table = train("zoo").stdout

    assert list(rows) == list(ARCHITECTURES)
    assert rows["lenet-5"] == {
        "parameters": 61_706,
        "trainee_parameters": 61_706,
        "multiply_adds": 416_520,
        "input": [28, 28, 1],
        "outputs": {"logits": [10], "embedding": [84]},
        "reference": ARCHITECTURES["lenet-5"].reference,
    }
    for text in ("61,706", "416,520", "28 x 28 x 1", "logits 10", "embedding 84", "LeCun"):
        assert text in table
    assert "inception-v3 has 27,161,264 parameters while it is trained" in table


def test_a_try_with_few_rows_takes_nobodys_place_unless_asked(tmp_path: Path) -> None:
    quick = ("run", "digits-mlp", "epochs=1", "limit=100", "--json")
    folders = []
    for more in ([], ["--publish"]):
        done = train(*quick, *more, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        folders.append(Path(json.loads(done.stdout)["model"]).parts[-3:-1])
    assert folders == [("digits-mlp-limited", "1"), ("digits-mlp", "1")]


def test_zoo_publishes_one_with_random_weights(tmp_path: Path) -> None:
    done = train("zoo", "mlp-2-3-2", "--seed", "3", "--json", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert all((tmp_path / facts.pop(name)).is_file() for name in ("model", "report"))
    assert facts.pop("parity_error") < 1e-6
    assert facts == {"version": 1, "parameters": 17, "seed": 3}


@pytest.mark.parametrize(
    "command", ["list", "settings", "new", "run", "quantize", "zoo", "fetch", "publish", "show"]
)
def test_help_has_an_example(command: str) -> None:
    assert f"Example: forwardpass-train {command}" in train(command, "--help").stdout


def test_the_version_is_printed() -> None:
    assert train("--version").stdout == f"forwardpass {version('forwardpass')}\n"


def publish_page(folder: Path, name: str) -> Path:
    """Publishes a version of which only the report is a real file."""
    golden = Golden({"x": np.zeros((2, 1))}, {"y": np.zeros((2, 1))})
    return publish(folder / "models", name, b"a model", golden, {}, report="a page")


def show(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `forwardpass-train show` without a display, unless `environment` has one."""
    without = {"DISPLAY": "", "WAYLAND_DISPLAY": "", "COLUMNS": "200"}
    return commands.train(folder, "show", *arguments, environment=without | environment)


def test_show_prints_where_the_newest_report_lies(tmp_path: Path) -> None:
    for name in ("classifier", "embedder", "classifier"):
        publish_page(tmp_path, name)
    # A second is the finest that a manifest tells.
    manifest = tmp_path / "models" / "embedder" / "1" / "manifest.json"
    manifest.write_text(re.sub(r'"created": "2', '"created": "3', manifest.read_text()))
    shown = {name: show(tmp_path, *name) for name in ((), ("classifier",))}
    assert [done.returncode for done in shown.values()] == [0, 0]
    assert shown[()].stdout == f"{tmp_path}/models/embedder/1/report.html\n"
    assert shown["classifier",].stdout == f"{tmp_path}/models/classifier/2/report.html\n"


def test_show_opens_a_browser_where_there_is_a_display(tmp_path: Path) -> None:
    folder = publish_page(tmp_path, "classifier")
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > {tmp_path}/opened\n')
    browser.chmod(0o755)
    done = show(tmp_path, "classifier", DISPLAY=":7", BROWSER=str(browser))
    assert (done.returncode, done.stdout) == (0, "")
    assert (tmp_path / "opened").read_text() == (folder / "report.html").as_uri()
    browser.write_text("#!/bin/sh\nexit 1\n")
    failed = show(tmp_path, "classifier", DISPLAY=":7", BROWSER=str(browser), PATH="")
    assert failed.stdout == f"{folder}/report.html\n"


def test_show_says_what_there_is_not(tmp_path: Path) -> None:
    none = show(tmp_path)
    assert none.returncode == 1
    assert "there is no model in models; train one" in none.stderr
    (publish_page(tmp_path, "gallery") / "report.html").unlink()
    unknown = show(tmp_path, "galery")
    assert unknown.returncode == 2
    assert "there is no model 'galery'; did you mean 'gallery'?" in unknown.stderr
    old = show(tmp_path, "gallery")
    assert old.returncode == 1
    assert "models/gallery/1 has no report.html: an earlier forwardpass published it" in old.stderr
