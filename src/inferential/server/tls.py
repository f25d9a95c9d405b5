"""TLS of what listens beside a server: its page, and gateways by websocket."""

from __future__ import annotations

import errno
import ssl


def check_tls(section: str, certificate: str | None, key: str | None) -> ssl.SSLContext | None:
    """Returns the context of a listener with this certificate; None without one.

    Args:
        section: of the configuration, as errors name it.
        certificate: PEM file, with the certificates between it and its root.
        key: PEM file; None: it is in the same file.

    Raises:
        OSError: a file cannot be read, or they do not belong together; the text names the fields.
    """
    if certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:  # ssl's errors are of its kind
        reason = error.strerror or str(error)
        what = f"{section}.tls_certificate, tls_key: {certificate}, {key or certificate}: {reason}"
        raise OSError(error.errno or errno.EINVAL, what) from error
    return context
