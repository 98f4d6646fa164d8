"""The files of a server's certificates, which are read again when they change."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from forwardpass.server.process.plain_file import Stamp
from forwardpass.server.process.watched_files import WatchedFiles
from forwardpass.server.transport.tls import Certificates, TlsError, check_certificates, read_pem


class CertificateFiles(WatchedFiles[Certificates]):
    """The certificates that some files hold; asked for when a connection begins, or for metrics.

    Args:
        chain: The file of the server's certificate, and of the authorities between.
        key: The file of its private key.
        client_authority: The file of the authorities of callers' certificates; None where callers
            need none.

    Raises:
        TlsError: The files cannot be used.
    """

    def __init__(self, chain: Path, key: Path, client_authority: Path | None) -> None:
        self._by_setting = {"tls_certificate": chain, "tls_key": key}
        if client_authority is not None:
            self._by_setting["tls_client_ca"] = client_authority
        super().__init__(list(self._by_setting.values()), "certificates")

    def _read(self) -> tuple[Sequence[Stamp | None], Certificates]:
        files = {setting: read_pem(setting, path) for setting, path in self._by_setting.items()}
        found = check_certificates(
            files["tls_certificate"], files["tls_key"], files.get("tls_client_ca")
        )
        return [file.stamp for file in files.values()], found

    def _about(self, current: Certificates) -> Mapping[str, object]:
        """Returns what tells the certificate in use from others."""
        return {
            "path": str(self._by_setting["tls_certificate"]),
            "serial": current.serial,
            "expires": current.expires.isoformat(),
        }


def open_certificates(
    chain: Path | None, key: Path | None, client_authority: Path | None
) -> CertificateFiles | None:
    """Returns the files of certificates; None where none is named, which means no TLS.

    Raises:
        TlsError: The files cannot be used, or only some of them are named.
    """
    if chain is None and key is None and client_authority is None:
        return None
    if chain is None or key is None:
        raise TlsError(
            "TLS takes both a certificate and its key: give --tls-certificate, --tls-key"
        )
    return CertificateFiles(chain, key, client_authority)
