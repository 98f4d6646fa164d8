"""gRPC server reflection: lets a caller without our .proto files find out what is served."""

from collections.abc import Sequence

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection_pb2

from forwardpass.server.rpc.receive import parse
from forwardpass.server.transport.stream_call import StreamCall

# The messages of both versions are the same on the wire.
METHODS = (
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)
_NOT_FOUND = 5


class Reflection:
    """Answers ServerReflectionInfo.

    Args:
        services: The full names of what is served.
        pools: Where their descriptors are, in the order of search.
    """

    def __init__(self, services: Sequence[str], pools: Sequence[DescriptorPool]) -> None:
        self._services = services
        self._pools = pools

    async def info(self, call: StreamCall) -> None:
        """Answers each question of the stream in turn."""
        async for message in call:
            request = parse(reflection_pb2.ServerReflectionRequest, message)
            await call.send(self._answer(request).SerializeToString())

    def _answer(
        self, request: reflection_pb2.ServerReflectionRequest
    ) -> reflection_pb2.ServerReflectionResponse:
        response = reflection_pb2.ServerReflectionResponse(
            valid_host=request.host, original_request=request
        )
        question = request.WhichOneof("message_request")
        if question == "list_services":
            for name in self._services:
                response.list_services_response.service.add(name=name)
            return response
        file = None
        if question == "file_by_filename":
            file = self._find("FindFileByName", request.file_by_filename)
        elif question == "file_containing_symbol":
            file = self._find("FindFileContainingSymbol", request.file_containing_symbol)
        if file is None:
            response.error_response.error_code = _NOT_FOUND
            response.error_response.error_message = "nothing of that name is served"
        else:
            response.file_descriptor_response.file_descriptor_proto.extend(_closure(file))
        return response

    def _find(self, method: str, name: str) -> FileDescriptor | None:
        for pool in self._pools:
            try:
                file: FileDescriptor = getattr(pool, method)(name)
            except KeyError:
                continue
            return file
        return None


def _closure(file: FileDescriptor) -> list[bytes]:
    """Returns the file and all that it imports, each once, serialised."""
    found: dict[str, FileDescriptor] = {}
    waiting = [file]
    while waiting:
        current = waiting.pop()
        if current.name not in found:
            found[current.name] = current
            waiting.extend(current.dependencies)
    protos = []
    for one in found.values():
        proto = descriptor_pb2.FileDescriptorProto()
        one.CopyToProto(proto)
        protos.append(proto.SerializeToString())
    return protos
