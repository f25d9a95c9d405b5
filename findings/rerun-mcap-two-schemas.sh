#!/usr/bin/env bash
# rerun-sdk 0.41.0: of two channels of one topic with different schemas, one's messages are read by the other's schema.
# One would guess: each channel is decoded by the schema that its own record names, as MCAP's other readers do.
# Seen: of a foxglove.RawImage and a foxglove.CompressedImage, both on /camera, one is decoded as the other: an error
# on standard error, exit status 0, and its picture is nowhere. With a topic each, both are there.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check mcap==1.6.0 foxglove-sdk==0.30.3 rerun-sdk==0.41.0
venv/bin/python - <<'PYTHON'
import subprocess
import sys

from foxglove.messages import CompressedImage, RawImage, Timestamp
from mcap.reader import make_reader
from mcap.writer import Writer
from rerun.chunk import McapReader

PNG = bytes.fromhex("89504e470d0a1a0a0000000d4948445200000001000000010800000000"
                    "3a7e9b550000000a49444154789c63600000000200014873afa40000000049454e44ae426082")
AT = Timestamp(sec=1, nsec=0)
MESSAGES = (
    CompressedImage(timestamp=AT, frame_id="camera", data=PNG, format="png"),
    RawImage(timestamp=AT, frame_id="camera", width=1, height=1, encoding="mono8", step=1, data=b"\x07"),
)


def record(path, topics):
    with open(path, "wb") as file:
        writer = Writer(file)
        writer.start()
        for time, (topic, message) in enumerate(zip(topics, MESSAGES), 1):
            described = type(message).get_schema()
            schema = writer.register_schema(described.name, "protobuf", described.data)
            channel = writer.register_channel(topic, "protobuf", schema)
            writer.add_message(channel, time, message.encode(), time)
        writer.finish()


def kinds(path):
    """What Rerun has of each kind of picture."""
    columns = {str(column) for chunk in McapReader(path).stream() for column in chunk.to_record_batch().schema.names}
    return sorted(kind for kind in ("EncodedImage", "Image") if any(f":{kind}:" in f":{one}" for one in columns))


record("apart.mcap", ("/camera/compressed", "/camera/raw"))
record("together.mcap", ("/camera", "/camera"))
with open("together.mcap", "rb") as file:
    print("mcap reads:", [schema.name for schema, _, _ in make_reader(file).iter_messages()])
print("a topic each:", kinds("apart.mcap"))
print("one topic:", kinds("together.mcap"))
sys.exit(not (kinds("apart.mcap") == ["EncodedImage", "Image"] and len(kinds("together.mcap")) == 1))
PYTHON
