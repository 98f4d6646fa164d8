"""The files of a server's certificates, which are read again when they change."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import structlog

from forwardpass.server.process.plain_file import Stamp, stamp_of
from forwardpass.server.transport.tls import Certificates, TlsError, check_certificates, read_pem

# How long certificates may hold that are no longer in the files, in seconds.
_LOOK_SECONDS = 1.0
_log = structlog.get_logger()


class CertificateFiles:
    """The certificates that some files hold.

    The files are looked at when a connection begins or metrics are scraped, at most once a second,
    and read where one has changed. Files that cannot be used leave the certificates as they were.

    Args:
        chain: The file of the server's certificate, and of the authorities between.
        key: The file of its private key.
        client_authority: The file of the authorities of callers' certificates; None where callers
            need none.

    Raises:
        TlsError: The files cannot be used.
    """

    def __init__(self, chain: Path, key: Path, client_authority: Path | None) -> None:
        self._paths = {"tls_certificate": chain, "tls_key": key}
        if client_authority is not None:
            self._paths["tls_client_ca"] = client_authority
        self._looking = threading.Lock()
        self._looked_at = time.monotonic()
        self._stamps, self._current = self._read()
        # Why the files cannot be used now; None where they can.
        self._fault: str | None = None

    def current(self) -> Certificates:
        """Returns the certificates that hold now; where they are the same, the same object.

        While a thread looks at the files, which may lie far away, others do not wait for it.
        """
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_SECONDS and self._looking.acquire(blocking=False):
            try:
                self._looked_at = now
                self._look()
            finally:
                self._looking.release()
        return self._current

    @property
    def failing(self) -> bool:
        """Whether the files could not be used when they were last looked at."""
        return self._fault is not None

    def _look(self) -> None:
        stamps = self._stamp()
        if self._fault is None and stamps == self._stamps:
            return
        try:
            self._stamps, found = self._read()
        except TlsError as error:
            # Files that change just now may be one of the old pair and one of the new.
            if self._stamp() == stamps:
                self._complain(str(error))
            return
        if found != self._current:
            self._current = found
        elif self._fault is None:
            return
        self._fault = None
        _log.info("certificates", **self._about())

    def _stamp(self) -> Sequence[Stamp | None]:
        return [stamp_of(path) for path in self._paths.values()]

    def _read(self) -> tuple[Sequence[Stamp | None], Certificates]:
        """Returns the stamps of the files and their certificates.

        Raises:
            TlsError: The files cannot be used.
        """
        files = {setting: read_pem(setting, path) for setting, path in self._paths.items()}
        found = check_certificates(
            files["tls_certificate"], files["tls_key"], files.get("tls_client_ca")
        )
        return [file.stamp for file in files.values()], found

    def _complain(self, fault: str) -> None:
        """Says once why the files cannot be used."""
        if fault != self._fault:
            self._fault = fault
            _log.warning("certificates_kept", reason=fault, **self._about())

    def _about(self) -> dict[str, str]:
        """Returns what tells the certificate in use from others."""
        current = self._current
        return {
            "path": str(self._paths["tls_certificate"]),
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
