"""The public door: a model of one's own, published as a recipe publishes its own.

module, estimator or file ─ export/module, estimator, onnx_file ─► graph and golden data
                          ─ export/sample, roles ─► what may be said of them
                          ─ export/draft ─► MODELS/<name>/<n>
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import onnx
import torch
from sklearn.base import BaseEstimator
from torch import nn

from forwardpass.artefact import Golden
from forwardpass.trainer.errors import PublishError
from forwardpass.trainer.export.card import software
from forwardpass.trainer.export.draft import Draft, publish_draft
from forwardpass.trainer.export.estimator import export_estimator
from forwardpass.trainer.export.module import export_module
from forwardpass.trainer.export.onnx_file import export_onnx, read_onnx
from forwardpass.trainer.export.preprocess import (
    Columns,
    Pixels,
    Preprocess,
    Texts,
    as_preprocess,
    is_pictures,
)
from forwardpass.trainer.export.published import Published
from forwardpass.trainer.export.roles import Outputs, input_roles, output_roles
from forwardpass.trainer.export.sample import Sample, check_answers, golden_rows, read_sample
from forwardpass.trainer.export.table import to_array, to_columns
from forwardpass.v1 import model_card_pb2
from forwardpass.wire import Array

# As servers read the names of folders.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Exported:
    """A graph, with what the framework that made it knows.

    Attributes:
        graph: Takes the golden inputs.
        golden: The sample, with the framework's own answers.
        source: Whose answers they are, as the card says it.
        versions: The software that made the model, by name.
        labels: The name of each class, where the framework has them.
        parameters: How many trained numbers there are; 0 where that is not known.
        threads: How many torch computed with; 0 without it.
        batched: Whether axis 0 counts rows.
    """

    graph: onnx.ModelProto
    golden: Golden
    source: str
    versions: Mapping[str, str]
    labels: tuple[str, ...] = ()
    parameters: int = 0
    threads: int = 0
    batched: bool = True


def publish(
    model: nn.Module | BaseEstimator | onnx.ModelProto | str | PathLike[str],
    name: str,
    *,
    inputs: Sample,
    outputs: Outputs | None = None,
    labels: Sequence[str] | None = None,
    metrics: Mapping[str, float] | None = None,
    preprocess: Pixels | Texts | Columns | Mapping[str, Any] | None = None,
    plots: Mapping[str, bytes] | None = None,
    description: str = "",
    tolerance: float = 1e-3,
    models: str | PathLike[str] = "models",
) -> Published:
    """Publishes the next version of a model of one's own, as MODELS/<name>/<n>/.

    ONNX Runtime has to answer the sample as the framework does that made the model: a row at a time
    and all rows together. A bare ONNX file has no framework at hand, so it is compared with itself,
    which its card says.

    Args:
        model: A torch module, a fitted scikit-learn estimator or pipeline, or an ONNX file: its
            path, or as onnx.load gives it. It stays as it is.
        name: The model's.
        inputs: A sample by input name, two rows or more of each, axis 0 counting rows; or a data
            frame. 16 of the rows, evenly spread, travel with the model as golden data. A module
            gets them by the names of forward's parameters, or in their order.
        outputs: Names in order, or what each means by name: "probabilities", "logits", "embedding",
            "values" or "image". Otherwise the model's own names, and what their numbers tell.
        labels: The name of each class, in the order of the scores; of scikit-learn's `classes_`
            where they are not given.
        metrics: What was measured on test rows, by name, such as {"accuracy": 0.98}.
        preprocess: What the graph does before the model: `Pixels`, `Texts`, `Columns`, or the
            configuration that timm gives.
        plots: PNG files by name.
        description: One sentence on what the model does.
        tolerance: How far an answer may be off: a share of it, and the same share of the greatest
            answer of the output that has the smallest ones.
        models: The repository.

    Returns:
        The version: its folder, and its card.

    Raises:
        ParityError: ONNX Runtime answers otherwise, or rows change one another.
        PublishError: The model, the sample or what is said of them cannot be published; or the
            version could not be written.
        TrainerError: The module cannot be expressed in ONNX.
    """
    _check_said(name, metrics or {}, plots or {})
    sample, prepared = read_sample(inputs), as_preprocess(preprocess)
    if isinstance(prepared, Columns):
        sample = to_columns(sample)
    exported = _export(model, sample, prepared, None if outputs is None else list(outputs))
    golden = exported.golden
    classes = exported.labels if labels is None else tuple(map(str, labels))
    check_answers(golden, batched=exported.batched)
    card = model_card_pb2.ModelCard(
        description=description,
        signature=model_card_pb2.Signature(batched=exported.batched),
        labels=classes,
        metrics={key: float(value) for key, value in (metrics or {}).items()},
        parameters=exported.parameters,
        tolerance=_tolerance(golden, tolerance),
        versions=exported.versions,
        threads=exported.threads,
        golden_source=exported.source,
    )
    draft = Draft(
        name=name,
        graph=exported.graph,
        golden=golden,
        card=card,
        inputs=input_roles(golden.inputs),
        outputs=output_roles(golden, outputs, classes),
        plots=plots or {},
        preparation=prepared.preparation if isinstance(prepared, Pixels) else None,
    )
    return Published(publish_draft(draft, Path(models)), card)


def publish_file(
    path: Path,
    name: str,
    *,
    golden: Path,
    labels: Path | None,
    image: str | None,
    mean: Sequence[float],
    std: Sequence[float],
    models: Path,
) -> Published:
    """Publishes an ONNX file by files, as `publish` does.

    Args:
        path: The ONNX file; weights beside it are read too.
        name: The model's.
        golden: A .npz file with a sample of each input, under its name.
        labels: A text file with the name of a class in each line; None where there are none.
        image: The input that takes pictures: in the sample uint8 (n, height, width, channels). What
            the graph wants as float (n, channels, height, width) is made of them, as `Pixels` does.
        mean: Of each channel in [0, 1], or of all; empty where the graph takes pixels itself.
        std: Their standard deviations.
        models: The repository.

    Raises:
        PublishError: A file cannot be read; or as for `publish`.
        ParityError: As for `publish`.
    """
    model = read_onnx(path)
    sample = _read_arrays(golden)
    wants_float = image is not None and any(
        value.name == image and value.type.tensor_type.elem_type != onnx.TensorProto.UINT8
        for value in model.graph.input
    )
    if image is not None and (image not in sample or not is_pictures(sample[image])):
        raise PublishError(
            f"{golden} has no pictures named {image!r}: uint8 (rows, height, width, 1 or 3)"
        )
    if wants_float and not (mean and std):
        raise PublishError(
            f"the graph takes {image!r} as float: give --mean and --std, such as --mean "
            "0.485,0.456,0.406 --std 0.229,0.224,0.225, as the model learned from pixels in [0, 1]"
        )
    height, width = sample[image].shape[1:3] if image is not None else (0, 0)
    return publish(
        model,
        name,
        inputs=sample,
        labels=_read_lines(labels) if labels is not None else None,
        preprocess=Pixels(size=(height, width), mean=mean, std=std) if wants_float else None,
        models=models,
    )


def _read_arrays(path: Path) -> dict[str, Array]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: to_array(file[name]) for name in file.files}
    except (OSError, ValueError, EOFError, AttributeError, BadZipFile) as error:
        raise PublishError(f"{path} cannot be read as .npz: {error}") from error


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PublishError(f"{path} cannot be read: {error}") from error


def _export(
    model: Any,
    sample: Mapping[str, Array],
    preprocess: Preprocess | None,
    outputs: Sequence[str] | None,
) -> _Exported:
    if isinstance(model, nn.Module):
        graph, golden = export_module(model, golden_rows(sample), preprocess, outputs)
        return _Exported(
            graph=graph,
            golden=golden,
            source="",  # torch
            versions=software(),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            threads=torch.get_num_threads(),
        )
    if isinstance(model, onnx.ModelProto | str | PathLike):
        graph = read_onnx(model if isinstance(model, onnx.ModelProto) else Path(model))
        made_by = {graph.producer_name or "unknown": graph.producer_version}
        parameters = sum(math.prod(each.dims) for each in graph.graph.initializer)
        graph, golden, batched = export_onnx(graph, sample, preprocess, outputs)
        return _Exported(
            graph=graph,
            golden=golden,
            source="onnxruntime",
            versions=software("onnx") | made_by,
            parameters=parameters,
            batched=batched,
        )
    if isinstance(model, BaseEstimator):
        if preprocess is not None:
            raise PublishError(
                "preprocess is for networks; put it before the estimator, in scikit-learn's "
                "Pipeline, and publish that"
            )
        graph, golden, labels = export_estimator(model, golden_rows(sample), outputs)
        return _Exported(
            graph=graph,
            golden=golden,
            source="scikit-learn",
            versions=software("scikit-learn", "skl2onnx"),
            labels=labels,
        )
    raise PublishError(
        f"the model is a {type(model).__name__}; give a torch nn.Module, a fitted scikit-learn "
        "estimator, or an ONNX file"
    )


def _check_said(name: str, metrics: Mapping[str, float], plots: Mapping[str, bytes]) -> None:
    """Refuses a name, metrics and plots that servers would not show."""
    if not _NAME.fullmatch(name):
        raise PublishError(
            f"the name {name!r} is no model's: it begins with a letter or digit, and has no more "
            "than 128 of those, dots, dashes and underscores"
        )
    for key, value in metrics.items():
        if not np.isfinite(value):
            raise PublishError(f"metric {key!r} is {value}, and a metric is finite")
    for key, png in plots.items():
        if not png.startswith(_PNG) or not key.endswith(".png") or Path(key).name != key:
            raise PublishError(f"plot {key!r} is no PNG file, or its name is not NAME.png")


def _tolerance(golden: Golden, share: float) -> model_card_pb2.Tolerance:
    """Returns a tolerance in the unit of the output that has the smallest answers."""
    scales = [
        float(np.abs(array.astype(np.float64)).max(initial=0.0))
        for array in golden.outputs.values()
        if array.dtype.kind == "f"
    ]
    return model_card_pb2.Tolerance(relative=share, absolute=share * min(scales, default=1.0))
