"""The recipes: what is learned from what, one file each."""

from forwardpass.trainer.recipes import outside
from forwardpass.trainer.recipes.registry import RECIPES, Recipe

__all__ = ["RECIPES", "Recipe", "find_listed", "find_recipe"]


def find_recipe(name: str) -> Recipe:
    """Returns the recipe.

    Args:
        name: One of RECIPES, or of one from outside: see `outside`.

    Raises:
        UnknownNameError: There is none of that name.
        TrainerError: One from outside cannot be run.
    """
    # Those of this package need not wait until all that is installed was looked through.
    return RECIPES[name] if name in RECIPES else outside.find(name)


def find_listed(name: str) -> Recipe | None:
    """Returns the recipe if `forwardpass-train list` has it: no file or module is looked for.

    Raises:
        TrainerError: One from an installed package cannot be run.
    """
    listed = name in RECIPES or name in outside.installed().recipes
    return find_recipe(name) if listed else None
