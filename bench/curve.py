"""The price of encryption: our round trip with CURVE on both ends beside libzmq's own, by pyzmq, of the same messages.

Either is a client in this process and an echo in another one, over loopback, asked in turns. A message has the frames
of an observation: an empty one, an envelope of 60 bytes, and a payload.
"""

from __future__ import annotations

import multiprocessing
import os
import select
import socket
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import zmq
from zmq.utils import z85

from inferential.zmtp import Stream, curve
from inferential.zmtp.curve_handshake import ClientCurveHandshake, ServerCurveHandshake, ServerKeys

SIZES = {"64 B": 64, "150 kB": 150_000, "1 MB": 1_000_000}
_ENVELOPE = bytes(60)
_ROUNDS = 12
"""Turns of each side and size; the medians of all their round trips are compared."""
_LARGEST = 4_000_000
_WARM_UP = 20

RoundTrip = Callable[[bytes], None]


def run(seconds: float) -> dict[str, Any]:
    """Medians in microseconds; `seconds` for each size, both sides together."""
    server, client = curve.key_pair(os.urandom), curve.key_pair(os.urandom)
    spawn = multiprocessing.get_context("spawn")
    echoes, ends = [], []
    for echo in (_echo_ours, _echo_libzmq):
        here, there = spawn.Pipe()
        process = spawn.Process(target=echo, args=(there, server, client), daemon=True)
        process.start()
        echoes.append(process)
        ends.append(here)
    try:
        ours = _ours(ends[0].recv(), server, client)
        libzmq = _libzmq(ends[1].recv(), server, client)
        return {size: _compare(ours, libzmq, bytes(count), seconds) for size, count in SIZES.items()}
    finally:
        for process in echoes:
            process.terminate()


def _compare(ours: RoundTrip, libzmq: RoundTrip, payload: bytes, seconds: float) -> dict[str, float]:
    taken: dict[str, list[float]] = {"ours": [], "libzmq": []}
    for ask in (ours, libzmq):
        for _ in range(_WARM_UP):
            ask(payload)
    turn_s = seconds / _ROUNDS / 2
    for _ in range(_ROUNDS):
        for name, ask in (("ours", ours), ("libzmq", libzmq)):
            until = time.perf_counter() + turn_s
            while (began := time.perf_counter()) < until:
                ask(payload)
                taken[name].append((time.perf_counter() - began) * 1e6)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    return {
        "ours_us": round(medians["ours"], 1),
        "libzmq_us": round(medians["libzmq"], 1),
        "ratio": round(medians["ours"] / medians["libzmq"], 3),
    }


def _ours(port: int, server: curve.KeyPair, client: curve.KeyPair) -> RoundTrip:
    handshake = ClientCurveHandshake(b"DEALER", b"arm", client, server.public)
    stream = Stream(socket.create_connection(("127.0.0.1", port)), b"DEALER", handshake=handshake)
    while not stream.handshake():
        _wait(stream)

    def ask(payload: bytes) -> None:
        stream.send((b"", _ENVELOPE, payload))
        while (found := stream.receive()) is None:
            _wait(stream)
        assert isinstance(found, list)
        assert len(found[2]) == len(payload)

    return ask


def _echo_ours(ready: Connection, server: curve.KeyPair, client: curve.KeyPair) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ready.send(listener.getsockname()[1])
        accepted, _ = listener.accept()
    keys = ServerKeys(server, {client.public: "arm"}.get, True)
    stream = Stream(accepted, b"ROUTER", b"", _LARGEST, 3, ServerCurveHandshake(b"ROUTER", keys))
    while not stream.handshake():
        _wait(stream)
    while True:
        if (found := stream.receive()) is None:
            _wait(stream)
        else:
            assert isinstance(found, list)
            stream.send(found)


def _wait(stream: Stream) -> None:
    poll = select.poll()
    poll.register(stream, select.POLLIN | (select.POLLOUT if stream.unsent else 0))
    poll.poll()
    stream.flush()


def _libzmq(port: int, server: curve.KeyPair, client: curve.KeyPair) -> RoundTrip:
    dealer = zmq.Context.instance().socket(zmq.DEALER)
    dealer.linger = 0
    dealer.curve_serverkey = z85.encode(server.public)
    dealer.curve_publickey, dealer.curve_secretkey = z85.encode(client.public), z85.encode(client.secret)
    dealer.connect(f"tcp://127.0.0.1:{port}")

    def ask(payload: bytes) -> None:
        dealer.send_multipart((b"", _ENVELOPE, payload), copy=False)
        found = dealer.recv_multipart(copy=False)
        assert len(found[2].buffer) == len(payload)

    return ask


def _echo_libzmq(ready: Connection, server: curve.KeyPair, client: curve.KeyPair) -> None:
    router = zmq.Context.instance().socket(zmq.ROUTER)
    router.curve_server, router.curve_secretkey = True, z85.encode(server.secret)
    ready.send(router.bind_to_random_port("tcp://127.0.0.1"))
    while True:
        router.send_multipart(router.recv_multipart(copy=False), copy=False)
