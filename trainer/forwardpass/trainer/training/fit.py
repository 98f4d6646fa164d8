"""The training loop of every supervised recipe, on Lightning Fabric.

Batches are rows of tensors that lie whole in memory, taken in an order that depends on (seed,
epoch) alone. After each epoch a checkpoint has all that the next one needs, so a run that is killed
and started again ends with the same weights, bit for bit, as one that was not.
"""

import copy
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MeanMetric, Metric

from forwardpass.trainer.errors import DivergedError, SettingError
from forwardpass.trainer.training.checkpoints import Run
from forwardpass.trainer.training.ema import follow
from forwardpass.trainer.training.fitted import Epoch, Fitted
from forwardpass.trainer.training.schedules import Schedule, constant
from forwardpass.trainer.training.seeds import generator, seed_everything
from forwardpass.trainer.training.settings import Settings, Supervised

# What torch says of a row alone in front of a layer that normalises over rows.
_TOO_FEW_VALUES = "Expected more than 1 value per channel when training"


@dataclass(frozen=True, slots=True)
class Rows:
    """Inputs and what is to be answered; axis 0 counts the same rows in both."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)


def _unchanged(inputs: Tensor, _: torch.Generator) -> Tensor:
    return inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What `fit` does to a model.

    Attributes:
        model: From inputs to predictions; trained in place.
        train: What it learns from.
        validation: What each epoch is judged on.
        loss: (predictions, targets) -> scalar, the mean over the rows.
        metric: Takes (predictions, targets) of the validation rows; greater is better.
        metric_name: What it is called, such as "accuracy".
        optimizer: Over the model's parameters; its learning rate is what `schedule` multiplies.
        epochs: Passes over `train`, at least 1.
        batch_size: Rows in a step; the last step of an epoch may have fewer.
        schedule: From the fraction of all steps done, in [0, 1), to a factor of the learning rate.
        augment: (batch of inputs, generator) -> inputs to train on.
        average: Decay a step of the exponential moving average of the weights, which is then what
            is judged and returned; 0 for the weights themselves.
        patience: Epochs without a better metric after which to stop; 0 never stops early.
        keep_last: Whether the model is left with the weights of the last epoch instead of the best,
            as where nothing is to be chosen by the validation rows.
    """

    model: nn.Module
    train: Rows
    validation: Rows
    loss: Callable[[Tensor, Tensor], Tensor]
    metric: Metric
    metric_name: str
    optimizer: Optimizer
    epochs: int
    batch_size: int
    schedule: Schedule = constant
    augment: Callable[[Tensor, torch.Generator], Tensor] = _unchanged
    average: float = 0.0
    patience: int = 0
    keep_last: bool = False


def make_fabric(settings: Settings) -> Fabric:
    """Returns Fabric on devices of the kind, and in the precision, that the settings ask for.

    For more than one device, and where torchrun did not, it starts further processes with the same
    command line as this one.

    Raises:
        SettingError: The processes that torchrun started are not as many as the devices.
    """
    devices = settings.devices if isinstance(settings, Supervised) else 1
    processes = int(os.environ.get("WORLD_SIZE", devices))
    if processes != devices:
        raise SettingError(
            f"devices={devices}, but this is one of {processes} processes: give devices={processes}"
            " where the recipe has that setting, or start one process"
        )
    fabric = Fabric(
        accelerator=settings.accelerator,
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        precision=settings.precision,
    )
    fabric.launch()
    return fabric


def fit(task: Task, settings: Settings, run: Run, name: str = "fit") -> Fitted:
    """Trains the task's model, and leaves in it the weights of its best epoch, on the CPU.

    Takes up the run's checkpoint where there is one. Of several processes each takes its share of
    every batch's rows, and their gradients are averaged by rows: the weights are those of one
    process but for the order of sums, unless the model looks at more than a row at a time (batch
    normalisation sees a process's own rows) or draws random numbers itself (dropout draws others in
    each process). The first process judges each epoch.

    Args:
        task: What to do.
        settings: Give the seed, the device and the precision.
        run: Where checkpoints lie, and progress is told.
        name: Of the checkpoint, where a run fits more than one model.

    Returns:
        What each epoch measured, and whose weights the model has.

    Raises:
        DivergedError: The loss became infinite or NaN.
        SettingError: The last step of an epoch has too few rows for the model.
    """
    fabric = make_fabric(settings)
    # Before a checkpoint brings back those of the step that it was made at.
    rates = [group["lr"] for group in task.optimizer.param_groups]
    model, optimizer = fabric.setup(task.model, task.optimizer)
    averaged = copy.deepcopy(task.model).requires_grad_(requires_grad=False)
    state: dict[str, Any] = {
        "model": model,
        "averaged": averaged,
        "optimizer": optimizer,
        "history": [],
        "best": {},
        "best_epoch": -1,
        "best_score": (),
    }
    if run.load(fabric, name, state):
        run.reporter.note(f"resumed after epoch {len(state['history'])} from {run.folder}")
    judged = averaged if task.average else task.model
    steps = math.ceil(len(task.train) / task.batch_size)
    history: list[Epoch] = state["history"]

    with run.reporter.epochs(task.epochs, steps, len(history)) as bar:
        for epoch in range(len(history), task.epochs):
            if task.patience and epoch - state["best_epoch"] > task.patience:
                run.reporter.note(f"stopped: nothing better in {task.patience} epochs")
                break
            others = (fabric.global_rank,) if fabric.global_rank else ()
            seed_everything(settings.seed, name, "epoch", epoch, *others)  # dropout
            draws = generator(settings.seed, name, "augment", epoch)
            losses = MeanMetric(sync_on_compute=False).to(fabric.device)
            model.train()
            for step, batch in enumerate(_batches(task, settings.seed, name, epoch)):
                factor = task.schedule((epoch * steps + step) / (task.epochs * steps))
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * factor
                mine, weight = _share(len(batch), fabric)
                inputs = fabric.to_device(task.augment(task.train.inputs[batch], draws)[mine])
                targets = fabric.to_device(task.train.targets[batch][mine])
                loss = task.loss(_forward(model, inputs), targets) * weight
                value = _mean(loss.detach(), fabric)
                _check_finite(value, f"at step {step + 1} of epoch {epoch + 1}", optimizer)
                optimizer.zero_grad()
                fabric.backward(loss)
                optimizer.step()
                if task.average:
                    follow(averaged, task.model, task.average, epoch * steps + step)
                losses.update(value, weight=len(batch))
                bar.step(epoch, value)
            measured = _validate(task, fabric, judged) if fabric.is_global_zero else (0.0, 0.0)
            validation_loss, metric = fabric.broadcast(measured)
            _check_finite(validation_loss, f"on validation after epoch {epoch + 1}", optimizer)
            history.append(
                {
                    "train_loss": losses.compute().item(),
                    "validation_loss": validation_loss,
                    f"validation_{task.metric_name}": metric,
                }
            )
            # Of equal metrics, which are common near 1, the one with the lower loss is better.
            if state["best_epoch"] < 0 or (metric, -validation_loss) > state["best_score"]:
                state["best_epoch"] = epoch
                state["best_score"] = (metric, -validation_loss)
                state["best"] = {key: value.clone() for key, value in judged.state_dict().items()}
            run.save(fabric, name, state)
            bar.epoch(epoch, history[-1])
    kept = fabric.broadcast(judged.state_dict() if task.keep_last else state["best"])
    task.model.to("cpu").load_state_dict(kept)
    task.model.eval()
    fitted = Fitted(
        task.metric_name, history, len(history) - 1 if task.keep_last else state["best_epoch"]
    )
    run.reporter.note(
        f"the best of {len(history)} epochs is {fitted.chosen + 1}: "
        f"validation_{fitted.metric} {fitted.score:.4g}"
    )
    return fitted


def _forward(model: nn.Module, inputs: Tensor) -> Tensor:
    try:
        predictions: Tensor = model(inputs)
    except ValueError as error:
        if _TOO_FEW_VALUES not in str(error):
            raise
        raise SettingError(
            f"a step has {len(inputs)} row, of which batch normalisation cannot tell mean and "
            "spread: choose another batch_size, so that the last step of an epoch has more"
        ) from error
    return predictions


def _check_finite(loss: float, where: str, optimizer: Optimizer) -> None:
    if not math.isfinite(loss):
        raise DivergedError(
            f"the loss is {loss} {where}, with a learning rate of "
            f"{optimizer.param_groups[0]['lr']:g}; nothing was published. Try a smaller "
            "learning_rate."
        )


def _share(rows: int, fabric: Fabric) -> tuple[slice, float]:
    """Returns which of a batch's rows are this process's, and what their mean loss weighs.

    The weights make the mean over processes that of all rows. A process that gets none takes the
    first row, which weighs nothing, since all have to take the step.
    """
    if fabric.global_rank >= rows:
        return slice(0, 1), 0.0
    own = len(range(fabric.global_rank, rows, fabric.world_size))
    return slice(fabric.global_rank, None, fabric.world_size), own * fabric.world_size / rows


def _mean(value: Tensor, fabric: Fabric) -> float:
    mean = fabric.all_reduce(value, reduce_op="mean")
    assert isinstance(mean, Tensor)
    return mean.item()


def _batches(task: Task, seed: int, name: str, epoch: int) -> Iterator[Tensor]:
    order = torch.randperm(len(task.train), generator=generator(seed, name, "order", epoch))
    return iter(torch.split(order, task.batch_size))


def _judges_alone() -> bool:
    """Keeps a metric from waiting for processes that judge nothing."""
    return False


@torch.no_grad()
def _validate(task: Task, fabric: Fabric, model: nn.Module) -> tuple[float, float]:
    model.eval()
    metric = task.metric.to(fabric.device)
    metric.distributed_available_fn = _judges_alone
    # By default a mean leaves NaN out, and a ruined model would look well.
    losses = MeanMetric(nan_strategy="disable", sync_on_compute=False).to(fabric.device)
    metric.reset()
    rows = task.validation
    for inputs, targets in zip(
        torch.split(rows.inputs, 1000), torch.split(rows.targets, 1000), strict=True
    ):
        predictions, expected = model(fabric.to_device(inputs)), fabric.to_device(targets)
        losses.update(task.loss(predictions, expected), weight=len(inputs))
        metric.update(predictions, expected)
    return losses.compute().item(), metric.compute().item()
