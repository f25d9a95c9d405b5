#!/usr/bin/env bash
# LitServe 0.2.19 with fastapi 0.165.0: `max_payload_size="64MB"` refuses every request.
# One would guess: requests of up to 64 MB are served, as the parameter's description has sizes as "10MB" and "1GB".
# Seen: a request of a few bytes is answered with an error, 400 or 500 by how it is sent: the text is compared with a
# number of bytes as it is. The same server with the number 64000000 answers 200.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check litserve==0.2.19 fastapi==0.165.0
cat > server.py <<'PYTHON'
import sys

import litserve


class Double(litserve.LitAPI):
    def setup(self, device):
        pass

    def decode_request(self, request):
        return request["x"]

    def predict(self, x):
        return 2 * x

    def encode_response(self, output):
        return {"y": output}


if __name__ == "__main__":
    size = sys.argv[2] if sys.argv[2] == "64MB" else int(sys.argv[2])
    server = litserve.LitServer(Double(), accelerator="cpu", max_payload_size=size)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="error")
PYTHON
venv/bin/python - <<'PYTHON'
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request


def status(size: str) -> int:
    """Returns the status of a request of a few bytes to a server with that limit."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    output = subprocess.DEVNULL
    command = [sys.executable, "server.py", str(port), size]
    server = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/predict", b'{"x": 1}', {"Content-Type": "application/json"}
    )
    try:
        for _ in range(120):
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return answer.status
            except urllib.error.HTTPError as error:
                return error.code
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.5)
        return 0
    finally:
        os.killpg(server.pid, signal.SIGKILL)  # its workers too
        server.wait()


seen = {size: status(size) for size in ("64000000", "64MB")}
print(seen)
sys.exit(not (seen["64000000"] == 200 and seen["64MB"] in (400, 500)))
PYTHON
