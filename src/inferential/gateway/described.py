"""What a model says of itself, where a request depends on it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from inferential.gateway.base import describe_error
from inferential.gateway.refusals import RequestRefused
from inferential.server import Server


async def described(server: Server, model_id: str, timeout_ms: float) -> Mapping[str, Any]:
    """Returns what a model says of itself, as `Server.model_metadata` does.

    Raises:
        RequestRefused: it does not say it, as while the server behind it is away.
    """
    try:
        async with asyncio.timeout(timeout_ms / 1e3):
            return await server.model_metadata(model_id)
    except Exception as error:  # of a model's own code, or of the server behind it
        why = describe_error(error) if str(error) else f"it gave no answer within {timeout_ms / 1e3:g} s"
        text = f"model {model_id!r} does not say what it takes: {why}"
        raise RequestRefused(HTTPStatus.SERVICE_UNAVAILABLE, text) from error
