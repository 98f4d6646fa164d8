"""The Open Inference Protocol's messages, in a descriptor pool of our own.

A second registration of the package `inference` in protobuf's default pool fails, and tritonclient
and the KServe SDK register it there; so a process may use them and this module together.
"""

from functools import cache
from importlib.resources import files

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

SERVICE = "inference.GRPCInferenceService"


@cache
def pool() -> descriptor_pool.DescriptorPool:
    """Returns the pool that holds the protocol and nothing else."""
    data = (files("forwardpass.wire") / "open_inference.binpb").read_bytes()
    descriptors = descriptor_pb2.FileDescriptorSet.FromString(data)
    private = descriptor_pool.DescriptorPool()
    for file in descriptors.file:
        private.Add(file)
    return private


@cache
def message_class(name: str) -> type[Message]:
    """Returns the class of one of the protocol's messages, such as "ModelInferRequest".

    Raises:
        KeyError: The protocol has no such message.
    """
    return message_factory.GetMessageClass(pool().FindMessageTypeByName(f"inference.{name}"))
