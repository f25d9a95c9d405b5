"""A model behind the Open Inference Protocol: `target: kserve://HOST:PORT/MODEL`, as Triton and KServe serve it.

When it is called, and with what, is decided as for any other model. Inputs are what the server says that they are:
observations are checked and their dtypes made right before they are sent, and robots share a request where the model
takes batches. A model without declared inputs gets observations as they are.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp

from inferential.dispatch.base import RemoteModelError
from inferential.errors import InvalidObservation
from inferential.policies.batching import result_of, stack
from inferential.policies.tensors import Array, TensorSpec, pick, pick_all
from inferential.proto.open_inference import HEADER_LENGTH, dtype_of, read_infer, write_infer

DEFAULT_TIMEOUT_S = 120.0
DEFAULT_MAX_BATCH_SIZE = 8
_SCHEMES = {"kserve": "http", "kserve+https": "https"}


class KServeModel:
    """Asks one model of a server of the Open Inference Protocol over HTTP.

    A result has the outputs by their names; an only output is `actions`.

    Args:
        target: `kserve://HOST:PORT/MODEL` or `kserve+https://`, with `/versions/VERSION` behind it for one version.
        api_key: sent as Authorization: Bearer KEY.
        timeout_s: how long a call may take, making a connection included.

    Raises:
        ValueError: `target` is not such an address.

    Example:
        >>> model = KServeModel("kserve://127.0.0.1:8000/arm")
    """

    max_batch_size: int = DEFAULT_MAX_BATCH_SIZE

    def __init__(self, target: str, api_key: str | None = None, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self._url = _model_url(target)
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None
        self._described: _Described | None = None

    async def infer(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the outputs for one observation.

        Raises:
            InvalidObservation: it does not fit the inputs.
            RemoteModelError: the server answered with an error; its text.
            ConnectionError: the server cannot be reached, or ended the connection during the call.
            TimeoutError: it did not answer within `timeout_s`.
        """
        return result_of((await self.infer_batch([observation]))[0])

    async def infer_batch(self, observations: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Returns for each observation the outputs, or the error of one that does not fit.

        Raises:
            RemoteModelError: as `infer`.
        """
        try:
            return await self._ask_all(observations)
        except (ConnectionError, TimeoutError) as error:  # the fault of no observation: alone, each would wait again
            return [error] * len(observations)

    async def _ask_all(self, observations: Sequence[Mapping[str, Any]]) -> list[Any]:
        async with self._asking():
            described = await self._describe()
            if not described.max_batch_size or not described.inputs:
                return await asyncio.gather(*(self._ask_alone(described, one) for one in observations))
            outcomes, batches = stack(described.inputs, observations, described.max_batch_size)
            answers = await asyncio.gather(*(self._ask(described, batch.arrays) for batch in batches))
            for batch, answer in zip(batches, answers, strict=True):
                batch.put(answer, outcomes)
            return outcomes

    async def metadata(self) -> Mapping[str, Any]:
        """Returns inputs and outputs, as the server says.

        Raises:
            RemoteModelError, ConnectionError, TimeoutError: as `infer`.
        """
        async with self._asking():
            described = await self._describe()
        return {
            "platform": described.platform,
            "max_batch_size": described.max_batch_size or 1,
            "inputs": [one.as_dict() for one in described.inputs],
            "outputs": [one.as_dict() for one in described.outputs],
            "output_names": described.output_names,
        }

    async def aclose(self) -> None:
        """Ends its connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[None]:
        """Holds to `timeout_s`, and names the server in what goes wrong with the connection."""
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except TimeoutError:
            raise TimeoutError(f"{self._url} did not answer within {self._timeout_s:g} s") from None
        except aiohttp.ClientError as error:
            self._described = None  # what serves there next may be another model
            raise ConnectionError(f"{self._url} cannot be reached: {_why(error)}") from error

    async def _ask_alone(self, described: _Described, observation: Mapping[str, Any]) -> Any:
        try:
            arrays = pick(described.inputs, observation) if described.inputs else pick_all(observation)
        except InvalidObservation as error:
            return error
        return await self._ask(described, arrays)

    async def _ask(self, described: _Described, arrays: dict[str, Array]) -> dict[str, Any]:
        body, length = write_infer({"parameters": {"binary_data_output": True}}, "inputs", arrays, {})
        headers = {"Content-Type": "application/octet-stream"} if length is not None else {}
        if length is not None:
            headers[HEADER_LENGTH] = str(length)
        async with self._opened().post(f"{self._url}/infer", data=body, headers=headers) as response:
            answer = await response.read()
            if response.status != 200:
                self._described = None  # it may have another model of that name by now
                raise RemoteModelError(_error_text(answer, response.status))
            header = response.headers.get(HEADER_LENGTH)
        try:
            message = read_infer(bytearray(answer), None if header is None else int(header), "outputs")
        except ValueError as error:
            raise RemoteModelError(f"{self._url} gave an answer that cannot be read: {error}") from error
        if not message.tensors:
            raise RemoteModelError(f"{self._url} gave an answer without outputs")
        if len(described.output_names) == 1 and len(message.tensors) == 1:
            return {"actions": next(iter(message.tensors.values()))}
        return dict(message.tensors)

    async def _describe(self) -> _Described:
        if self._described is None:
            metadata = await self._get("")
            config = await self._get("/config", optional=True)
            self._described = _Described(metadata, config)
            if self._described.max_batch_size:
                self.max_batch_size = self._described.max_batch_size
        return self._described

    async def _get(self, path: str, *, optional: bool = False) -> dict[str, Any]:
        async with self._opened().get(self._url + path) as response:
            answer = await response.read()
            if response.status != 200:
                if optional:  # KServe's own servers have no config
                    return {}
                raise RemoteModelError(_error_text(answer, response.status))
        try:
            found = json.loads(answer)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise RemoteModelError(f"{self._url}{path}: expected a JSON object")
        return found

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=None),  # the call's own holds
                connector=aiohttp.TCPConnector(limit=0),
            )
        return self._session


class _Described:
    """What a server says of a model.

    Args:
        metadata: of `GET /v2/models/M`.
        config: of `GET /v2/models/M/config`; empty where there is none.

    Raises:
        RemoteModelError: it describes no inputs.
    """

    def __init__(self, metadata: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        self.platform = str(metadata.get("platform", ""))
        try:
            self.max_batch_size = int(config.get("max_batch_size", 0) or 0)
            optional = {one["name"] for one in config.get("input", []) if one.get("optional")}  # metadata has it not
            self.inputs = [self._spec(one, one["name"] in optional) for one in metadata["inputs"]]
            outputs = [self._spec(one) for one in metadata.get("outputs", [])]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise RemoteModelError(f"its metadata cannot be read: {type(error).__name__}: {error}") from error
        self.output_names = [one.name for one in outputs]
        keys = ["actions"] if len(outputs) == 1 else self.output_names
        self.outputs = [TensorSpec(key, one.dtype, one.shape) for key, one in zip(keys, outputs, strict=True)]

    def _spec(self, described: Mapping[str, Any], is_optional: bool = False) -> TensorSpec:
        sizes = tuple(None if int(size) < 0 else int(size) for size in described["shape"])
        shape = sizes[1:] if self.max_batch_size else sizes
        return TensorSpec(described["name"], dtype_of(described["datatype"]), shape, is_optional)


def _model_url(target: str) -> str:
    """Returns the URL of a model."""
    try:
        parts = urlsplit(target)
        scheme, model = _SCHEMES[parts.scheme], parts.path.strip("/")
        port = parts.port
    except (KeyError, ValueError):
        scheme = model = ""
    if not scheme or not model or not parts.hostname or parts.username is not None:
        raise ValueError(f"expected kserve://HOST:PORT/MODEL or kserve+https://HOST:PORT/MODEL, got {target!r}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{scheme}://{host}{'' if port is None else f':{port}'}/v2/models/{quote(model)}"


def _why(error: aiohttp.ClientError) -> str:
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.errno:
        return os.strerror(error.os_error.errno)  # aiohttp's text has the address once more, and speaks of TLS
    return str(error)


def _error_text(answer: bytes, status: int) -> str:
    try:
        return str(json.loads(answer)["error"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {status}"
