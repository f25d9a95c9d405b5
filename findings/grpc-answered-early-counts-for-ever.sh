#!/usr/bin/env bash
# grpcio 1.80.0 and 1.81.0, asyncio: a stream that its server answers early stays in grpc.max_concurrent_streams.
# One would guess: a handler of a stream of requests may return as soon as it has what it needs; the call is over
# then, as its client has the answer, and a client that makes one call after another has one stream open.
# Seen: with 1.80.0 (1.74.0 to 1.78.0 alike) such calls are counted for ever: with a limit of 8 the client gets 9 or 17
# answers, and each later call ends as UNAVAILABLE, "Received RST_STREAM with error code 7". A handler that reads the
# stream to its end is never refused. With 1.81.0 neither is.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > calls.py <<'PYTHON'
import asyncio
import sys
from collections import Counter

import grpc
import grpc.aio

CALLS = 200


async def answers_early(requests, context):
    async for _ in requests:
        return b"done"


async def reads_all(requests, context):
    async for _ in requests:
        pass
    return b"done"


async def ends_with(behavior):
    server = grpc.aio.server(options=(("grpc.max_concurrent_streams", 8),))
    method = grpc.stream_unary_rpc_method_handler(behavior)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("robots.Service", {"Send": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    ends = Counter()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        send = channel.stream_unary("/robots.Service/Send")
        for _ in range(CALLS):
            try:
                await send(iter([b"observation"]))
                ends["answered"] += 1
            except grpc.aio.AioRpcError as error:
                ends[f"{error.code().name}: {error.details()}"] += 1
    await server.stop(None)
    print(f"grpcio {grpc.__version__}, {behavior.__name__}:", dict(ends))
    return ends


async def main(refuses):
    early, whole = await ends_with(answers_early), await ends_with(reads_all)
    assert whole == {"answered": CALLS}, whole
    if refuses:
        assert early["answered"] < 20, early
        assert any("error code 7" in how for how in early), early
    else:
        assert early == {"answered": CALLS}, early


asyncio.run(main(sys.argv[1] == "refuses"))
PYTHON
for pair in 1.80.0:refuses 1.81.0:answers; do
  version=${pair%%:*}
  python3 -m venv "venv-$version"
  "venv-$version/bin/python" -m pip install --quiet --disable-pip-version-check "grpcio==$version"
  "venv-$version/bin/python" calls.py "${pair##*:}"
done
