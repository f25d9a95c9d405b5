"""The base class of all errors of this package, and the errors that a client of a server sees.

The latter carry what a program needs to react: which request, of which model, and why.
"""

from __future__ import annotations

import os
import traceback

_PACKAGE = os.path.dirname(__file__)
_MAX_WORDS = 2000


class InferentialError(Exception):
    """The base class of every error that this package defines.

    Wrong arguments are TypeError or ValueError, and a connection that was closed is ConnectionError, as in Python's own
    library.
    """


class InferenceError(InferentialError):
    """A request ended without a result.

    Attributes:
        request_id: what `observe` returned for the request; 0 where it is not known.
        model_id: the model that was asked.
        reason: why, in words: the server's, or those of this end where the request was never sent.
        cause: why, in one word, for programs, as "draining": the server's; empty where this end gave up, and from a
            server that does not say it.
    """

    def __init__(self, reason: str, *, request_id: int = 0, model_id: str = "", cause: str = "") -> None:
        self.request_id = request_id
        self.model_id = model_id
        self.reason = reason
        self.cause = cause
        super().__init__(reason)

    def __str__(self) -> str:
        request = f" (request {self.request_id})" if self.request_id else ""
        return f"{self.model_id or 'request'}: {self.reason}{request}"

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.reason, self.request_id, self.model_id, self.cause))


class RequestRejected(InferenceError):
    """The server did not take the request: its queue is full, the client is not accepted, or it is draining."""


class ModelLoading(RequestRejected):
    """The model was not ready by the request's deadline: it is being loaded or warmed up. Ask again."""


class ModelFailing(RequestRejected):
    """The model has failed with every request lately, or could not be loaded; the server does not ask it for now."""


class RequestExpired(InferenceError):
    """The request waited longer than its time to live, or its deadline could not be met."""


class RequestSuperseded(InferenceError):
    """A newer observation of the same client and model took the request's place."""


class ObservationOutdated(InferenceError):
    """The request waits still, but the server asks for a newer observation: few actions of its chunk would be left.

    Only a robot that announces `renews` gets it, as `ChunkRuntime` does, which observes anew by itself. Where no newer
    observation comes, the request is answered all the same.

    Attributes:
        turn_in_ms: in how many milliseconds, from when this was sent on, the request's turn comes; None: at any time.
    """

    turn_in_ms: float | None = None


class UnknownModel(InferenceError):
    """The server serves no model with that id."""


class InvalidObservation(InferenceError):
    """The observation breaks a rule of the wire, a limit of the server, or does not fit the model.

    A model may raise it, or return it as the result of one row of `infer_batch`; the row's robot gets it.
    """


class ModelFailed(InferenceError):
    """The model raised an exception; `reason` is its message."""


class BatchFailed(ModelFailed):
    """Another row of its call failed after a model that keeps state had begun with this one: it is not run again."""


class InvalidChunk(InferenceError):
    """The model answered, but a robot must not play it: not a chunk, not finite, or against its `action_spec`.

    `ChunkRuntime` counts it and passes it to `on_error`; `reason` says what came and what was expected.
    """


def system_reason(error: OSError) -> str:
    """Returns why the system refused, in its own words: asyncio's text has the address in it, and errors of host names
    have numbers below 0."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or str(error)


class Carried(InferentialError):
    """Stands for its cause where only some exceptions can be raised, as a future takes no SystemExit."""


def words_of(error: BaseException) -> str:
    """Returns type and message of an exception that code of others raised."""
    error = _carried(error)
    text = _text_of(error, "message")
    text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= _MAX_WORDS else f"{text[:_MAX_WORDS]}... ({len(text)} characters)"


def kind_of(error: BaseException) -> str:
    """Returns the type of an exception, as `words_of` begins with it."""
    return type(_carried(error)).__name__


def _carried(error: BaseException) -> BaseException:
    return error.__cause__ if isinstance(error, Carried) and error.__cause__ is not None else error


def reason_of(error: InferenceError) -> str:
    """Returns the reason of an error that code of others made, which may have given any object for it, or none."""
    reason = getattr(error, "reason", None)
    if reason is None:  # of a class that does not call the constructor of its base
        reason = error.args[0] if error.args else ""
    return reason if type(reason) is str else _text_of(reason, "reason")


def _text_of(said: object, what: str) -> str:
    try:
        return str(said)
    except BaseException as broken:  # of code of others, which may raise anything
        return f"its {what} cannot be read: {type(broken).__name__}"


def place_of(error: BaseException) -> str:
    """Returns the line of code that raised, " (FILE:LINE)"; "" where it is in this package itself."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_PACKAGE)]
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""


def _rebuild(kind: type[InferenceError], reason: str, request_id: int, model_id: str, cause: str) -> InferenceError:
    return kind(reason, request_id=request_id, model_id=model_id, cause=cause)
