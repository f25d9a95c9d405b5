"""What bounds memory, as the system sees it: of a server's process, what each kind of load adds to it at most.

The limits are small, so that what has none is much larger. (docs/architecture.md, "What bounds memory")
"""

from __future__ import annotations

import contextlib
import gzip
import io
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import psutil
import pytest
from bench.overload.serving import Serving
from bench.overload.wire import MORE, Observations, address_of, connect, frame, message
from PIL import Image

from inferential.gateway.kserve.messages import SERVICE
from inferential.proto import PNG, PROTOCOL_VERSION, UINT8, Observation

MIB = 2**20
PAYLOAD_BYTES = 2 * MIB
SLACK_MIB = 40
"""What a server may take besides: code that runs for the first time, and memory that is freed and kept."""
CONFIG = {
    "observations": {"max_payload_bytes": PAYLOAD_BYTES, "max_decoded_bytes": PAYLOAD_BYTES},
    "scheduling": {"max_queue_size": 50},
    "http": {"port": 0},
    "gateways": {
        "act": {"port": 0, "model": "single"},
        "openpi": {"port": 0, "model": "single"},
        "kserve_grpc": {"port": 0, "max_request_bytes": PAYLOAD_BYTES},
    },
}
MODELS = {name: f"bench.overload.models:{name}" for name in ("coroutine", "single")}


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with Serving(MODELS, tmp_path_factory.mktemp("memory") / "log", **CONFIG) as started:
        yield started


def send(opened: socket.socket, data: bytes, times: int = 1) -> None:
    """Sends what the server takes, as long as it takes something within a tenth of a second."""
    opened.settimeout(0.1)
    with contextlib.suppress(OSError):
        for _ in range(times):
            opened.sendall(data)


def numbers(most: int) -> Iterator[int]:
    """1, 2, ... as long as two seconds have not passed: a connection that floods is read less."""
    until = time.monotonic() + 2.0
    for number in range(1, most):
        yield number
        if time.monotonic() > until:
            return


def robots(serving: Serving, stack: ExitStack, count: int) -> Iterator[tuple[str, socket.socket]]:
    for number in range(count):
        name = f"robot-{time.monotonic_ns()}-{number}"
        yield name, stack.enter_context(connect(serving.address, name.encode(), 60.0)[0])


def http(serving: Serving, name: str) -> socket.socket:
    return socket.create_connection(address_of(serving.places[name].partition("//")[2]), 60)


def waiting_requests(serving: Serving, stack: ExitStack) -> None:
    for name, opened in robots(serving, stack, 10):
        send(opened, message(b"", Observations(name, "single", "all").envelope(1, time.time_ns()), bytes(MIB)), 30)


def half_messages(serving: Serving, stack: ExitStack) -> None:
    for _, opened in robots(serving, stack, 10):
        send(opened, frame(bytes(2 * PAYLOAD_BYTES), MORE), 20)


def frames_before_the_handshake(serving: Serving, stack: ExitStack) -> None:
    for _ in range(50):
        opened = stack.enter_context(socket.create_connection(address_of(serving.address), 60))
        send(opened, b"\xff" + bytes(8) + b"\x7f\x03\x01NULL" + bytes(48) + frame(bytes(4 * MIB), 4))


def unread_answers(serving: Serving, stack: ExitStack) -> None:
    for name, opened in robots(serving, stack, 4):
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        observations = Observations(name, "coroutine", "all")
        for number in numbers(40):
            send(opened, observations.message(number, time.time_ns()) * 200)


def made_up_names(serving: Serving, stack: ExitStack) -> None:
    for name, opened in robots(serving, stack, 1):
        for number in numbers(20_000):
            observations = Observations(name, f"made up {number} {'x' * 200}")
            send(opened, observations.message(number, time.time_ns()))


def answers_of_ever_new_clients(serving: Serving, stack: ExitStack) -> None:
    opened = stack.enter_context(connect(serving.address, b"", 60.0)[0])
    for number in numbers(5_000):
        send(opened, Observations(f"new {number}", "coroutine").message(number, time.time_ns()))


def large_envelopes(serving: Serving, stack: ExitStack) -> None:
    for name, opened in robots(serving, stack, 1):
        envelope = Observations(name, "single").envelope(1, time.time_ns())
        send(opened, message(b"", envelope + b"\x22\x00" * MIB, b""), 20)  # empty tensors


def images_of_one_colour(serving: Serving, stack: ExitStack) -> None:
    """A small file, that becomes 300 MB."""
    output = io.BytesIO()
    Image.new("RGB", (10_000, 10_000)).save(output, "PNG")
    payload = output.getvalue()
    for name, opened in robots(serving, stack, 3):
        seen = Observation(model_id="coroutine", protocol_version=PROTOCOL_VERSION, timestamp_ns=time.time_ns())
        seen.client.id, seen.request_id = name, 1
        shape = [10_000, 10_000, 3]
        seen.tensors.add(key="state", dtype=UINT8, shape=shape, byte_length=len(payload), encoding=PNG)
        send(opened, message(b"", seen.SerializeToString(), payload), 3)
        opened.settimeout(60)
        assert opened.recv(1)


def lists_in_msgpack(serving: Serving, stack: ExitStack) -> None:
    opened = stack.enter_context(http(serving, "openpi"))
    send(opened, _UPGRADE + b"\x82\xff" + (4 * MIB).to_bytes(8) + bytes(4) + b"\xdd\x00\x3f\xff\x00")
    send(opened, b"\x90" * (4 * MIB - 5))


_UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def packed_bodies(serving: Serving, stack: ExitStack) -> None:
    body = gzip.compress(bytes(400 * MIB))
    for _ in range(5):
        opened = stack.enter_context(http(serving, "act"))
        head = f"POST /act HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
        send(opened, head.encode() + body)


def heads_without_an_end(serving: Serving, stack: ExitStack) -> None:
    for name in ("act", "page"):
        opened = stack.enter_context(http(serving, name))
        send(opened, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
        send(opened, b"a" * MIB, 100)


def requests_at_once(serving: Serving, stack: ExitStack) -> None:
    for name in ("act", "page"):
        opened = stack.enter_context(http(serving, name))
        send(opened, b"GET /api/status HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50_000)


def grpc_requests(serving: Serving, stack: ExitStack) -> None:
    """Many of the largest size at once, which protobuf makes thirty times as large."""
    for _ in range(4):
        channel = stack.enter_context(grpc.insecure_channel(serving.places["kserve_grpc"]))
        ask = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        for asked in [ask.future(b"\x2a\x00" * (PAYLOAD_BYTES // 2 - 100), timeout=60) for _ in range(10)]:
            assert asked.code() is grpc.StatusCode.INVALID_ARGUMENT


def streams_that_are_not_read(serving: Serving, stack: ExitStack) -> None:
    for _ in range(100):
        opened = stack.enter_context(http(serving, "page"))
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        send(opened, b"GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
    time.sleep(1.0)


Load = Callable[[Serving, ExitStack], None]
MOST_MIB: dict[Load, int] = {
    waiting_requests: 50 + 10 * 3,  # in the queue, and three messages of each connection
    half_messages: 10 * 4 * PAYLOAD_BYTES // MIB,
    frames_before_the_handshake: 0,
    unread_answers: 4 * 4 * PAYLOAD_BYTES // MIB,
    made_up_names: 0,
    answers_of_ever_new_clients: 0,
    large_envelopes: 0,
    images_of_one_colour: 0,
    lists_in_msgpack: 4 + 8,
    packed_bodies: 5 * 2 * PAYLOAD_BYTES // MIB,
    heads_without_an_end: 0,
    requests_at_once: 0,
    # As pieces and as a whole; 64 KiB of each that waits; and the one that is read now.
    grpc_requests: 4 * 2 * PAYLOAD_BYTES // MIB + 40 // 16 + 30 * PAYLOAD_BYTES // MIB,
    streams_that_are_not_read: 0,
}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the most that was taken")
@pytest.mark.parametrize("load", MOST_MIB, ids=lambda load: load.__name__)
def test_a_server_takes_no_more_than_its_limits_say(load: Load, serving: Serving) -> None:
    process = Path(f"/proc/{serving.process.pid}")
    (process / "clear_refs").write_text("5")  # begins anew with the most that was taken (proc(5))
    before = psutil.Process(serving.process.pid).memory_info().rss
    with ExitStack() as stack:
        load(serving, stack)
    status = (process / "status").read_text()
    most = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024
    assert (most - before) // MIB <= MOST_MIB[load] + SLACK_MIB
    with contextlib.closing(connect(serving.address, b"another", 60.0)[0]) as robot:
        send(robot, Observations("another", "coroutine").message(1, time.time_ns()))
        robot.settimeout(60)
        assert robot.recv(1)
