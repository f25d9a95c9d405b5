"""What clients that ask again as soon as they are answered cost ten robots that keep to a rate.

Each waits for its answer, so none has more than one request open, by the robot SDK or through a gateway. They have a
process of their own, as in `flood.run_apart`.
"""

from __future__ import annotations

import functools
import http.client
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import msgpack
import numpy as np

from bench.overload.clients import Plan, drive
from bench.overload.flood import CLIENTS_CPU, LAST, ROBOT_HZ, ROBOTS, SERVER_CPU, WARM_S, ratios
from bench.overload.harness import Cpu, start_of
from bench.overload.serving import ROOT, Serving
from inferential import Connection
from inferential.proto.msgpack_numpy import pack

MODELS = {
    "single": "bench.overload.models:single",
    "batch": "bench.overload.models:SlowBatch",
    "chunk": "bench.overload.models:chunk",
}
FLOODERS = (1, 10)
_RECORDED = ROOT / "tests/gateway/data/lerobot-0.6.1"
_STATE = np.arange(7, dtype=np.float32)
_WAIT_S = 30.0
Ask = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Closed:
    """What the clients of one process do: each asks again once it is answered.

    Attributes:
        kind: a key of `ASKING`.
        place: address of the server, or of the gateway.
        model_id: which model they ask.
        clients: how many, each with a connection and a thread of its own.
        start, warm_s, seconds, cpu, nice: as those of `clients.Plan`.
    """

    kind: str
    place: str
    model_id: str
    clients: int
    start: float
    warm_s: float
    seconds: float
    cpu: int
    nice: int


def run(seconds: float, kinds: tuple[str, ...] = ()) -> dict[str, Any]:
    """Returns the robots' round trips alone, beside one such client and beside ten, for each kind and model."""
    result: dict[str, Any] = {}
    alone = {model: beside(model, None, 0, seconds) for model in MODELS}
    for kind in kinds or ASKING:
        for model in ("chunk",) if kind == "lerobot" else ("single", "batch"):
            found = {"alone": alone[model]}
            for count in FLOODERS:
                found[str(count)] = beside(model, kind, count, seconds)
            result[f"{kind}, {model}"] = found | {"ratios": ratios(found)}
    return result


def beside(model: str, kind: str | None, count: int, seconds: float) -> dict[str, Any]:
    """Returns the figures of the robots, and how many answers the others had, on a server of its own."""
    gateways = {} if kind in (None, "sdk") else {str(kind): {"port": 0, "model": model}}
    config = {"gateways": gateways} if gateways else {}
    with (
        Serving(MODELS, cpu=SERVER_CPU, **config) as serving,
        ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool,
    ):
        robots = Plan(serving.address, model, ROBOTS, ROBOT_HZ, 0.0, WARM_S, seconds, cpu=CLIENTS_CPU)
        start = start_of([robots]) + 1.0  # grpc and websockets take a while to be imported
        robots = replace(robots, start=start)
        with Cpu(serving.process) as used:
            others = None
            if kind is not None:
                place = serving.address if kind == "sdk" else serving.places[kind]
                closed = Closed(kind, place, model, count, start, WARM_S, seconds, CLIENTS_CPU, LAST)
                others = pool.submit(ask_all, closed)
            outcome = pool.submit(drive, robots).result()
            answered = None if others is None else others.result()
        result: dict[str, Any] = {**outcome.as_dict(), **used.figures()}
        return result if answered is None else result | {"others_answered_per_s": round(answered / seconds)}


def ask_all(closed: Closed) -> int:
    """Asks with each client until the time is over; returns the answers that they had while time was counted."""
    os.sched_setaffinity(0, {closed.cpu})
    os.nice(closed.nice)
    counted_from = closed.start + closed.warm_s
    until = counted_from + closed.seconds
    counts = [0] * closed.clients

    def client(number: int) -> None:
        opened = ASKING[closed.kind](closed.place, closed.model_id, f"closed-{number}")
        ask = next(opened)
        time.sleep(max(closed.start - time.monotonic(), 0.0))
        while (now := time.monotonic()) < until:
            ask()
            counts[number] += now >= counted_from
        opened.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(closed.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts)


# The kinds: each gives a function that asks once and returns when it is answered, and leaves when it is closed.


def _sdk(place: str, model_id: str, name: str) -> Generator[Ask]:
    with Connection(place, name) as connection:
        model = connection.model(model_id)
        yield functools.partial(model.infer, _WAIT_S * 1e3, state=_STATE)


def _openpi(place: str, model_id: str, name: str) -> Generator[Ask]:
    from websockets.sync.client import connect

    with connect(place, additional_headers={"X-Client-Id": name}, compression=None) as websocket:
        websocket.recv(_WAIT_S)
        observation = pack({"state": _STATE})

        def ask() -> None:
            websocket.send(observation)
            if isinstance(answer := websocket.recv(_WAIT_S), str):
                raise RuntimeError(answer)

        yield ask


def _over_http(place: str, path: str, name: str, content: Any) -> Generator[Ask]:
    body, headers = json.dumps(content).encode(), {"X-Client-Id": name, "Content-Type": "application/json"}
    connection = http.client.HTTPConnection(urlsplit(place).netloc, timeout=_WAIT_S)

    def ask() -> None:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        if (text := answer.read()) and answer.status != 200:
            raise RuntimeError(text)

    yield ask
    connection.close()


def _act(place: str, model_id: str, name: str) -> Generator[Ask]:
    return _over_http(place, "/act", name, {"state": _STATE.tolist()})


def _kserve(place: str, model_id: str, name: str) -> Generator[Ask]:
    state = {"name": "state", "shape": [7], "datatype": "FP32", "data": _STATE.tolist()}
    return _over_http(place, f"/v2/models/{model_id}/infer", name, {"inputs": [state]})


def _gr00t(place: str, model_id: str, name: str) -> Generator[Ask]:
    import zmq

    request = msgpack.packb({"endpoint": "get_action", "data": {"state": _STATE.tolist()}})
    with zmq.Context() as context, context.socket(zmq.REQ) as opened:
        opened.setsockopt(zmq.LINGER, 0)
        opened.setsockopt(zmq.RCVTIMEO, round(_WAIT_S * 1e3))
        opened.connect(place)

        def ask() -> None:
            opened.send(request)
            if "error" in (answer := msgpack.unpackb(opened.recv())):
                raise RuntimeError(answer["error"])

        yield ask


def _kserve_grpc(place: str, model_id: str, name: str) -> Generator[Ask]:
    import grpc

    from inferential.gateway.kserve.messages import SERVICE, message_class

    request = message_class("ModelInferRequest")(model_name=model_id, raw_input_contents=[_STATE.tobytes()])
    request.inputs.add(name="state", datatype="FP32", shape=[7])
    with grpc.insecure_channel(place, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        infer = channel.unary_unary(
            f"/{SERVICE}/ModelInfer",
            message_class("ModelInferRequest").SerializeToString,
            message_class("ModelInferResponse").FromString,
        )
        yield lambda: infer(request, timeout=_WAIT_S, metadata=[("x-client-id", name)])


def _lerobot(place: str, model_id: str, name: str) -> Generator[Ask]:
    import grpc

    from inferential.gateway.lerobot.messages import SERVICE, Actions, Empty, Observation, PolicySetup

    piece = Observation(transfer_state=3, data=(_RECORDED / "TimedObservation.pickle").read_bytes())
    with grpc.insecure_channel(place, [("grpc.use_local_subchannel_pool", 1)]) as channel:

        def call(way: Any, rpc: str, request: Any, response: Any) -> Any:
            return way(f"/{SERVICE}/{rpc}", request.SerializeToString, response.FromString)

        observe = call(channel.stream_unary, "SendObservations", Observation, Empty)
        actions = call(channel.unary_unary, "GetActions", Empty, Actions)
        instructions = PolicySetup(data=(_RECORDED / "RemotePolicyConfig.pickle").read_bytes())
        call(channel.unary_unary, "SendPolicyInstructions", PolicySetup, Empty)(instructions, timeout=_WAIT_S)

        def ask() -> None:
            observe(iter([piece]), timeout=_WAIT_S)
            while not actions(Empty(), timeout=_WAIT_S).data:
                pass

        yield ask


ASKING: dict[str, Callable[[str, str, str], Generator[Ask]]] = {
    "sdk": _sdk,
    "openpi": _openpi,
    "act": _act,
    "gr00t": _gr00t,
    "kserve": _kserve,
    "kserve_grpc": _kserve_grpc,
    "lerobot": _lerobot,
}
