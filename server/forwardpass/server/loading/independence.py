"""Whether the rows of a graph of unknown origin are answered independently of one another."""

from forwardpass.artefact import max_absolute_error
from forwardpass.server.loading.examples import example_inputs
from forwardpass.server.onnx.session import Session
from forwardpass.server.onnx.signature import Signature

_TOLERANCE = 1e-5


def rows_are_independent(session: Session, signature: Signature) -> bool:
    """Whether a graph of unknown origin answers three rows as it answers each alone.

    Only a graph whose every input and output has any extent on axis 0 is tried; what that axis
    means is not written in the graph, and it may be time. Several inputs must give that axis one
    name: where they do not, their extents may differ, as in a sum of many rows and a single one.
    """
    specs = (*signature.inputs.values(), *signature.outputs.values())
    if not all(spec.shape and spec.shape[0] == -1 for spec in specs):
        return False
    first_axes = {node.shape[0] for node in session.inputs}
    if len(session.inputs) > 1 and (len(first_axes) > 1 or None in first_axes):
        return False
    if all(spec.type.dtype.kind in "iubO" for spec in signature.inputs.values()):
        return False  # Rows of zeros are all alike, and prove nothing.
    names = list(signature.outputs)
    inputs = example_inputs(signature, None)(3)
    try:
        together = session.run(names, inputs)
        for row in range(3):
            alone = session.run(names, {name: a[row : row + 1] for name, a in inputs.items()})
            for whole, part in zip(together, alone, strict=True):
                if max_absolute_error(whole[row : row + 1], part) > _TOLERANCE:
                    return False
    except Exception:  # noqa: BLE001  # whatever the graph objects to, it is not batched
        return False
    return True
