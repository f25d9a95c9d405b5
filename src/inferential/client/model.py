"""`Model`: a handle to one model of the server, for threads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inferential.client.mailbox import Mailbox
from inferential.client.result import Result

if TYPE_CHECKING:
    from inferential.client.sync import Connection


class Model:
    """A handle to one model of the server; `Connection.model` makes it."""

    def __init__(self, connection: Connection, mailbox: Mailbox) -> None:
        self._connection = connection
        self._mailbox = mailbox
        self._model_id = mailbox.handle.model_id

    @property
    def model_id(self) -> str:
        """The model's id."""
        return self._model_id

    @property
    def serve_interval_ms(self) -> float:
        """The shortest interval at which the server can serve this robot, in ms; 0: no limit is known."""
        return self._mailbox.serve_interval_ms

    def observe(
        self,
        /,
        urgency: float = 0.0,
        steps_remaining: int | None = None,
        priority: int | None = None,
        **values: Any,
    ) -> int:
        """Sends an observation without waiting for the response.

        Returns at once, also while the server is away. Only the first call on a connection may wait, for at most 50 ms,
        until it is connected, and a call that finds the socket full, for at most 5 ms. Arrays may be reused as soon as
        it returns, except those that are not writable, whose memory is sent without a copy.

        Args:
            urgency: 0 to 1.
            steps_remaining: actions that the robot still has to play.
            priority: 0 is the highest; None: that of the handle.
            values: by key, np.ndarray of any shape and memory order (a tensor), `Jpeg(...)` or `Png(...)` of one, or
                str (metadata). `observation={...}` gives values whose keys are names of arguments, and numbers,
                lists, None, and maps of all these. `captured_at`, a time, and `timestamps`, times by key, say when the
                values were seen: seconds as a float or nanoseconds as an int, of `time.monotonic()`, or with
                `clock="wall"` of `time.time()`.

        Returns:
            The request id; the result and any error carry it.

        Raises:
            TypeError: a value is of none of these types; the message names its key.
            ValueError: a dtype that the wire does not have, an image that the encoding cannot hold, or a time in the
                future.
            ConnectionError: the connection was closed.
        """
        hints = {"urgency": urgency, "steps_remaining": steps_remaining, "priority": priority}
        return self._connection._observe(self._mailbox, values, hints)

    def get_result(self, timeout_ms: float = 100) -> Result | None:
        """Returns the next result of this handle, of a "latest" handle the newest.

        Args:
            timeout_ms: longest wait in milliseconds; 0: does not wait.

        Returns:
            Tensors as np.ndarray and metadata as str by key, with `response_id`, `model_id` and `inference_latency_ms`;
            None after `timeout_ms`.

        Raises:
            InferenceError: a request ended without a result; superseded requests are skipped.
            TypeError, ValueError: `timeout_ms` is not a number.
            ConnectionError: the connection was closed.
        """
        return self._connection._get_result(self._mailbox, timeout_ms)

    def cancel(self) -> int:
        """Takes back all open requests of this handle, and returns their number.

        Those that are not sent yet are not sent; those that wait on the server end there (metric `requests_rejected`
        with the error `cancelled`); the results of those that run are dropped. A call of `infer` that waits raises
        RequestRejected.
        """
        return self._connection._cancel(self._mailbox)

    def infer(
        self,
        /,
        timeout_ms: float = 100,
        urgency: float = 0.0,
        steps_remaining: int | None = None,
        priority: int | None = None,
        **values: Any,
    ) -> Result | None:
        """Sends an observation and waits for its own response.

        After a timeout the response is dropped when it arrives; an observation that was not sent yet is not sent.

        Args:
            timeout_ms: longest wait in milliseconds.
            urgency, steps_remaining, priority, values: as for `observe`.

        Returns:
            The result, as from `get_result`; None after `timeout_ms`.

        Raises:
            InferenceError: the request ended without a result, RequestSuperseded included.
            TypeError, ValueError, ConnectionError: as for `observe`.

        Example:
            ```python
            import numpy as np
            from inferential import Connection

            with Connection("localhost:5555") as connection:
                result = connection.model("policy").infer(timeout_ms=1000, state=np.zeros(7, dtype=np.float32))
                assert result is not None
                print(result["actions"], result.age_ms)
            ```
        """
        hints = {"urgency": urgency, "steps_remaining": steps_remaining, "priority": priority}
        return self._connection._infer(self._mailbox, values, hints, timeout_ms)

    def awaits(self, request_id: int) -> bool:
        """Returns whether `get_result` may still return or raise the outcome of a request.

        It does not where that was read already, where a newer observation of the same model replaced it, and where it
        was taken back, or is of a former episode.
        """
        return self._connection._awaits(self._mailbox, request_id)

    def heard_s_ago(self) -> float:
        """Returns how long ago anything came from the server, in seconds: answers, or its signs of life every second.

        At most a second while a sign of life may still come, on a slow network. Infinite while there is no connection;
        nan where the system does not say.
        """
        return self._connection._heard_s_ago()

    def nudge(self) -> None:
        """Sends the server a heartbeat out of turn, as its answer is late; nothing while it is away or data is unsent.

        Where the answer or the observation was lost on the network, it is sent again sooner by that.

        Raises:
            ConnectionError: the connection was closed.
        """
        self._connection._nudge()

    def never_wait(self) -> None:
        """Makes `observe` of this handle wait for nothing, the first time neither: for control loops."""
        self._mailbox.waits = False

    def reset(self) -> None:
        """Begins a new episode: no answer to an observation made before is returned from here on.

        It holds for all handles of this model on the connection. An `infer` that waits in another thread raises
        RequestSuperseded. Never waits: the server learns of it with the next observation, and then ends those of the
        former episode that wait there.

        Raises:
            ConnectionError: the connection was closed.
        """
        self._connection._reset(self._model_id)
