"""Certificates in the form in which gRPC core takes them."""

from collections.abc import Callable
from typing import TypeAlias

import grpc

from forwardpass.server.transport.certificate_files import CertificateFiles
from forwardpass.server.transport.tls import Certificates

# What a server begins with, what core asks before each handshake, where None is for no change, and
# whether callers need a certificate: grpcio and cygrpc take the same.
CredentialArguments: TypeAlias = tuple[
    grpc.ServerCertificateConfiguration,
    Callable[[], grpc.ServerCertificateConfiguration | None],
    bool,
]


def credential_arguments(files: CertificateFiles) -> CredentialArguments:
    """Returns what makes credentials that change with the files, for the connections to come.

    Core asks on threads of its own, one after the other.
    """
    shown = files.current()

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal shown
        current = files.current()
        if current is shown:
            return None
        shown = current
        return _configuration(current)

    return _configuration(shown), fetch, shown.client_authority is not None


def _configuration(certificates: Certificates) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(certificates.key, certificates.chain)], certificates.client_authority
    )
