"""What a request that gets no result is answered with: a text, and a status of HTTP, or what is like it elsewhere."""

from __future__ import annotations

import logging
from http import HTTPStatus

from inferential import errors
from inferential.errors import InferenceError, InferentialError
from inferential.gateway.base import describe_error, reason_of
from inferential.scheduler.request import MODEL_NOT_ALLOWED, NOT_ACCEPTED, PAYLOAD_NOT_ALLOWED, TOO_FAST

logger: logging.Logger = logging.getLogger("inferential.gateway")

_BY_CAUSE = {
    NOT_ACCEPTED: HTTPStatus.FORBIDDEN,
    MODEL_NOT_ALLOWED: HTTPStatus.FORBIDDEN,
    PAYLOAD_NOT_ALLOWED: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    TOO_FAST: HTTPStatus.TOO_MANY_REQUESTS,
}
"""Of refusals by what the operator allows a client: another server would refuse it too."""
_STATUS: dict[type[BaseException], HTTPStatus] = {
    errors.InvalidObservation: HTTPStatus.BAD_REQUEST,
    errors.UnknownModel: HTTPStatus.NOT_FOUND,
    errors.RequestRejected: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.RequestExpired: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.RequestSuperseded: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.ModelFailed: HTTPStatus.INTERNAL_SERVER_ERROR,
    TimeoutError: HTTPStatus.GATEWAY_TIMEOUT,
    ConnectionError: HTTPStatus.SERVICE_UNAVAILABLE,
    TypeError: HTTPStatus.BAD_REQUEST,
    ValueError: HTTPStatus.BAD_REQUEST,
    MemoryError: HTTPStatus.SERVICE_UNAVAILABLE,
}


class RequestRefused(InferentialError):
    """Ends a request with a status and a text."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        self.status = status
        super().__init__(text)


_OF_MESSAGES = frozenset(
    {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        HTTPStatus.INTERNAL_SERVER_ERROR,
    }
)


def is_of_message(error: BaseException) -> bool:
    """Returns whether an error is about a message that a gateway could not read or write: the server counts none."""
    if isinstance(error, RequestRefused):
        return error.status in _OF_MESSAGES
    if isinstance(error, InferenceError):
        return isinstance(error, errors.InvalidObservation) and not error.cause  # else the server's
    return not isinstance(error, TimeoutError | ConnectionError)


def refusal_of(error: Exception, client: object) -> tuple[HTTPStatus, str]:
    """Returns the status and the text that a request's error is answered with; logs what was not foreseen.

    Args:
        error: that ended the request.
        client: where it came from, for the log.
    """
    if isinstance(error, RequestRefused):
        return error.status, str(error)
    if isinstance(error, InferenceError) and error.cause in _BY_CAUSE:
        return _BY_CAUSE[error.cause], describe_error(error)
    for kind, status in _STATUS.items():
        if isinstance(error, kind):
            # A name of Python's says nothing to a client in another language.
            return status, reason_of(error) if kind in (TypeError, ValueError) else describe_error(error)
    logger.error("a request of the client at %s failed", client, exc_info=error)
    return HTTPStatus.INTERNAL_SERVER_ERROR, "internal error of the server; its log has more"
