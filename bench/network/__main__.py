"""`python -m bench.network CELL`: runs one cell, given as JSON, and prints its row."""

from __future__ import annotations

import json
import logging
import sys

from bench.network.cell import Cell, run

logging.disable(logging.WARNING)
print(json.dumps(run(Cell(**json.loads(sys.argv[1])))))
