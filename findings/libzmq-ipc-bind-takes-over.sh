#!/usr/bin/env bash
# libzmq 4.3.5 (pyzmq 27.3.0): a second `bind` of an ipc path takes it from a server that lives.
# One would guess: "Address already in use", as with a TCP port that somebody listens on.
# Seen: the second bind succeeds in silence; new clients reach the second server alone, the first goes
# on waiting and hears nothing; when both have closed, the file of the socket is still there.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check pyzmq==27.3.0
venv/bin/python - <<'PYTHON'
import os
import sys

import zmq

path = os.path.abspath("socket")
address = f"ipc://{path}"
context = zmq.Context()
first, second = context.socket(zmq.ROUTER), context.socket(zmq.ROUTER)
first.bind(address)
try:
    second.bind(address)
    bound = "no error"
except zmq.ZMQError as error:
    bound = str(error)
client = context.socket(zmq.DEALER)
client.connect(address)
client.send(b"observation")
reached = {"first": bool(first.poll(1000)), "second": bool(second.poll(1000))}
for socket in (client, second, first):
    socket.close(linger=0)
context.term()
print("libzmq", zmq.zmq_version(), "- second bind:", bound, "- reached:", reached, "- file left:", os.path.exists(path))
sys.exit(not (bound == "no error" and reached == {"first": False, "second": True} and os.path.exists(path)))
PYTHON
