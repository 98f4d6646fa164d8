"""Recipes from outside this package: a file, a module, or what an installed package brings.

    ./my_recipe.py       a file; the recipe is called my-recipe
    package.module       a module that Python finds from here; the recipe is called module
    NAME                 an entry point of the group forwardpass.recipes, which names a module

Each is imported, looked at, and then a `Recipe` like those of this package. None may have the name
of one of these: its versions would go among theirs.
"""

import importlib.util
import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from forwardpass.trainer.errors import RecipeError, UnknownNameError
from forwardpass.trainer.recipes.registry import RECIPES, Recipe
from forwardpass.trainer.traces import told

GROUP = "forwardpass.recipes"
# A recipe's functions, and what they are called with.
_CALLS = {
    "load": ("settings", "workspace"),
    "train": ("settings", "data", "run"),
    "measure": ("answer", "data"),
}
_OPTIONAL = ("measure",)
# What `forwardpass-train new` copies; this word stands in it where the copy's name belongs.
_TEMPLATE = Path(__file__).with_name("template.py")


@dataclass(frozen=True, slots=True)
class Installed:
    """What installed packages bring.

    Attributes:
        recipes: By name; nothing of them is imported.
        refused: A sentence for each entry point that is not among them.
    """

    recipes: dict[str, Recipe]
    refused: Sequence[str]


def installed() -> Installed:
    """Returns the recipes of the entry points of installed packages."""
    recipes: dict[str, Recipe] = {}
    refused = []
    for point in entry_points(group=GROUP):
        assert point.dist is not None  # of what is installed
        origin = f"{point.dist.name} {point.dist.version}"
        taken = RECIPES.get(point.name) or recipes.get(point.name)
        if taken is not None:
            refused.append(
                f"{origin} has a recipe {point.name!r}, a name that {taken.origin} has already; "
                "it is left out until its entry point has another name"
            )
        elif point.attr:
            refused.append(
                f"{origin} has a recipe {point.name!r} that is {point.value}; a recipe is a whole "
                f"module: its entry point is {point.name} = {point.module!r}"
            )
        else:
            about = str(point.dist.metadata.json.get("summary", ""))
            recipes[point.name] = Recipe(
                point.name, about, data="", time="", result="", origin=origin, module=point.module
            )
    return Installed(recipes, refused)


def find(text: str) -> Recipe:
    """Returns the recipe that a file, a module or an installed package has.

    Raises:
        UnknownNameError: The text is no file or module, and no package brings it.
        RecipeError: There is no such file or module, it is no recipe, or it has the name of one of
            this package.
        SettingError: Its settings are of types that cannot be typed.
        RecipeFailedError: It raised an error when it was imported.
    """
    if text.endswith(".py") or "/" in text:
        return _from_file(text)
    known = installed().recipes
    if text in known:
        return _looked_at(known[text], _imported(text, known[text].module))
    parts = text.split(".")
    if len(parts) > 1 and all(part.isidentifier() for part in parts):
        recipe = _unknown_to_lists(parts[-1], text, text)
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
        return _looked_at(recipe, _imported(text, text))
    if Path(f"{text}.py").is_file():
        raise RecipeError(f"there is no recipe {text!r}; if you mean the file, write ./{text}.py")
    raise UnknownNameError("recipe", text, [*RECIPES, *known])


def _from_file(said: str) -> Recipe:
    path = Path(said)
    if not path.is_file():
        raise RecipeError(_no_file(said, path))
    path = path.resolve()
    # Its path names the module, as no other module is called so.
    spec = importlib.util.spec_from_file_location(str(path), path)
    if spec is None or spec.loader is None:
        raise RecipeError(f"{said} is no recipe: give a Python file, whose name ends in .py")
    recipe = _unknown_to_lists(path.stem, said, spec.name)
    module = importlib.util.module_from_spec(spec)
    # As `python FILE` does: what lies beside it can be imported.
    sys.path.insert(0, str(path.parent))
    sys.modules[spec.name] = module
    with told(said):
        try:
            spec.loader.exec_module(module)
        except SystemExit as error:
            raise RecipeError(_ended(said)) from error
    return _looked_at(recipe, module)


def _no_file(said: str, path: Path) -> str:
    if path.is_dir():
        return f"{said} is a folder; give a recipe's file, such as {path / 'my_recipe.py'}"
    if path.with_suffix(".py").is_file():
        return f"there is no file {said}; did you mean {path.with_suffix('.py')}?"
    there = sorted(each.name for each in path.parent.glob("*.py"))
    others = f"Python files there: {', '.join(there)}" if there else "no Python file is there"
    return f"there is no file {said}; {others}. To begin one: forwardpass-train new {path.stem}"


def _imported(said: str, name: str) -> ModuleType:
    """Imports a recipe's module.

    Args:
        said: What the person typed.
        name: The module's.

    Raises:
        RecipeError: There is no such module, or it ended the program.
        RecipeFailedError: It raised an error.
    """
    with told(said):
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if f"{name}.".startswith(f"{error.name}."):
                raise RecipeError(
                    f"there is no module {error.name!r}, neither in {Path.cwd()} nor among what is "
                    "installed; a file is given by its path, such as ./my_recipe.py"
                ) from error
            raise
        except SystemExit as error:
            raise RecipeError(_ended(said)) from error


def _ended(said: str) -> str:
    return (
        f"{said} ended the program while it was imported; let it define things only, and put what "
        'it does when run by itself under: if __name__ == "__main__":'
    )


def _unknown_to_lists(stem: str, origin: str, module: str) -> Recipe:
    """Returns the recipe of a file or module, of which no list tells more than its name."""
    name = stem.replace("_", "-")
    if not stem.replace("-", "_").isidentifier() or not stem.isascii():
        raise RecipeError(
            f"{origin}: models are called as the recipe's file is, and {stem!r} would be no "
            "model's name; give it one of ASCII letters, digits and underscores, such as "
            "my_recipe.py"
        )
    if name in RECIPES:
        raise RecipeError(
            f"{origin} would be called {name!r}, as a recipe of forwardpass is, and its versions "
            f"would go among that one's; give it another name, such as my_{stem}.py. For "
            f"forwardpass's own: forwardpass-train run {name}"
        )
    return Recipe(name, makes="", data="", time="", result="", origin=origin, module=module)


def _looked_at(recipe: Recipe, module: ModuleType) -> Recipe:
    """Returns the recipe with what its module shows of it.

    Raises:
        RecipeError: The module is no recipe.
        SettingError: Its settings are of types that cannot be typed.
    """
    # With torch, as does every recipe.
    from forwardpass.trainer.training.settings import Settings, check_knobs

    _check_parts(recipe.origin, module)
    if not isinstance(module.Settings, type) or not issubclass(module.Settings, Settings):
        raise RecipeError(
            f"Settings of {recipe.origin} derives from something else than "
            "Settings or Supervised of forwardpass.trainer.training.settings, which have seed, "
            "limit and others"
        )
    with told(recipe.origin):
        check_knobs(module.Settings)
    return replace(recipe, quantizable=hasattr(module, "measure"))


def _check_parts(origin: str, module: ModuleType) -> None:
    """Refuses a module that lacks something, or whose functions cannot be called as they are."""
    lacks = [] if hasattr(module, "Settings") else ["a class Settings"]
    for name, call in _CALLS.items():
        if callable(function := getattr(module, name, None)):
            try:
                inspect.signature(function).bind(*call)
            except TypeError:
                raise RecipeError(
                    f"{name} of {origin} takes other arguments; it is called as {_text(name)}"
                ) from None
        elif name not in _OPTIONAL:
            lacks.append(f"a function {_text(name)}")
    if lacks:
        *others, last = lacks
        raise RecipeError(
            f"{origin} is no recipe: it lacks {', '.join(others) + ' and ' if others else ''}{last}"
            ". `forwardpass-train new my_recipe` writes one to begin with"
        )
    needs = getattr(module, "NEEDS", ())
    if not isinstance(needs, tuple | list) or not all(isinstance(name, str) for name in needs):
        raise RecipeError(
            f"NEEDS of {origin} is {needs!r}; it is a tuple of models' names, such as "
            "('mnist-cnn',)"
        )


def _text(name: str) -> str:
    return f"{name}({', '.join(_CALLS[name])})"


def write_new(name: str, folder: Path) -> Path:
    """Writes a recipe that runs as it is, to be changed, and returns its file.

    Args:
        name: A module's, such as "my_recipe".
        folder: Where.

    Raises:
        RecipeError: The name cannot be a recipe's, or the file is there already.
    """
    if not name.isidentifier():
        raise RecipeError(
            f"{name!r} is no name for a Python module; give one of letters, digits and "
            "underscores, such as my_recipe"
        )
    path = folder / f"{name}.py"
    _unknown_to_lists(name, str(path), name)
    text = _TEMPLATE.read_text(encoding="utf-8").replace(_TEMPLATE.stem, name)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise RecipeError(f"{path} is there already; give another name") from None
    except OSError as error:
        raise RecipeError(f"{path} could not be written: {error.strerror or error}") from error
    return path
