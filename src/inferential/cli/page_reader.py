"""Reads a running server's status over HTTP, as its live page does."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

import typer

from inferential.cli.errors import CliError
from inferential.errors import system_reason

DEFAULT_URL = "http://127.0.0.1:8080"
Url = Annotated[str, typer.Argument(help="Where the server's page is (inferential serve --http).")]
Token = Annotated[str | None, typer.Option(envvar="INFERENTIAL_TOKEN", help="The page's token, where it asks for one.")]
Certificate = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Certificate to trust (PEM), where the page has one of its own (https://)."),
]
_TIMEOUT_S = 10.0
_ZMTP_SIGNATURE = "\xff\0\0\0"
"""How a ZeroMQ socket greets, as http.client reads it."""
_WHERE = "the page is at the port of `inferential serve --http PORT`, or `http.port` of the configuration"


@dataclass(frozen=True, slots=True)
class Page:
    """Where a server's page is, and what it takes to read it."""

    url: str
    token: str | None
    certificate: Path | None


class _NotFound(CliError):
    """There is a page, without what was asked for."""


def read_status(page: Page) -> dict[str, Any]:
    """Returns the status now.

    Raises:
        CliError: there is no page, or it asks for something else.
    """
    connection, response = _get(page, "/api/status")
    with closing(connection):
        return _read(page.url, _body(page.url, response))


def read_tensors(page: Page) -> dict[str, Any]:
    """Returns {"inputs", "outputs"} by model id, of models that are ready; {} of a server that does not tell.

    Raises:
        CliError: there is no page, or it asks for something else.
    """
    try:
        connection, response = _get(page, "/api/models")
    except _NotFound:
        return {}
    with closing(connection):
        return _parsed(page.url, _body(page.url, response))


def read_robot(page: Page, client_id: str) -> dict[str, Any] | None:
    """Returns one robot in full; None: the server does not know it.

    Raises:
        CliError: there is no page, or it asks for something else.
    """
    found = _open(page, f"/api/robots/{quote(client_id, safe='')}", missing=True)
    if found is None:
        return None
    connection, response = found
    with closing(connection):
        return _read(page.url, _body(page.url, response), "client")


def stream_status(page: Page) -> Iterator[dict[str, Any]]:
    """Yields the status whenever the page has a new one, until the server ends.

    Raises:
        CliError: there is no page, or it asks for something else.
    """
    connection, response = _get(page, "/api/stream")
    with closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        yield from put_together(
            _read(page.url, line[len(b"data: ") :]) for line in response if line.startswith(b"data: ")
        )


def put_together(events: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yields for each event of a stream the status with all robots: the first event has them, of many robots the others
    have some, and the ids of those that have `left`.
    """
    clients: dict[str, Any] = {}
    for status in events:
        if "left" not in status:
            clients.clear()
        for client_id in status.get("left", ()):
            clients.pop(client_id, None)
        clients |= {client["client_id"]: client for client in status["clients"]}
        yield status | {"clients": list(clients.values())}


def read_requests(page: Page, seconds: float, advance: Callable[[], None]) -> list[dict[str, Any]]:
    """Returns how requests end in the next seconds; calls `advance` four times a second.

    Raises:
        CliError: there is no page, or it asks for something else.
    """
    connection, response = _get(page, f"/api/requests?seconds={seconds:g}")
    found = []
    with closing(connection):
        try:
            for line in response:
                if line.strip():
                    found.append(json.loads(line))
                else:
                    advance()
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise CliError(f"{page.url}: the server ended while its requests were read: {error}") from error
    return found


def _read(url: str, body: bytes, key: str = "clients") -> dict[str, Any]:
    status = _parsed(url, body)
    if key not in status:
        raise _no_page(url)
    return status


def _parsed(url: str, body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise _no_page(url)
    return found


def _no_page(url: str) -> CliError:
    return CliError(f"what answers at {url} is no page of `inferential serve --http`")


def _body(url: str, response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read()
    except (OSError, http.client.HTTPException) as error:
        why = system_reason(error) if isinstance(error, OSError) else "it has ended"
        raise CliError(f"{url}: the server did not answer to the end: {why}") from error


def _trusting(certificate: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=certificate)
    except OSError as error:
        raise CliError(f"--certificate: {certificate}: {error.strerror or error}") from error


def _get(page: Page, path: str) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    found = _open(page, path, missing=False)
    assert found is not None
    return found


def _open(
    page: Page, path: str, *, missing: bool
) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse] | None:
    """Returns the answer of the page; None where it is 404 and `missing` allows that."""
    url = page.url
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if not parts.hostname:
            raise ValueError("no host")
        if parts.scheme in ("tcp", "ipc"):
            raise CliError(f"{url} is where robots connect; {_WHERE}")
        if parts.scheme not in ("http", "https"):
            raise ValueError("another scheme")
        connection = (
            http.client.HTTPConnection(parts.netloc, timeout=_TIMEOUT_S)
            if parts.scheme == "http"
            else http.client.HTTPSConnection(parts.netloc, timeout=_TIMEOUT_S, context=_trusting(page.certificate))
        )
    except (ValueError, http.client.InvalidURL) as error:
        raise CliError(f"URL: expected http://HOST:PORT, got {url!r}") from error
    headers = {} if page.token is None else {"Authorization": f"Bearer {page.token}"}
    try:
        connection.request("GET", parts.path.rstrip("/") + path, headers=headers)
        response = connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        if isinstance(error, http.client.BadStatusLine) and not isinstance(error, http.client.RemoteDisconnected):
            is_robots = str(error.args[0]).startswith(_ZMTP_SIGNATURE)
            what = "is where robots connect" if is_robots else "answers with something else than HTTP"
            raise CliError(f"{url} {what}; {_WHERE}") from error
        if isinstance(error, ssl.SSLCertVerificationError):
            raise CliError(
                f"{url} has a certificate that is not trusted ({error.verify_message}): give it with --certificate FILE"
            ) from error
        why = system_reason(error) if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else str(error)
        raise CliError(f"nothing answers at {url}: {why} (a server shows its page with --http PORT)") from error
    if response.status == 200:
        return connection, response
    body = response.read(200).decode(errors="replace").strip()
    connection.close()
    if response.status == 404 and missing and body.startswith("{"):
        return None
    if response.status == 401:
        raise CliError(f"{url} asks for a token: --token TOKEN, or INFERENTIAL_TOKEN")
    if response.status == 404:
        raise _NotFound(f"{url} has no {path.partition('?')[0]}: HTTP 404 {body}; {_WHERE}")
    raise CliError(f"{url}: HTTP {response.status} {body}")
