"""Writes the corpus: `python -m fuzz.seeds`. Few and small, one for each thing that a reader has to tell apart."""

from __future__ import annotations

import io
import json
import pickle
import secrets
import time
from typing import Any
from unittest import mock

import msgpack
import numpy as np
from bench.overload.wire import COMMAND, GREETING, MORE, frame, message, ready
from tests.gateway import lerobot_robot

from fuzz.inputs import CORPUS
from fuzz.subjects import NOW_NS
from inferential.client.encoding import EncodingRules
from inferential.client.handle import Handle
from inferential.client.session import Session
from inferential.gateway.kserve.messages import message_class
from inferential.proto import PROTOCOL_VERSION, Observation
from inferential.proto.messages import ResponseTiming, content_of, write_refusal, write_response
from inferential.proto.msgpack_numpy import pack
from inferential.zmtp import curve
from inferential.zmtp.boxes import BoxWire

_PING = frame(b"\4PING\0\0context", COMMAND)
_USUAL = message(b"", b"e" * 40, b"p" * 28)


def zmtp_reader() -> dict[str, bytes]:
    """Messages and commands of every size that is encoded in another way."""
    head = b"\2\3\x10\x05"  # three frames, 256 bytes
    wide = b"\2\5\x08\x33"
    return {
        "usual": head + _USUAL * 2,
        "commands": head + _PING + frame(b"", MORE) + _PING + frame(b"e", MORE) + frame(b"p") + _PING,
        "long": wide + message(b"", b"e" * 300, b"p" * 2100),
        "in-place": wide + message(b"", b"e" * 40, b"p" * 2048) + _USUAL,
        "too-large": head + message(b"", b"e" * 40, b"p" * 300),
        "many-frames": head + message(*[b"x"] * 80) + _USUAL,
        "bad-flags": head + _USUAL + b"\x08\0",
        "large-command": head + frame(b"\4PING" + bytes(1100), COMMAND),
        "short-as-long": wide
        + b"\3"
        + (0).to_bytes(8)
        + b"\3"
        + (5).to_bytes(8)
        + b"hello"
        + b"\2"
        + (3).to_bytes(8)
        + b"abc",
    }


def zmtp_handshake() -> dict[str, bytes]:
    """Greetings and READYs, good and bad."""
    head = b"\x20\x02"
    good = GREETING + ready(b"robot-1")
    plain = GREETING.replace(b"NULL".ljust(20, b"\0"), b"CURVE".ljust(20, b"\0"))
    return {
        "usual": head + good + _USUAL,
        "heartbeats": head + good + _PING * 3 + _USUAL + _PING,
        "nameless": head + GREETING + ready(b"") + _USUAL,
        "version-3-0": head + GREETING[:11] + b"\0" + GREETING[12:] + ready(b"r") + _USUAL,
        "version-2": head + b"\xff" + bytes(8) + b"\x7f\1\x05" + b"\0\0",
        "curve": head + plain + ready(b"r"),
        "push": head + GREETING + ready(b"r", b"PUSH"),
        "long-identity": head + GREETING + ready(b"i" * 255) + _USUAL,
        "message-first": head + GREETING + _USUAL + ready(b"r"),
        "error": head + GREETING + frame(b"\5ERROR\4no!!", COMMAND),
        "http": head + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "zero-identity": head + GREETING + ready(b"\0abc"),
    }


def _pairs(*pairs: tuple[bytes, int]) -> bytes:
    return b"".join(len(one).to_bytes(2) + size.to_bytes(2) + one for one, size in pairs)


def curve_handshake() -> dict[str, bytes]:
    """Each command of the handshake, spoilt in each way."""
    ways = {"noise": 0, "cut": 1, "longer": 2, "changed": 3}
    return {
        f"{name}-{step}": bytes((kind, step)) + b"\0\x70" + bytes(range(16))
        for name, kind in ways.items()
        for step in (0, 1)
    }


def curve_boxes() -> dict[str, bytes]:
    """Frames that are boxes of another connection, or none."""
    session = curve.Session(bytes(range(32)), b"CurveZMQMESSAGEC", b"CurveZMQMESSAGES", 4, 4)
    wire = BoxWire(session, None, 3)
    more = b"".join(bytes(part) for part in wire.message((b"", b"e" * 300, b"p" * 3000), 0))
    return {
        "usual": b"\x20\x02" + more,
        "repeated": b"\x20\x02" + more + more,
        "command": b"\x20\x02" + wire.command(b"\4PING\0\0context"),
        "changed": b"\x20\x02" + more[:60] + b"?" + more[61:],
        "plain": b"\x20\x02" + _USUAL,
        "too-large": b"\x20\x02\x02" + (5000).to_bytes(8) + bytes(100),
    }


def observation() -> dict[str, bytes]:
    """Envelopes as the SDK writes them, several of one robot, and some as others do."""
    values: dict[str, Any] = {"state": np.zeros(7, np.float32), "image": np.zeros((4, 4, 3), np.uint8)}
    seeds_by_name: dict[str, bytes] = {}
    with (
        mock.patch.object(time, "time_ns", return_value=NOW_NS),
        mock.patch.object(secrets, "randbits", return_value=7),
    ):
        session = Session("robot-1", "arm")
        for queue in ("latest", "all"):
            mailbox = session.mailbox(Handle("policy", 50.0, 1, queue, EncodingRules(None)))
            pairs = []
            for step, extra in enumerate(({}, {}, {"prompt": "pick"}, {"prompt": "pick", "mode": "a"})):
                _, (_, envelope, _) = session.observe(
                    mailbox,
                    content_of({**values, **extra}),
                    {} if step % 2 else {"urgency": 0.5, "steps_remaining": 3, "priority": 2},
                    now=1.0,
                    timestamp_ns=NOW_NS - 10**9 + step,
                )
                pairs.append((envelope, 28 + 48))
            seeds_by_name[f"sdk-{queue}"] = _pairs(*pairs)
    old = Observation(timestamp_ns=NOW_NS - 5, model_id="policy", urgency=2.0, priority=1)
    old.client.id, old.client.type = "old", "arm"
    old.tensors.add(key="state", dtype=2, shape=[7], byte_length=28, timestamp_ns=NOW_NS - 5, encoding=1)
    old.metadata["prompt"] = "go"
    seeds_by_name["version-1"] = _pairs((old.SerializeToString(), 28), (old.SerializeToString(), 28))
    image = Observation(timestamp_ns=NOW_NS, model_id="policy", protocol_version=PROTOCOL_VERSION, request_id=9)
    image.client.id = "camera"
    image.tensors.add(key="image", dtype=5, shape=[4, 4, 3], byte_length=60, timestamp_ns=NOW_NS, encoding=3)
    seeds_by_name["image"] = _pairs((image.SerializeToString(), 60))
    seeds_by_name["empty"] = _pairs((b"", 0), (Observation(model_id="m").SerializeToString(), 0))
    return seeds_by_name


def response() -> dict[str, bytes]:
    """Results and refusals as the server writes them."""
    timing = ResponseTiming(0.1, 1.0, 1.2, 8)

    def result(number: int, **values: Any) -> tuple[bytes, int]:
        envelope, payload = write_response(
            client_id="robot-1",
            model_id="policy",
            response_id=f"r-{number}",
            timestamp_ns=NOW_NS + number,
            request_id=number,
            values=values,
            timing=timing,
            serve_interval_ms=number % 2 * 10.0,
            model_version="v2",
        )
        return envelope, len(payload)

    chunk = np.zeros((10, 7), np.float32)
    refusal = write_refusal(client_id="robot-1", model_id="policy", request_id=3, status="EXPIRED", reason="late")
    return {
        "results": _pairs(result(1, actions=chunk), result(2, actions=chunk), (refusal, 0), result(4, actions=chunk)),
        "strings": _pairs(result(1, actions=chunk, note="a"), result(2, actions=chunk, note="b")),
        "forms": _pairs(result(1, a=np.zeros(2)), result(2, b=np.zeros(3, bool)), result(3, a=np.zeros(2))),
        "empty": _pairs((b"", 0), (refusal, 0)),
    }


_OBSERVATION = {
    "observation/state": np.arange(7, dtype=np.float32),
    "image": np.zeros((2, 2, 3), np.uint8),
    "prompt": "pick",
    "nested": {"gripper": np.float32(0.5), "list": [1, 2.5]},
}


def openpi_message() -> dict[str, bytes]:
    """Observations, and values that are none."""
    return {
        "observation": pack(_OBSERVATION),
        "scalar": pack({"a": np.float64(1.5), "b": np.bool_(True), "c": None}),
        "strings": pack({"s": np.array(["ab", "c"])}),
        "no-map": pack([1, 2, b"x"]),
        "lying": msgpack.packb({"a": {b"__ndarray__": True, b"data": b"1234", b"dtype": "<f4", b"shape": [9]}}),
        "object": msgpack.packb({"a": {b"__ndarray__": True, b"data": b"", b"dtype": "|O", b"shape": [0]}}),
        "deep": b"\x91" * 200 + b"\x01",
        "extension": msgpack.packb({"t": msgpack.Timestamp(5)}),
    }


def gr00t_message() -> dict[str, bytes]:
    """Requests of GR00T's client."""

    def array(value: np.ndarray[Any, Any]) -> dict[str, Any]:
        output = io.BytesIO()
        np.save(output, value, allow_pickle=False)
        return {"__ndarray_class__": True, "as_npy": output.getvalue()}

    compressed = io.BytesIO()
    np.savez_compressed(compressed, a=np.zeros(50_000))
    huge = array(np.zeros(1))
    huge["as_npy"] = huge["as_npy"].replace(b"(1,), }           ", b"(999999999999,), }")
    state = {"state": array(np.zeros((1, 7), np.float32)), "task": ["pick"]}
    seeds_by_name = {
        "get-action": {"endpoint": "get_action", "data": {"observation": state, "options": None}},
        "older": {"endpoint": "get_action", "data": state, "api_token": "secret"},
        "ping": {"endpoint": "ping"},
        "compressed": {"data": {"a": {"__ndarray_class__": True, "as_npy": compressed.getvalue()}}},
        "empty-array": {"data": {"a": {"__ndarray_class__": True, "as_npy": b""}}},
        "no-npy": {"data": {"a": {"__ndarray_class__": True, "as_npy": b"not numpy at all"}}},
        "huge": {"data": {"a": huge}},
    }
    return {name: msgpack.packb(value) for name, value in seeds_by_name.items()}


def act_message() -> dict[str, bytes]:
    """Requests of OpenVLA's client, and values that are none."""
    array = {"__numpy__": "AAAAAAAA8D8=", "dtype": "<f8", "shape": [1]}
    values = {
        "observation": {"image": {"__numpy__": "AAEC", "dtype": "uint8", "shape": [1, 1, 3]}, "instruction": "pick"},
        "doubled": {"encoded": json.dumps({"state": array})},
        "lists": {"state": [[1, 2.5], [3, 4]], "flags": [True, None], "nested": {"a": {"b": -1e300}}},
        "lying": {"state": {**array, "shape": [2**40, 2**40]}},
        "fields": {"state": {**array, "dtype": "i4,i4"}},
        "no-map": [1, "x"],
    }
    return {name: json.dumps(value).encode() for name, value in values.items()}


def kserve_message() -> dict[str, bytes]:
    """Requests over HTTP, with their tensors in the JSON and behind it."""

    def tensor(datatype: str, shape: list[int], **more: Any) -> dict[str, Any]:
        return {"name": "state", "datatype": datatype, "shape": shape, **more}

    requests: dict[str, tuple[list[dict[str, Any]], bytes]] = {
        "numbers": ([tensor("FP32", [2], data=[1, 2.5])], b""),
        "texts": ([tensor("BYTES", [2], data=["pick", "\u00e4"])], b""),
        "bytes": ([tensor("FP64", [1], parameters={"binary_data_size": 8})], bytes(8)),
        "texts-in-bytes": ([tensor("BYTES", [1], parameters={"binary_data_size": 8})], b"\4\0\0\0pick"),
        "lying": ([tensor("INT8", [2**31, 2**31], data=[1])], b""),
        "nested": ([tensor("BOOL", [1, 2], data=[[True, False]])], b""),
    }
    seeds_by_name = {}
    for name, (inputs, behind) in requests.items():
        head = json.dumps({"id": "1", "parameters": {"priority": 1}, "inputs": inputs}).encode()
        seeds_by_name[name] = (len(head) if behind else 0xFFFF).to_bytes(2) + head + behind
    return seeds_by_name


def kserve_rpc_message() -> dict[str, bytes]:
    """Requests over gRPC, with raw bytes and with lists."""
    request, tensor, contents = map(message_class, ("ModelInferRequest", "InferTensor", "InferTensorContents"))
    raw = tensor(name="state", datatype="FP32", shape=[1, 2])
    listed = [
        tensor(name="ints", datatype="INT16", shape=[2], contents=contents(int_contents=[-1, 2])),
        tensor(name="texts", datatype="BYTES", shape=[1], contents=contents(bytes_contents=[b"pick"])),
        tensor(name="truths", datatype="BOOL", shape=[1], contents=contents(bool_contents=[True])),
    ]
    named = request(model_name="m", id="7", inputs=[raw], raw_input_contents=[bytes(8)])
    named.parameters["priority"].int64_param = 1
    return {
        "raw": named.SerializeToString(),
        "lists": request(model_name="m", inputs=listed).SerializeToString(),
        "lying": request(inputs=[tensor(name="x", datatype="INT8", shape=[2**62, 4])]).SerializeToString(),
        "group": b"\x2b\x2b\x2c\x2c",
    }


def lerobot_message() -> dict[str, bytes]:
    """Pickles as a robot of LeRobot sends them, and others."""
    image = np.zeros((2, 2, 3), np.uint8)
    others = [1.5, None, True, "pick", b"x", (1, -(2**70)), {"a": [image]}]
    return {
        "instructions": lerobot_robot.config(),
        "observation": lerobot_robot.observation(1.0, 3, front=image),
        "others": pickle.dumps(others, 4),
        "out-of-band": pickle.dumps(others, 5),
        "old": pickle.dumps(others, 2),
        "names": pickle.dumps([np.float32(1), np.dtype("<f4"), np.arange(3)], 4),
        "evil": pickle.dumps(print, 4),
    }


def structure() -> dict[str, bytes]:
    """Descriptions of nested values, over the values of `targets.structure`."""
    texts = {
        "map": '["map",{"a":["value","a"],"s":["map",{"x":["number","b"],"y":["value","text"]}]}]',
        "nodes": '{"a":["scalar","a"],"n":["numbers","b"],"t":["texts","<U2",[2],["ab","c"]],"p":["plain",null]}',
        "list": '{"l":["list",[["bytes","bytes"],["raw","a","<M8[ns]",[1]],["plain",[1,"x"]]]]}',
        "lost": '{"a":["value","none"]}',
        "deep": "[" * 500,
    }
    return {name: text.encode() for name, text in texts.items()}


def http_page() -> dict[str, bytes]:
    """Requests to the page."""
    paths = {"index": "/", "status": "/api/status", "metrics": "/metrics", "ready": "/readyz?x=%ff", "none": "/no"}
    seeds_by_name = {name: f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() for name, path in paths.items()}
    seeds_by_name["token"] = (
        b'GET /?token=%C3%A4&token=b HTTP/1.1\r\nHost: [::1]:80\r\nCookie: inferential_token="a;b"\r\n\r\n'
    )
    seeds_by_name["post"] = b"POST /api/status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc"
    seeds_by_name["chunked"] = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    seeds_by_name["head"] = b"HEAD /metrics HTTP/1.0\r\n\r\n"
    seeds_by_name["bearer"] = b"GET /api/status HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer \xc3\xa4\r\n\r\n"
    seeds_by_name["stream"] = b"GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n"
    seeds_by_name["half"] = b"GET / HTTP/1.1\r\nHost: local"
    return seeds_by_name


def http_openpi() -> dict[str, bytes]:
    """Upgrades to a websocket, and messages in it."""

    def upgrade(path: str = "/", more: str = "") -> bytes:
        key = "dGhlIHNhbXBsZSBub25jZQ=="
        head = (
            f"GET {path} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}"
        )
        return f"{head}\r\nSec-WebSocket-Version: 13\r\n{more}\r\n".encode()

    def binary(data: bytes, opcode: int = 2) -> bytes:
        size = bytes((0x80 | len(data),)) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2)
        return bytes((0x80 | opcode,)) + size + bytes(4) + data

    observed = pack({"state": np.zeros(3, np.float32), "prompt": "go"})
    return {
        "observation": upgrade() + binary(observed),
        "two": upgrade("/v1/realtime/robot/openpi") + binary(observed) * 2,
        "text": upgrade() + binary(b"hello", 1),
        "close": upgrade() + binary(b"\x03\xe8", 8),
        "ping": upgrade() + binary(b"x", 9) + binary(observed),
        "named": upgrade(more="X-Client-Id: robot 1\r\n") + binary(observed),
        "bad-name": upgrade(more="X-Client-Id: \x01\xff\r\n"),
        "authorized": upgrade(more="Authorization: Api-Key k\r\n") + binary(b"\xc1"),
        "health": b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
        "none": upgrade("/elsewhere"),
        "nonsense": upgrade() + binary(b"\x81\xa1a\xc7\x05\x01"),
    }


def main() -> None:
    """Writes them all."""
    makers = (
        zmtp_reader,
        zmtp_handshake,
        curve_handshake,
        curve_boxes,
        observation,
        response,
        openpi_message,
        gr00t_message,
        act_message,
        kserve_message,
        kserve_rpc_message,
        lerobot_message,
        structure,
    )
    for maker in (*makers, http_page, http_openpi):
        folder = CORPUS / maker.__name__
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in maker().items():
            (folder / f"{name}.bin").write_bytes(data)


if __name__ == "__main__":
    main()
