#!/usr/bin/env bash
# mcap-protobuf-support 0.6.0 with mcap 1.6.0: a topic keeps the schema of its first message.
# One would guess: a message type that gained a field gets a schema of its own, or the writer refuses it.
# Seen: the message is written with all its bytes, yet recorded under the first schema; a reader that
# decodes by the file's schema never shows the new field, and nothing is said on either side.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check mcap==1.6.0 mcap-protobuf-support==0.6.0 protobuf==6.33.6
venv/bin/python - <<'PYTHON'
import io
import sys

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from mcap.reader import make_reader
from mcap_protobuf.decoder import DecoderFactory
from mcap_protobuf.writer import Writer


def message_class(*fields):
    file = descriptor_pb2.FileDescriptorProto(name="state.proto", package="robot", syntax="proto3")
    message = file.message_type.add(name="State")
    for number, name in enumerate(fields, 1):
        message.field.add(
            name=name,
            number=number,
            type=descriptor_pb2.FieldDescriptorProto.TYPE_DOUBLE,
            label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
        )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("robot.State"))


Older, Newer = message_class("position"), message_class("position", "velocity")
output = io.BytesIO()
writer = Writer(output)
writer.write_message("/arm", Older(position=1.0))
writer.write_message("/arm", Newer(position=2.0, velocity=3.0))
writer.write_message("/fresh", Newer(position=2.0, velocity=3.0))
writer.finish()

seen = []
reader = make_reader(io.BytesIO(output.getvalue()), decoder_factories=[DecoderFactory()])
for _, channel, _, decoded in reader.iter_decoded_messages():
    fields = {field.name: value for field, value in decoded.ListFields()}
    print(channel.topic, fields)
    seen.append((channel.topic, fields))
sys.exit(
    seen
    != [
        ("/arm", {"position": 1.0}),
        ("/arm", {"position": 2.0}),
        ("/fresh", {"position": 2.0, "velocity": 3.0}),
    ]
)
PYTHON
