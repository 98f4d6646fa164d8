"""The recipes of this package, listed without importing torch.

To add one: a file here, as `Recipe` says, and an entry below. A recipe from outside is the same
thing in another place: see `outside`.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forwardpass.trainer.errors import RecipeError

if TYPE_CHECKING:
    from forwardpass.trainer.data.dataset import Data
    from forwardpass.trainer.export.card import Evaluation, Trained
    from forwardpass.trainer.training.checkpoints import Run
    from forwardpass.trainer.training.settings import Settings
    from forwardpass.trainer.training.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Recipe:
    """A module that says what is learned from what; `running` does the rest.

    The module has:

    - `Settings`, a dataclass derived from one of `training.settings`;
    - `load(settings, workspace)`, which returns all that the model is made from, see `Data`;
    - `train(settings, data, run)`, which returns a `Trained`;
    - `measure(answer, data)`, where it can be quantised: from an `Answer` to metrics of test rows,
      of which greater is better;
    - `NEEDS`, where it takes other recipes' models: their names.

    Attributes:
        name: What people type, and the published model's name.
        makes: What comes out.
        data: The data set that it learns from.
        time: How long it takes on two CPU cores.
        result: What it reaches on the test rows.
        tunable: Whether a run measures what it has learned on validation rows, by which settings
            can be compared.
        quantizable: Whether it has `measure`.
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

    @property
    def needs(self) -> tuple[str, ...]:
        """The recipes whose models it takes."""
        return tuple(getattr(self._module(), "NEEDS", ()))

    @property
    def code(self) -> dict[str, str]:
        """What its runs depend on besides settings, data and software: its file, if not ours."""
        from forwardpass.artefact import file_digest

        return {"file": file_digest(Path(self._module().__file__))} if self.module else {}

    def load(self, settings: "Settings", workspace: "Workspace") -> "Data":
        """Returns what a run of these settings learns from.

        Raises:
            RecipeError: It is nothing that a run could be named by.
        """
        from forwardpass.trainer.data.dataset import Data

        data = self._module().load(settings, workspace)
        if not isinstance(data, Data):
            raise self._returned("load", data, "a Dataset, or what else has digest() and source()")
        return data

    def train(self, settings: "Settings", data: "Data", run: "Run") -> "Trained":
        """Returns the trained model.

        Raises:
            RecipeError: It is none.
        """
        from forwardpass.trainer.export.card import Trained

        trained = self._module().train(settings, data, run)
        if not isinstance(trained, Trained):
            raise self._returned("train", trained, "a Trained(...)")
        if not callable(trained.evaluate):
            raise RecipeError(
                f"evaluate of {self.origin} is of the type {type(trained.evaluate).__name__}; give "
                "Trained a function without arguments that returns an Evaluation, as it is called "
                "for the released model alone"
            )
        return trained

    def evaluate(self, trained: "Trained") -> "Evaluation":
        """Returns what the recipe measures and draws of its model.

        Raises:
            RecipeError: It returns something else.
        """
        from forwardpass.trainer.export.card import Evaluation

        evaluation = trained.evaluate()
        if not isinstance(evaluation, Evaluation):
            wanted = "an Evaluation(metrics=..., plots=...)"
            raise self._returned("evaluate", evaluation, wanted)
        return evaluation

    def measure(self, answer: Callable[..., Any], data: "Data") -> dict[str, float]:
        """From an `Answer` and the data to metrics on its test rows; where it is quantizable."""
        metrics: dict[str, float] = self._module().measure(answer, data)
        return metrics

    def told(self) -> AbstractContextManager[None]:
        """Tells what the recipe raises within with its traceback, where it is from outside.

        Raises:
            RecipeFailedError: It is from outside, and raised something else than a TrainerError.
        """
        if not self.module:
            return nullcontext()  # told in a line, as any error of ours
        from forwardpass.trainer.traces import told

        return told(self.origin)

    def _module(self) -> Any:
        return import_module(self.module or f"{__package__}.{self.name.replace('-', '_')}")

    def _returned(self, function: str, value: object, wanted: str) -> RecipeError:
        given = "nothing" if value is None else type(value).__name__
        return RecipeError(f"{function} of {self.origin} returned {given}; let it return {wanted}")


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
            "image-classifier",
            "tells your own pictures apart, by its features",
            "data=FOLDER",
            "2 min",
            "accuracy 0.864 on cats and dogs",
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
        # Those that learn from a file of one's own.
        Recipe(
            "table",
            "multi-layer perceptron, from your own CSV file",
            "data=FILE.csv",
            "11 s",
            "accuracy 0.986 on penguins",
        ),
        Recipe(
            "text-classifier",
            "TF-IDF and one hidden layer, from your own texts",
            "data=FILE.csv",
            "10 s",
            "accuracy 1.0 on 66 messages",
        ),
        Recipe(
            "forecaster",
            "recurrent network, forecasts your own series",
            "data=FILE.csv",
            "14 s",
            "error 0.47 of seasonal-naive on sunspots",
        ),
        Recipe(
            "image-gan",
            "DCGAN, draws pictures like your own",
            "data=FOLDER",
            "40 ms a step",
            "no judge but you",
            tunable=False,
        ),
    )
}
