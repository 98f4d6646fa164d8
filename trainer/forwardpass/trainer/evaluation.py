"""What a trained module answers for many rows."""

import torch
from torch import nn

from forwardpass.wire import Array


@torch.inference_mode()
def predict(module: nn.Module, inputs: Array, rows: int = 1000) -> list[Array]:
    """Returns each of the module's outputs for all inputs, computed so many rows at a time.

    Args:
        module: Put into evaluation mode; takes one input.
        inputs: (n, ...).
        rows: In one run, which bounds memory.
    """
    module.eval()
    device = next(module.parameters()).device
    parts = []
    for batch in torch.split(torch.from_numpy(inputs), rows):
        answers = module(batch.to(device))
        parts.append((answers,) if isinstance(answers, torch.Tensor) else answers)
    return [torch.cat(output).cpu().numpy() for output in zip(*parts, strict=True)]
