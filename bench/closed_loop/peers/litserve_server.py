"""LitServe with the robots' policies; `served_by` runs it. LitServe reads annotations as they are, not as text."""

import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import litserve
from fastapi import Body, Response
from robots import MAX_BATCH_SIZE, Models, add_package, unpack

BATCH_TIMEOUT_S = 0.002


class Policies(litserve.LitAPI):  # type: ignore[misc, unused-ignore]
    """All policies; batches of different models are run one after another."""

    cost: dict[str, float]

    def setup(self, device: str) -> None:
        """Makes the models, in the worker's process."""
        add_package()
        self.models = Models(self.cost)

    def decode_request(self, request: Annotated[bytes, Body(media_type="application/octet-stream")]) -> Any:
        """Returns model and observation."""
        return unpack(request)

    def batch(self, inputs: Sequence[Any]) -> Sequence[Any]:
        """Keeps them as they are."""
        return inputs

    def predict(self, x: Any) -> Any:
        """Returns actions; an unknown model is the probe's."""
        asked = [each for each in x if each[0]]
        actions = iter(self.models.infer_batch(asked))
        return [next(actions) if each[0] else b"" for each in x]

    def unbatch(self, output: Sequence[bytes]) -> Sequence[bytes]:
        """Keeps them as they are."""
        return output

    def encode_response(self, output: bytes) -> Response:
        """Returns bytes as they are."""
        return Response(output, media_type="application/octet-stream")


if __name__ == "__main__":
    policies = Policies(max_batch_size=MAX_BATCH_SIZE, batch_timeout=BATCH_TIMEOUT_S)
    policies.cost = json.loads(sys.stdin.readline())
    server = litserve.LitServer(policies, accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, log_level="error", generate_client_file=False
    )
