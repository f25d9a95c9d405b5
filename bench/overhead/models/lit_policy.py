"""The same policy as a LitAPI; LitServe's own processes import this file."""

from typing import Annotated

import litserve
from fastapi import Body, Response


class Policy(litserve.LitAPI):  # type: ignore[misc, unused-ignore]
    """Answers the bytes of a POST with those of an action."""

    def setup(self, device: str) -> None:
        """Makes the model."""
        self.action = bytes(64)

    def decode_request(self, request: Annotated[bytes, Body(media_type="application/octet-stream")]) -> bytes:
        """Returns the observation."""
        return request

    def predict(self, x: bytes) -> bytes:
        """Returns the action."""
        return self.action

    def encode_response(self, output: bytes) -> Response:
        """Returns it as it is sent."""
        return Response(output, media_type="application/octet-stream")
