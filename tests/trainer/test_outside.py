"""Recipes from outside: files, modules and entry points, run as those of the package are."""

import io
import json
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console
from training import MakeWorkspace, run_recipe

from forwardpass.artefact import load_golden, verify_manifest, within
from forwardpass.pixels import decode_image
from forwardpass.trainer import running
from forwardpass.trainer.cli import main
from forwardpass.trainer.errors import (
    QuantizeError,
    RecipeError,
    RecipeFailedError,
    SettingError,
)
from forwardpass.trainer.export.parity import open_session
from forwardpass.trainer.export.published import Published
from forwardpass.trainer.quantize import quantize
from forwardpass.trainer.recipes import RECIPES, Recipe, digits_mlp, find_recipe
from forwardpass.trainer.recipes.outside import write_new
from forwardpass.trainer.sweep import Sweep, grid, row, sweep
from forwardpass.trainer.training.progress import Reporter
from forwardpass.trainer.training.settings import describe, parse_settings
from forwardpass.trainer.training.workspace import Workspace

from .commands import train
from .test_resume import KILLED_AFTER
from .test_sweep import accuracy

QUICK = ["epochs=6"]
# Alone in its file, it is enough of a recipe to be found.
SMALLEST = """
from forwardpass.trainer.training.settings import Settings

def load(settings, workspace):
    from forwardpass.trainer.data import digits
    return digits.load(workspace.cache, workspace.reporter)

def train(settings, data, run):
    ...
"""


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe's folder is put on Python's path, where the next test must not find it."""
    monkeypatch.setattr(sys, "path", [*sys.path])


@dataclass(frozen=True)
class Own:
    """What `new` wrote, and what it published."""

    file: Path
    recipe: Recipe
    workspace: Workspace
    published: Published

    def changed(self, folder: Path, *changes: tuple[str, str]) -> Recipe:
        """Returns it with other lines, in a file of the same name."""
        text = self.file.read_text()
        for before, after in changes:
            assert text.count(before) == 1
            text = text.replace(before, after)
        (folder / self.file.name).write_text(text)
        return find_recipe(str(folder / self.file.name))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, make_workspace: MakeWorkspace) -> Own:
    file = write_new("my_recipe", tmp_path_factory.mktemp("own"))
    recipe, workspace = find_recipe(str(file)), make_workspace()
    return Own(file, recipe, workspace, run_recipe(recipe, workspace, *QUICK))


Run = Callable[..., str]


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    """Runs a command that fails, in a folder of its own, and returns what it tells."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, code: int) -> str:
        monkeypatch.setattr(sys, "argv", ["forwardpass-train", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == code
        return capsys.readouterr().err

    yield run
    assert not (tmp_path / "models").exists()


def test_what_new_writes_publishes_what_onnx_runtime_answers_alike(own: Own) -> None:
    folder, card = own.published.folder, own.published.card
    assert folder == own.workspace.models / "my-recipe" / "1"
    verify_manifest(folder)
    assert card.recipe == "my-recipe"
    assert list(card.labels) == ["barolo", "grignolino", "barbera"]
    assert card.metrics["accuracy"] > 0.8
    assert card.settings.keys() == {each.name for each in describe(own.recipe.settings)}
    golden = load_golden(folder / "golden.npz")
    model = (folder / "model.onnx").read_bytes()
    (answer,) = open_session(model).run(["probabilities"], dict(golden.inputs))
    assert golden.rows == 8
    assert within(answer, golden.outputs["probabilities"], card.tolerance)
    for trace in (b".py", b"stack_trace", str(own.file.parent).encode()):
        assert trace not in model
    plots = sorted(folder.glob("plots/*.png"))
    assert [plot.stem for plot in plots] == ["confusion-matrix", "learning-curves"]
    assert all(decode_image(plot.read_bytes(), channels=3).std() > 1 for plot in plots)


def test_every_setting_of_what_new_writes_has_a_meaning(own: Own) -> None:
    told = {each.name: each for each in describe(own.recipe.settings)}
    assert all(each.meaning for each in told.values())
    assert told["width"].meaning == "units of the hidden layer"


def test_a_sweep_publishes_the_best_and_never_looks_at_test_rows(
    own: Own, tmp_path: Path, make_workspace: MakeWorkspace
) -> None:
    def swept(recipe: Recipe) -> Sweep:
        points = grid(recipe.settings, ["epochs=3"], ["learning_rate=1e-6,1e-2"])
        return sweep(recipe, points, make_workspace())

    # What is right on these test rows is wrong on all others.
    wrong = own.changed(tmp_path, ("Split(test, test_kinds)", "Split(test, (test_kinds + 1) % 3)"))
    usual, misled = swept(own.recipe), swept(wrong)

    assert usual.best.point.varied == {"learning_rate": "1e-2"}
    assert [row(each) for each in misled.outcomes] == [row(each) for each in usual.outcomes]
    told, right = (accuracy(each) for each in (misled, usual))
    assert told < right / 2


def test_a_sweep_evaluates_what_it_publishes_and_nothing_else(
    own: Own, tmp_path: Path, make_workspace: MakeWorkspace
) -> None:
    told = io.StringIO()
    workspace = make_workspace(reporter=Reporter(Console(file=told)))
    evaluate = "    def evaluate() -> Evaluation:\n"
    noting = own.changed(
        tmp_path, (evaluate, f"{evaluate}        run.reporter.note('evaluated')\n")
    )

    sweep(noting, grid(noting.settings, ["epochs=1"], ["width=2,4,8"]), workspace)

    assert told.getvalue().count("epoch 1/1") == 3
    assert told.getvalue().count("evaluated") == 1


def test_a_sweep_of_what_fits_nothing_is_refused(own: Own, tmp_path: Path) -> None:
    unfitted = own.changed(tmp_path, ("fitted=fitted", "fitted=None"))
    points = grid(unfitted.settings, [], ["width=2,4"])
    with pytest.raises(SettingError, match="my-recipe measures nothing on validation rows"):
        sweep(unfitted, points, own.workspace)


def test_it_is_quantised_where_its_file_is_told(
    own: Own, tmp_path: Path, make_workspace: MakeWorkspace
) -> None:
    workspace = make_workspace()
    shutil.copytree(own.published.folder, workspace.models / "my-recipe" / "1")

    with pytest.raises(QuantizeError, match=r"say where it is, such as: --recipe \./my_recipe\.py"):
        quantize("my-recipe", None, 0.05, workspace)
    other = find_recipe(str(write_new("other", tmp_path)))
    with pytest.raises(QuantizeError, match=r"of the recipe 'my-recipe', and .*other.py is 'other"):
        quantize("my-recipe", None, 0.05, workspace, other)
    unmeasured = own.changed(tmp_path, ("def measure(", "def measure_otherwise("))
    with pytest.raises(QuantizeError, match="can be once its recipe has measure"):
        quantize("my-recipe", None, 0.05, workspace, unmeasured)
    other_data = own.changed(
        tmp_path,
        ("def load(", "class Other:\n    digest = source = lambda _: ''\n\ndef load("),
        ("    wine = load_wine()", "    return Other()\n    wine = load_wine()"),
    )
    with pytest.raises(QuantizeError, match="my-recipe loads no Dataset"):
        quantize("my-recipe", None, 0.05, workspace, other_data)
    published = quantize("my-recipe", None, 0.05, workspace, own.recipe)

    assert published.folder.name == "2"
    assert published.card.quantization.parent_version == 1
    assert published.card.metrics["accuracy"] > 0.8


def test_what_it_needs_is_trained_first_where_it_is_not_published(
    own: Own, tmp_path: Path, make_workspace: MakeWorkspace
) -> None:
    told = io.StringIO()
    workspace = make_workspace(reporter=Reporter(Console(file=told)), keeps_limited_apart=True)
    needy = own.changed(
        tmp_path,
        (
            "def load(settings: Settings, _: Workspace)",
            "NEEDS = ('playground',)\n\ndef load(settings: Settings, workspace: Workspace)",
        ),
        (
            "    wine = load_wine()",
            "    workspace.reporter.note(f'beside {workspace.needed}')\n    wine = load_wine()",
        ),
    )

    run_recipe(needy, workspace, "epochs=1", "limit=30")
    trained = workspace.models / "playground-limited" / "1"
    assert f"beside {{'playground': {trained!r}}}" in told.getvalue()

    published = workspace.models / "playground" / "1"
    shutil.copytree(trained, published)
    run_recipe(needy, workspace, "epochs=2", "limit=30")
    assert f"beside {{'playground': {published!r}}}" in told.getvalue()
    assert [path.name for path in trained.parent.glob("[0-9]*")] == ["1"]


def test_a_killed_run_is_taken_up(own: Own, tmp_path: Path) -> None:
    shutil.copy(own.file, tmp_path)
    command = ["run", "./my_recipe.py", *QUICK]
    killed = train(tmp_path, *command, before=KILLED_AFTER.format(count=2))
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "models").exists()

    resumed = train(tmp_path, *command)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed after epoch 2" in resumed.stderr
    for name in ("model.onnx", "golden.npz"):
        made = (tmp_path / "models" / "my-recipe" / "1" / name).read_bytes()
        assert made == (own.published.folder / name).read_bytes()


def test_a_run_of_a_changed_file_is_another_run(
    own: Own, tmp_path: Path, make_workspace: MakeWorkspace
) -> None:
    """Its checkpoint would be of other code."""
    workspace = make_workspace()
    changed = own.changed(tmp_path, ("mlp([13, settings.width, 3])", "mlp([13, 9, 9, 3])"))
    for recipe in (own.recipe, changed, own.recipe):
        running.train(recipe, parse_settings(recipe.settings, ["epochs=1"]), workspace)
    assert len(list(workspace.runs.glob("my-recipe/*"))) == 2


def test_a_module_of_this_folder_is_run_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cellar").mkdir()
    write_new("wines", tmp_path / "cellar")
    monkeypatch.chdir(tmp_path)
    argv = ["forwardpass-train", "run", "cellar.wines", "epochs=1", "limit=20", "--json"]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert json.loads(capsys.readouterr().out)["model"] == "models/wines-limited/1/model.onnx"


@pytest.mark.parametrize(
    ("argument", "text", "message"),
    [
        ("./missing.py", None, "there is no file ./missing.py; Python files there: beside.py. To"),
        ("./beside", None, "there is no file ./beside; did you mean beside.py?"),
        ("./", None, "./ is a folder; give a recipe's file, such as my_recipe.py"),
        ("beside", None, "there is no recipe 'beside'; if you mean the file, write ./beside.py"),
        ("no.where", None, "there is no module 'no', neither in "),
        ("..", None, "there is no recipe '..'; There are: airline,"),
        ("./digits_mlp.py", SMALLEST, "./digits_mlp.py would be called 'digits-mlp', as a recipe"),
        ("./a b.py", SMALLEST, "./a b.py: models are called as the recipe's file is"),
        (
            "./x.py",
            "",
            "./x.py is no recipe: it lacks a class Settings, a function load(settings, workspace)",
        ),
        (
            "./x.py",
            SMALLEST.replace("def load", "def fetch"),
            "./x.py is no recipe: it lacks a function load(settings, workspace). ",
        ),
        (
            "./x.py",
            SMALLEST.replace("settings, data, run", "settings, workspace"),
            "train of ./x.py takes other arguments; it is called as train(settings, data, run)",
        ),
        (
            "./x.py",
            SMALLEST + "NEEDS = 'mnist-cnn'",
            "NEEDS of ./x.py is 'mnist-cnn'; it is a tuple of models' names, such as (",
        ),
        (
            "./x.py",
            SMALLEST + "NEEDS = ('nothing',)",
            "./x.py needs a model 'nothing', which is not in models, and no recipe that `forward",
        ),
        ("./x.py", SMALLEST + "class Settings: pass", "Settings of ./x.py derives from something"),
        ("./x.py", "raise SystemExit(0)", "./x.py ended the program while it was imported"),
        ("./x.py", SMALLEST, "train of ./x.py returned nothing; let it return a Trained(...)"),
        (
            "./x.py",
            SMALLEST.replace("return digits", "digits"),
            "load of ./x.py returned nothing; let it return a Dataset, or what else has digest()",
        ),
        (
            "./x.py",
            SMALLEST.replace("...", "return 3"),
            "train of ./x.py returned int; let it return a Trained(...)",
        ),
    ],
)
def test_what_cannot_be_a_recipe_says_why(
    argument: str, text: str | None, message: str, refused: Run, tmp_path: Path
) -> None:
    (tmp_path / "beside.py").touch()
    if text is not None:
        (tmp_path / argument).write_text(text)
    assert refused("run", argument, code=2).startswith(f"error: {message}")


@pytest.mark.parametrize(
    ("knob", "message"),
    [
        ("flag: bool = False", "the setting flag is of the type bool; settings are int, float,"),
        ("size: Literal[1, 2] = 1", "the setting size is of the type Literal; settings are int,"),
        ("width: int", "the setting width has no default; give it one"),
    ],
)
def test_a_knob_that_nobody_could_type_is_refused(
    knob: str, message: str, refused: Run, tmp_path: Path
) -> None:
    text = "from dataclasses import dataclass\nfrom typing import Literal\n" + SMALLEST
    knobs = f"@dataclass(frozen=True, kw_only=True)\nclass Settings(Settings):\n    {knob}\n"
    (tmp_path / "x.py").write_text(text + knobs)
    assert refused("run", "./x.py", code=2).startswith(f"error: {message}")
    (tmp_path / "x.py").write_text(text + knobs.partition("\n")[2])
    assert " is no field of Settings; put @dataclass(" in refused("settings", "./x.py", code=2)


def test_a_wrong_setting_is_answered_with_those_of_the_file(own: Own, refused: Run) -> None:
    told = refused("run", str(own.file), "widht=3", code=2)
    assert told.startswith("error: there is no setting 'widht'; did you mean 'width'?")
    assert "width=wide: give a whole number" in refused("run", str(own.file), "width=wide", code=2)


@pytest.mark.parametrize("where", ["import", "train"])
def test_an_error_is_traced_from_the_recipes_file_on(
    where: str, refused: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = tmp_path / f"fails_at_{where}.py"
    beside.write_text("def divide():\n    return 1 / 0\n")
    text = SMALLEST.replace("...", "divide()") + f"from {beside.stem} import divide\n"
    (tmp_path / "x.py").write_text(text + ("divide()\n" if where == "import" else ""))

    told = refused("run", "./x.py", code=1)

    lines = told.splitlines()
    assert lines[:2] == ["error: ./x.py failed:", "Traceback (most recent call last):"]
    files = [line.split('"')[1] for line in lines if line.startswith("  File ")]
    assert files == [str(tmp_path / "x.py"), str(beside)]
    assert "ZeroDivisionError: division by zero" in lines[-2:]
    # Whoever looks for a fault of ours sees all frames.
    monkeypatch.setattr(sys, "argv", ["forwardpass-train", "--debug", "run", "./x.py"])
    with pytest.raises(RecipeFailedError) as failed:
        main()
    assert isinstance(failed.value.__cause__, ZeroDivisionError)


def test_an_error_after_training_is_traced_as_well(
    own: Own, tmp_path: Path, workspace: Workspace
) -> None:
    evaluate = "    def evaluate() -> Evaluation:\n"
    failing = own.changed(tmp_path, (evaluate, evaluate + "        1 / 0\n"))
    first = (
        rf'Traceback \(most recent call last\):\n  File "{tmp_path}/my_recipe.py", line \d+, in e'
    )
    with pytest.raises(RecipeFailedError, match=first):
        run_recipe(failing, workspace, "epochs=1")
    # It is trained, and need not be again.
    assert len(list(workspace.runs.glob("my-recipe/*/fit.checkpoint"))) == 1


def test_a_file_that_is_no_python_shows_the_line(refused: Run, tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("x = 1\ndef f(:\n")
    told = refused("run", "./x.py", code=1)
    assert told.startswith(f'error: ./x.py failed:\n  File "{tmp_path / "x.py"}", line 2\n')
    assert "importlib" not in told


def test_a_missing_extra_is_left_to_the_command_to_tell(tmp_path: Path) -> None:
    """The sentence with the way to install it has a test of its own."""
    (tmp_path / "x.py").write_text("raise ModuleNotFoundError('gone', name='torch.nn')")
    with pytest.raises(ModuleNotFoundError, match="gone"):
        find_recipe(str(tmp_path / "x.py"))
    (tmp_path / "x.py").write_text("import no_such_module")
    with pytest.raises(RecipeFailedError, match="line 1, in <module>\n    import no_such_module\n"):
        find_recipe(str(tmp_path / "x.py"))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("return Evaluation(", "_ = Evaluation(", "returned nothing; let it return an Evaluation("),
        ("evaluate=evaluate", "evaluate=evaluate()", "is of the type Evaluation; give Trained a"),
    ],
)
def test_what_does_not_evaluate_is_told(
    before: str, after: str, message: str, own: Own, tmp_path: Path
) -> None:
    wrong = own.changed(tmp_path, (before, after))
    with pytest.raises(RecipeError, match=re.escape(f"evaluate of {wrong.origin} {message}")):
        run_recipe(wrong, own.workspace, "epochs=1")
    assert [path.name for path in own.workspace.models.iterdir()] == ["my-recipe"]


def test_a_copy_of_a_recipe_of_ours_publishes_in_its_own_name(
    tmp_path: Path, workspace: Workspace
) -> None:
    (tmp_path / "mine.py").write_text(Path(digits_mlp.__file__).read_text())
    published = run_recipe(find_recipe(str(tmp_path / "mine.py")), workspace, "epochs=1")
    assert published.folder == workspace.models / "mine" / "1"
    assert published.card.recipe == "mine"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_recipe", "my_recipe.py is there already; give another name"),
        ("my-recipe", "'my-recipe' is no name for a Python module"),
        ("sub/my_recipe", "'sub/my_recipe' is no name for a Python module"),
        ("mnist_cnn", "mnist_cnn.py would be called 'mnist-cnn', as a recipe of forwardpass is"),
    ],
)
def test_new_overwrites_nothing_and_takes_no_name_of_ours(
    name: str, message: str, refused: Run, tmp_path: Path
) -> None:
    (tmp_path / "my_recipe.py").write_text("mine")
    assert refused("new", name, code=2).startswith(f"error: {message}")
    assert (tmp_path / "my_recipe.py").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


def install(folder: Path, name: str, entries: str) -> None:
    """Puts a distribution where Python finds it, as pip would."""
    info = folder / f"{name}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Name: {name}\nVersion: 1.2\nSummary: tells wines\n")
    (info / "entry_points.txt").write_text(f"[forwardpass.recipes]\n{entries}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two packages with recipes."""
    folder = tmp_path / "site"
    install(folder, "acme", "cellar = acme_cellar\nbroken = acme_broken\nxor = acme_cellar")
    install(folder, "other", "function = other:run\ncellar = other")
    write_new("acme_cellar", folder)
    (folder / "acme_broken.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(folder)
    return folder


LEFT_OUT = "it is left out until its entry point has another name"
WHOLE = "a recipe is a whole module: its entry point is"


def test_list_shows_what_packages_bring_and_imports_none_of_it(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["forwardpass-train", "list", "--json"])
    with pytest.raises(SystemExit):
        main()
    told = capsys.readouterr()

    rows = json.loads(told.out)
    assert [each["name"] for each in rows] == [*RECIPES, "cellar", "broken"]
    assert {each["origin"] for each in rows[: len(RECIPES)]} == {"forwardpass"}
    assert (rows[-2]["makes"], rows[-2]["origin"]) == ("tells wines", "acme 1.2")
    assert told.err.splitlines() == [
        f"acme 1.2 has a recipe 'xor', a name that forwardpass has already; {LEFT_OUT}",
        f"other 1.2 has a recipe 'function' that is other:run; {WHOLE} function = 'other'",
        f"other 1.2 has a recipe 'cellar', a name that acme 1.2 has already; {LEFT_OUT}",
    ]
    assert "acme_cellar" not in sys.modules


def test_what_a_package_brings_is_run_by_name_and_shadows_nothing(
    site: Path, workspace: Workspace
) -> None:
    cellar = find_recipe("cellar")
    published = run_recipe(cellar, workspace, "epochs=8")

    assert published.folder == workspace.models / "cellar" / "1"
    # Its recipe is in the list, so nobody has to say where it is.
    assert quantize("cellar", None, 0.2, workspace).folder.name == "2"
    assert find_recipe("xor") is RECIPES["xor"]
    with pytest.raises(RecipeFailedError, match="broken failed:\nTraceback"):
        find_recipe("broken")
    with pytest.raises(RecipeError, match="would be called 'digits-mlp'"):
        find_recipe("forwardpass.trainer.recipes.digits_mlp")
