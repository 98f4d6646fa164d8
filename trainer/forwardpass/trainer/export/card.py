"""What a recipe returns, and the model card that is made of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from platform import python_version

import torch
from torch import nn

from forwardpass.trainer.export.draft import Roles
from forwardpass.trainer.export.preprocess import Preprocess
from forwardpass.trainer.training.fitted import Fitted
from forwardpass.trainer.training.settings import Settings
from forwardpass.v1 import model_card_pb2
from forwardpass.wire import Array, Preparation


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What a trained model does on test rows.

    Attributes:
        metrics: By name; finite.
        plots: PNG files by name.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    plots: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a recipe's `train` returns: a model and its description.

    Attributes:
        description: One sentence on what the model does.
        reference: The paper or book that the architecture is from.
        module: The trained module with its preprocessing; forward takes the inputs by name, or what
            `front` makes of them.
        inputs: What each input means, in forward's order.
        outputs: What each output means, in forward's order.
        golden_inputs: At least two real examples of each input.
        tolerance: How far ONNX Runtime's answers may be from torch's.
        evaluate: Measures and draws it. Called for the released model alone: were all points of a
            sweep measured on test rows, somebody would choose by them.
        fitted: How it did on validation rows, by which a sweep chooses; None where nothing may be
            chosen by them.
        labels: The name of each class, where there are any.
        front: What makes the module's inputs of texts, columns or pictures, before it in the graph;
            None where the module takes the inputs itself.
        frozen: Parameters of the front, which were trained before.
        golden_source: Who answers the golden inputs, where it is not torch alone.
        preparation: What is done to a picture until it has the size of the image input; None for
            what is usual.
        states: Of a step, the output that each state input takes its next value from.
        sequences: The inputs of which axis 1 counts steps, of any number.
        judge: Of a generator, the model that its metrics are the opinion of; None for any other.
        also: What the same weights are published as besides, by what follows the model's name and a
            dash.
    """

    description: str
    reference: str
    module: nn.Module
    inputs: Roles
    outputs: Roles
    golden_inputs: Mapping[str, Array]
    tolerance: model_card_pb2.Tolerance
    evaluate: Callable[[], Evaluation] = Evaluation
    fitted: Fitted | None = None
    labels: tuple[str, ...] = ()
    front: Preprocess | None = None
    frozen: int = 0
    golden_source: str = ""
    preparation: Preparation | None = None
    states: Mapping[str, str] = field(default_factory=dict)
    sequences: tuple[str, ...] = ()
    judge: model_card_pb2.PublishedModel | None = None
    also: Mapping[str, "Trained"] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a version comes from.

    Attributes:
        recipe: The name of the recipe that trained it; empty where none did.
        settings: Of the run.
        source: What it learned from; None for nothing.
    """

    recipe: str
    settings: Settings
    source: model_card_pb2.DataSource | None


def software(*frameworks: str) -> dict[str, str]:
    """Returns the versions that a result depends on, by name.

    Args:
        frameworks: The distributions that made the model; torch where none is named.
    """
    packages = (*(frameworks or ("torch",)), "onnx", "onnxruntime", "forwardpass")
    return {"python": python_version()} | {name: version(name) for name in packages}


def make_card(
    trained: Trained, metrics: Mapping[str, float], provenance: Provenance
) -> model_card_pb2.ModelCard:
    """Returns what is known of a version before its graph is looked at."""
    return model_card_pb2.ModelCard(
        description=trained.description,
        recipe=provenance.recipe,
        settings=provenance.settings.as_text(),
        signature=model_card_pb2.Signature(
            batched=True,
            states=[
                model_card_pb2.StatePair(input=before, output=after)
                for before, after in trained.states.items()
            ],
        ),
        labels=trained.labels,
        metrics=metrics,
        parameters=trained.frozen + sum(each.numel() for each in trained.module.parameters()),
        data=provenance.source,
        seed=provenance.settings.seed,
        tolerance=trained.tolerance,
        versions=software(),
        threads=torch.get_num_threads(),
        reference=trained.reference,
        judge=trained.judge,
        golden_source=trained.golden_source,
    )
