# SPDX-License-Identifier: Apache-2.0
"""The side without a server: `enginery bench`'s client on a runtime in a process of its own.

Reads a task from stdin and prints one line of JSON. Tokens are timed when the runtime has them.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time

import numpy as np

from benchmarks.serving.loads import Level, make_load
from enginery.bench.client import LoadClient
from enginery.runtime.engine import Engine
from enginery.runtime.runtime import Runtime, RuntimeOptions


def main() -> int:
    """Runs the load of the task."""
    task = json.load(sys.stdin)
    level = Level(task["kind"], task["value"])
    options = RuntimeOptions(num_threads=task["num_threads"], enable_block_reuse=False)
    with Engine(task["engine"]) as engine, Runtime(engine, options) as runtime:
        vocab_size = engine.info.vocab_size
        load = make_load(level, vocab_size, task["round"], quick=task["quick"])
        LoadClient(runtime).run(load.warmup, np.zeros(len(load.warmup)))
        client = LoadClient(runtime, concurrency=level.num_users)
        cpu_before = time.process_time()
        records = client.run(load.requests, load.arrivals, seed=task["round"])
        cpu_s = time.process_time() - cpu_before
    result = {"records": [dataclasses.asdict(record) for record in records], "cpu_s": cpu_s}
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
