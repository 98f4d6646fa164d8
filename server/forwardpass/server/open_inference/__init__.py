"""The Open Inference Protocol v2 with Triton's extensions, so that existing clients work unchanged.

    bytes ─ scan ─► head, raw contents ─ request ─► Job ─ worker ─► Answer ─ response ─► bytes

`routes` has the methods; `inference` and `stream` answer ModelInfer and ModelStreamInfer; `request`
reads what they are sent with `tensors` and `parameters`; `response` writes what they answer, with
`classification`. `metadata`, `configuration`, `statistics` and `index` tell what is served and how
it does. `messages` has the message classes, the only untyped thing here.
"""

from forwardpass.server.open_inference.repository import Lifecycle
from forwardpass.server.open_inference.routes import RouteTables, routes

__all__ = ["Lifecycle", "RouteTables", "routes"]
