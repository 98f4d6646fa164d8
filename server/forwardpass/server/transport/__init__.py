"""Between the network and the calls.

`call` is the seam: what every handler is written against, and `task` drives the handlers. `stock`
implements it on grpcio's public API, `completion_queue` on the layer under it, several times as
fast. `select` chooses.
"""
