#!/usr/bin/env bash
# grpcio 1.76.0: two channels of one process to one server are one TCP connection, so a server cannot tell them apart.
# One would guess: each `grpc.insecure_channel(target)` is a connection, and `context.peer()` names it.
# Seen: channels with equal arguments share a subchannel; both calls come from the same address and port. A server that
# keeps state by peer, as policy servers do whose protocol has no client id, mixes two robots that run as two threads
# of one process. With the option grpc.use_local_subchannel_pool each channel connects for itself.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check grpcio==1.76.0
venv/bin/python - <<'PYTHON'
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc

peers = []


def call(request, context):
    peers.append(context.peer())
    return b""


server = grpc.server(ThreadPoolExecutor(2))
methods = {"GetActions": grpc.unary_unary_rpc_method_handler(call)}
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Policy", methods),))
port = server.add_insecure_port("127.0.0.1:0")
server.start()


def peers_of_two(options):
    peers.clear()
    channels = [grpc.insecure_channel(f"127.0.0.1:{port}", options) for _ in range(2)]
    for channel in channels:
        channel.unary_unary("/Policy/GetActions")(b"")
    for channel in channels:
        channel.close()
    return len(set(peers))


usual, apart = peers_of_two([]), peers_of_two([("grpc.use_local_subchannel_pool", 1)])
print("peers that the server sees of two channels:", usual)
print("with a subchannel pool of their own:", apart)
server.stop(0)
sys.exit(not (usual == 1 and apart == 2))
PYTHON
