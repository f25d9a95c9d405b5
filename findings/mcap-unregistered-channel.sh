#!/usr/bin/env bash
# mcap 1.6.0 (Python): one message on a channel that was never registered costs the good topics too.
# One would guess: `Writer.add_message` refuses an unknown channel id, or a reader skips that message.
# Seen: the writer takes it and finishes the file; `make_reader(...).iter_messages(topics=[good])` then
# raises KeyError with the channel's number, although the messages of the good topic are whole.
# After `finish()`, `add_message` still returns normally and nothing is written.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check mcap==1.6.0
venv/bin/python - <<'PYTHON'
import io
import sys

from mcap.reader import make_reader
from mcap.writer import Writer


def record(with_stray):
    output = io.BytesIO()
    writer = Writer(output)
    writer.start()
    schema = writer.register_schema(name="state", encoding="jsonschema", data=b"{}")
    good = writer.register_channel(topic="/state", message_encoding="json", schema_id=schema)
    writer.add_message(channel_id=good, log_time=1, publish_time=1, data=b"{}")
    if with_stray:
        writer.add_message(channel_id=good + 7, log_time=2, publish_time=2, data=b"{}")
    writer.finish()
    size = output.tell()
    writer.add_message(channel_id=good, log_time=3, publish_time=3, data=b"{}")
    return output.getvalue(), output.tell() - size


def times(data):
    try:
        return [message.log_time for _, _, message in make_reader(io.BytesIO(data)).iter_messages(topics=["/state"])]
    except KeyError as error:
        return f"KeyError: {error}"


clean, late_bytes = record(with_stray=False)
spoilt, _ = record(with_stray=True)
print("without a stray message, /state has", times(clean))
print("with one on another, unregistered channel:", times(spoilt))
print("bytes written by a message after finish():", late_bytes)
sys.exit(not (times(clean) == [1] and times(spoilt) == "KeyError: 8" and late_bytes == 0))
PYTHON
