"""A torch module of the caller's, as it is."""

import copy
import inspect
from collections.abc import Mapping, Sequence

import onnx
import torch
from torch import Tensor, nn

from forwardpass.artefact import Golden
from forwardpass.trainer.errors import PublishError
from forwardpass.trainer.export.graph import export_graph
from forwardpass.trainer.export.parity import answer
from forwardpass.trainer.export.preprocess import Preprocess
from forwardpass.trainer.export.table import first_line, shape_text
from forwardpass.wire import Array


class Adapter(nn.Module):
    """Calls a module as it wants to be called, and gives what it returns as a tuple.

    Args:
        module: Whose forward returns a tensor, some, or a mapping of them.
        inputs: Names, if forward takes the inputs by them; empty where it takes them in order.
        outputs: Names, in order; None for all.
    """

    def __init__(
        self, module: nn.Module, inputs: Sequence[str], outputs: Sequence[str] | None
    ) -> None:
        super().__init__()
        self.module = module
        self.inputs, self.outputs = tuple(inputs), outputs

    def named(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Returns the outputs by name.

        Raises:
            PublishError: Something else than tensors, or not those that are wanted.
        """
        if self.inputs:
            answers = self.module(**dict(zip(self.inputs, inputs, strict=True)))
        else:
            answers = self.module(*inputs)
        return name_outputs(answers, self.outputs)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Returns the outputs in their order."""
        return tuple(self.named(*inputs).values())


def name_outputs(answers: object, wanted: Sequence[str] | None) -> dict[str, Tensor]:
    """Returns what a forward has returned, by name.

    Args:
        answers: A tensor, several, or a mapping.
        wanted: Names, in order; None for all, which are then named as the mapping does, or
            "output" and "output_0", "output_1", ….

    Raises:
        PublishError: As for `Adapter.named`.
    """
    if isinstance(answers, Mapping):
        found = {str(name): each for name, each in answers.items() if each is not None}
    else:
        several = list(answers) if isinstance(answers, tuple | list) else [answers]
        names = [f"output_{place}" for place in range(len(several))]
        if wanted is not None and len(wanted) == len(several):
            names = list(wanted)
        elif not isinstance(answers, tuple | list):
            names = ["output"]
        found = dict(zip(names, several, strict=True))
    chosen = list(found) if wanted is None else list(wanted)
    if missing := [name for name in chosen if name not in found]:
        raise PublishError(
            f"forward returns {', '.join(found)}; there is no {', '.join(missing)}. Name outputs "
            "as a mapping does, or one for each tensor"
        )
    for name in chosen:
        if not isinstance(found[name], Tensor):
            raise PublishError(
                f"forward returns a {type(found[name]).__name__} as {name!r}; it has to return a "
                "tensor, several, or a mapping from names to tensors"
            )
    return {name: found[name] for name in chosen}


def export_module(
    module: nn.Module,
    sample: Mapping[str, Array],
    preprocess: Preprocess | None,
    outputs: Sequence[str] | None,
) -> tuple[onnx.ModelProto, Golden]:
    """Returns the graph, and torch's own answers to the sample.

    The module stays as it is: a copy of it goes to the CPU and is set to evaluate.

    Args:
        module: On any device.
        sample: Two rows or more of each input.
        preprocess: What is before the module; None for nothing.
        outputs: Names, in order; None for all.

    Raises:
        TrainerError: forward refuses the sample, or cannot be expressed in ONNX.
        PublishError: It returns something else than tensors.
    """
    module = _copy(module).to("cpu").eval()
    taken = sample if preprocess is None else preprocess.apply(sample)
    by_name = [] if preprocess is not None and taken.keys() != sample.keys() else list(taken)
    adapter = Adapter(module, _by_name(module, by_name), outputs).eval()
    names = list(_call(adapter, taken))
    golden = answer(adapter, taken, names)
    graph = export_graph(adapter, taken, names)
    if preprocess is not None:
        graph = preprocess.join(graph, sample)
        onnx.checker.check_model(graph, full_check=True)
    return graph, Golden(sample, golden.outputs)


def _copy(module: nn.Module) -> nn.Module:
    if isinstance(module, torch.jit.ScriptModule):
        raise PublishError(
            "the module is a ScriptModule, which has no graph in ONNX; give the module that it was "
            "made of"
        )
    try:
        return copy.deepcopy(module)
    except RuntimeError as error:
        raise PublishError(
            f"the module cannot be copied: {first_line(error)}. Keep what it computes with as "
            "parameters or buffers, and not as results of them"
        ) from error


def _by_name(module: nn.Module, inputs: Sequence[str]) -> list[str]:
    """Returns the inputs if forward has parameters of their names; else none."""
    parameters = list(inspect.signature(module.forward).parameters)
    found = [name for name in inputs if name in parameters]
    if found and len(found) < len(inputs):
        raise PublishError(
            f"forward takes {', '.join(parameters)}, the sample has {', '.join(inputs)}: name all "
            "inputs as forward does, or none, to give them in its order"
        )
    return found


def _call(adapter: Adapter, inputs: Mapping[str, Array]) -> dict[str, Tensor]:
    """Returns what the module answers, by name."""
    try:
        with torch.inference_mode():
            return adapter.named(*map(torch.from_numpy, inputs.values()))
    except PublishError:
        raise
    except Exception as error:
        given = ", ".join(f"{name} {shape_text(array)}" for name, array in inputs.items())
        raise PublishError(
            f"forward does not take the sample, {given}: {first_line(error)} "
            f"({type(error).__name__})"
        ) from error
