"""The Open Inference Protocol v2 with Triton's extensions, so that existing clients work unchanged.

`infer` and `stream` answer ModelInfer and ModelStreamInfer; `request` reads what they are sent,
with `tensors` and `parameters`; `response` writes what they answer, with `classification`.
`metadata`, `configuration`, `statistics` and `repository` tell what is served and how it does.
`messages` has the message classes, the only untyped thing here.
"""
