"""The recipes, listed without importing torch.

To add one: a file here with `Settings` and `run(settings, workspace)`, and an entry below. What it
publishes can be quantised where the entry says so, and the file has `load(settings, workspace)`,
which gives a Dataset, and `measure(answer, data)`, which gives metrics of which greater is better.
A recipe from outside is the same thing in another place: see `outside`.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from forwardpass.trainer.errors import RecipeError

if TYPE_CHECKING:
    from forwardpass.trainer.training.settings import Settings
    from forwardpass.trainer.training.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Recipe:
    """One line of the list.

    Attributes:
        name: What people type, and the published model's name.
        makes: What comes out.
        data: The data set that it learns from.
        time: How long it takes on two CPU cores.
        result: What it reaches on the test rows.
        tunable: Whether a run measures what it has learned on validation rows, by which settings
            can be compared.
        quantizable: Whether it has `load` and `measure`.
        origin: Where it comes from: a package with its version, or a file or module.
        module: What is imported where it comes from outside; empty for a file of this folder.
    """

    name: str
    makes: str
    data: str
    time: str
    result: str
    tunable: bool = True
    quantizable: bool = False
    origin: str = "forwardpass"
    module: str = ""

    @property
    def settings(self) -> type[Any]:
        """The recipe's dataclass of settings; importing it imports torch."""
        kind: type[Any] = self._module().Settings
        return kind

    def run(self, settings: "Settings", workspace: "Workspace") -> Any:
        """Trains and publishes: from settings and a workspace to what was published.

        Raises:
            RecipeError: It ended without publishing anything.
            RecipeFailedError: It is from outside, and raised something else than a TrainerError.
        """
        with self._told():
            published = self._module().run(settings, replace(workspace, recipe=self.name))
        if published is None:
            raise RecipeError(
                f"run of {self.origin} returned nothing; let it end in: return "
                "release(Trained(...), workspace)"
            )
        return published

    def load(self, settings: "Settings", workspace: "Workspace") -> Any:
        """Returns the Dataset of a run; where it is quantizable."""
        with self._told():
            return self._module().load(settings, replace(workspace, recipe=self.name))

    def measure(self, answer: Callable[..., Any], data: Any) -> Any:
        """From an `Answer` and a Dataset to metrics on its test rows; where it is quantizable."""
        with self._told():
            return self._module().measure(answer, data)

    def _module(self) -> Any:
        return import_module(self.module or f"{__name__}.{self.name.replace('-', '_')}")

    def _told(self) -> AbstractContextManager[None]:
        if not self.module:
            return nullcontext()  # told in a line, as any error of ours
        from forwardpass.trainer.traces import told

        return told(self.origin)


# In the order of the course: docs/course.md.
RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("spam", "tells spam, from raw text", "spam", "54 s", "accuracy 0.984"),
        Recipe(
            "kernels",
            "blur, sharpening, edges; fixed weights",
            "photos",
            "13 s",
            "exact",
            tunable=False,
        ),
        Recipe(
            "regression",
            "line, cubic, network of 1,003,501 parameters",
            "seattle-weather",
            "73 s",
            "error 7.6, 4.4, 3.9 degrees",
        ),
        Recipe(
            "perceptron",
            "neurons with four kinds of output unit",
            "penguins",
            "14 s",
            "R squared 0.54, 0.80; accuracy 0.84, 0.96",
        ),
        Recipe(
            "playground",
            "a network for points in the plane",
            "drawn",
            "13 s",
            "accuracy 1",
            tunable=False,
        ),
        Recipe(
            "xor",
            "2-2-1 network, 9 parameters",
            "truth table",
            "11 s",
            "error < 1e-18",
            tunable=False,
        ),
        Recipe(
            "digits-mlp",
            "multi-layer perceptron",
            "digits",
            "13 s",
            "accuracy 0.981",
            quantizable=True,
        ),
        Recipe(
            "mnist-cnn",
            "LeNet-5, 61,706 parameters",
            "mnist",
            "80 s",
            "accuracy 0.995",
            quantizable=True,
        ),
        Recipe(
            "fashion-cnn",
            "CNN of 3 stages, 128-number embeddings",
            "fashion-mnist",
            "6 min",
            "accuracy 0.924",
            quantizable=True,
        ),
        Recipe(
            "cifar10-resnet",
            "ResNet-20, 269,722 parameters",
            "cifar10",
            "18 min",
            "accuracy 0.868",
            quantizable=True,
        ),
        Recipe(
            "mnist-resnet",
            "residual net, 64-number embeddings",
            "mnist",
            "133 s",
            "accuracy 0.994, nearest neighbours 0.994",
            quantizable=True,
        ),
        Recipe(
            "resnet50-imagenet",
            "ResNet-50 that others trained, 2,048-number embeddings",
            "imagenet-photos",
            "24 s",
            "19 of 20 photos right",
            tunable=False,
        ),
        Recipe(
            "transfer",
            "its features and a head of two classes",
            "cifar10",
            "6 min",
            "accuracy 0.871; random weights 0.577",
        ),
        Recipe(
            "faces-pca",
            "eigenfaces, 40-number embeddings",
            "faces",
            "13 s",
            "97.5 % known again",
            tunable=False,
        ),
        Recipe(
            "faces-autoencoder",
            "draws faces from 40 numbers",
            "faces",
            "8 min",
            "97.5 % known again",
        ),
        Recipe(
            "words", "word vectors, by skip-gram", "spam", "124 s", "15 % of text halves matched"
        ),
        Recipe(
            "sunspots",
            "recurrent network, forecasts a year ahead",
            "sunspots",
            "13 s",
            "error 0.47 of seasonal-naive",
        ),
        Recipe(
            "airline",
            "LSTM, forecasts a month ahead",
            "airline",
            "15 s",
            "error 0.32 of seasonal-naive",
        ),
        Recipe("text", "GRU, writes like Moby-Dick", "moby-dick", "5 min", "2.02 bits a character"),
        Recipe(
            "mnist-gan", "DCGAN, draws digits", "mnist", "6 min", "87 % clear digits", tunable=False
        ),
        Recipe(
            "mnist-cgan",
            "conditional DCGAN, draws the digit asked for",
            "mnist",
            "7 min",
            "98.7 % judged as asked",
            tunable=False,
        ),
    )
}


def find_recipe(name: str) -> Recipe:
    """Returns the recipe.

    Args:
        name: One of those above, or of one from outside: see `outside`.

    Raises:
        UnknownNameError: There is none of that name.
        TrainerError: One from outside cannot be run.
    """
    if name in RECIPES:
        return RECIPES[name]
    # Those above need not wait until all that is installed was looked through.
    from forwardpass.trainer.recipes import outside

    return outside.find(name)


def find_listed(name: str) -> Recipe | None:
    """Returns the recipe if `forwardpass-train list` has it: no file or module is looked for.

    Raises:
        TrainerError: One from an installed package cannot be run.
    """
    from forwardpass.trainer.recipes import outside

    listed = name in RECIPES or name in outside.installed().recipes
    return find_recipe(name) if listed else None
