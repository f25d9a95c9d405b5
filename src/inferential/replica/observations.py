"""The observations of a call in a worker process, from their descriptions and payloads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inferential.errors import words_of
from inferential.proto import inferential_pb2 as pb
from inferential.proto.images import ImageError
from inferential.proto.tensors import Buffer
from inferential.replica.inbox import INBOX_AT, InboxView
from inferential.replica.rows import RowReader, write_refusal
from inferential.replica.shared import Place, ReplicasMemory


class ObservationReader:
    """Reads the rows of calls; what one cannot be read as is its refusal alone.

    Args:
        memory: shared with the server; None: payloads come over the stream.
        inbox: what the server receives into; None: payloads do not lie there.

    Attributes:
        descriptions: reads those, and remembers them.
    """

    def __init__(self, memory: ReplicasMemory | None, inbox: InboxView | None) -> None:
        self.descriptions: RowReader = RowReader(pb.Observation)
        self._memory = memory
        self._inbox = inbox

    def read(
        self, descriptions: Sequence[Any], payloads: Sequence[Any], places: Sequence[Place | None]
    ) -> tuple[list[Any], dict[int, bytes]]:
        """Returns the observations, None for those that cannot be read, and the refusals of these by their place.

        Args:
            descriptions: of the rows.
            payloads: of the rows; one is not looked at where it lies in shared memory.
            places: of the payloads in shared memory.
        """
        rows: list[Any] = []
        refused: dict[int, bytes] = {}
        for at, place in enumerate(places):
            try:
                rows.append(self.one(descriptions[at], payloads[at] if place is None else self._lent(place)))
            except ImageError as error:
                refused[at] = write_refusal("INVALID_OBSERVATION", str(error))
                rows.append(None)
            except Exception as error:
                refused[at] = write_refusal("MODEL_FAILED", words_of(error))
                rows.append(None)
        return rows, refused

    def one(self, description: Buffer, payload: Buffer) -> Any:
        """Returns the observation of a row; its arrays can be written to.

        Raises:
            ValueError, ImageError: it cannot be read.
        """
        if type(payload) is bytes:
            payload = bytearray(payload)
        return self.descriptions.layout(description).values(payload)  # type: ignore[union-attr, arg-type]

    def _lent(self, place: Place) -> memoryview:
        memory = self._inbox if place.offset >= INBOX_AT else self._memory
        if memory is None:
            raise ValueError("it is in memory that this process does not share")
        return memory.view(place)
