"""The recipes, listed without importing torch.

To add one: a file here with `Settings` and `run(settings, workspace)`, and an entry below. With
`load(settings, workspace)`, which gives a Dataset, and `measure(answer, data)`, which gives metrics
of which greater is better, what it publishes can be quantised.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from forwardpass.trainer.errors import UnknownNameError


@dataclass(frozen=True, slots=True)
class Recipe:
    """One line of the list.

    Attributes:
        name: What people type, and the published model's name.
        makes: What comes out.
        data: The data set that it learns from.
        time: How long it takes on two CPU cores.
        result: What it reaches on the test rows.
    """

    name: str
    makes: str
    data: str
    time: str
    result: str

    @property
    def settings(self) -> type[Any]:
        """The recipe's dataclass of settings; importing it imports torch."""
        kind: type[Any] = self._module().Settings
        return kind

    @property
    def run(self) -> Callable[..., Any]:
        """Trains and publishes: from settings and a workspace to what was published."""
        function: Callable[..., Any] = self._module().run
        return function

    @property
    def quantizable(self) -> bool:
        """Whether it has `load` and `measure`; importing it imports torch."""
        return hasattr(self._module(), "measure")

    @property
    def load(self) -> Callable[..., Any]:
        """From settings and a workspace to the Dataset of a run; where it is quantizable."""
        function: Callable[..., Any] = self._module().load
        return function

    @property
    def measure(self) -> Callable[..., Any]:
        """From an `Answer` and a Dataset to metrics on its test rows; where it is quantizable."""
        function: Callable[..., Any] = self._module().measure
        return function

    def _module(self) -> Any:
        return import_module(f"{__name__}.{self.name.replace('-', '_')}")


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("kernels", "blur, sharpening, edges; fixed weights", "photos", "13 s", "exact"),
        Recipe("xor", "2-2-1 network, 9 parameters", "truth table", "11 s", "error < 1e-18"),
        Recipe("digits-mlp", "multi-layer perceptron", "digits", "13 s", "accuracy 0.981"),
        Recipe("mnist-cnn", "LeNet-5, 61,706 parameters", "mnist", "80 s", "accuracy 0.995"),
        Recipe(
            "mnist-resnet",
            "residual net, 64-number embeddings",
            "mnist",
            "133 s",
            "accuracy 0.994, nearest neighbours 0.994",
        ),
        Recipe(
            "fashion-cnn",
            "CNN of 3 stages, 128-number embedding",
            "fashion-mnist",
            "21 min",
            "accuracy 0.924",
        ),
        Recipe(
            "cifar10-resnet",
            "ResNet-20, 269,722 parameters",
            "cifar10",
            "21 min",
            "accuracy 0.924",
        ),
        Recipe("mnist-gan", "DCGAN, draws digits", "mnist", "6 min", "87 % clear digits"),
    )
}


def find_recipe(name: str) -> Recipe:
    """Returns the recipe.

    Raises:
        UnknownNameError: There is none of that name.
    """
    if name not in RECIPES:
        raise UnknownNameError("recipe", name, RECIPES)
    return RECIPES[name]
