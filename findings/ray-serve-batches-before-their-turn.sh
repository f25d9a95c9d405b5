#!/usr/bin/env bash
# ray[serve] 2.60.0: @serve.batch closes a batch when its time-out passes, not when the one before it has ended.
# One would guess: what arrives while a batch runs waits, and goes into the next batch together, as in Triton.
# Seen: requests that come further apart than batch_wait_timeout_s become a batch each at once; these wait, one by one, for the
# semaphore of running batches (_process_batches forms, then _process_sub_batches waits). A model of 400 ms that is asked
# every 15 ms runs rows one at a time with 2 ms, though ten wait; with a time-out of a call's length they go together.
# So under load the time-out must be about the length of a call, which a robot that asks alone then waits for too.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check 'ray[serve]==2.60.0'
venv/bin/python - <<'PYTHON'
import asyncio
import sys
import time

import ray
from ray import serve

ROWS = 11


@serve.deployment(num_replicas=1, max_ongoing_requests=64)
class Model:
    def __init__(self, wait_s):
        self.sizes = []
        self.infer.set_batch_wait_timeout_s(wait_s)

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.002)
    async def infer(self, rows):
        self.sizes.append(len(rows))
        await asyncio.sleep(0.4)
        return rows

    async def __call__(self, row):
        return self.sizes if row is None else await self.infer(row)


def sizes_of(wait_s, name):
    handle = serve.run(Model.bind(wait_s), name=name, route_prefix=None)
    asked = []
    for row in range(ROWS):  # all of them while the first runs
        asked.append(handle.remote(row))
        time.sleep(0.015)
    for one in asked:
        one.result()
    return handle.remote(None).result()


ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
serve.start(proxy_location="Disabled")
short, long = sizes_of(0.002, "short"), sizes_of(0.4, "long")
serve.shutdown()
ray.shutdown()
print("rows of each call, time-out of 2 ms:", short)
print("rows of each call, time-out of 400 ms:", long)
sys.exit(not (len(short) > ROWS // 2 and sum(long) == ROWS and len(long) <= 2))
PYTHON
