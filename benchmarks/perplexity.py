# SPDX-License-Identifier: Apache-2.0
"""Perplexity of an engine on a text, by the protocol of examples/demo/README.md.

    python benchmarks/perplexity.py ENGINE examples/demo/heldout.txt

The text's token ids are cut into consecutive windows of 512, each evaluated by itself after one
begin-of-text token that is not predicted. Logits are those of `return_context_logits`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np

from enginery.accuracy import WINDOW, log_softmax, pieces
from enginery.runtime.engine import Engine
from enginery.runtime.runtime import Runtime
from enginery.runtime.sampling_params import SamplingParams
from enginery.runtime.tokenizer import Tokenizer


def main() -> int:
    """Prints one JSON object per engine."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("engine", type=Path, nargs="+", help="engine directories")
    parser.add_argument("text", type=Path, help="UTF-8 text")
    args = parser.parse_args()
    text = args.text.read_text(encoding="utf-8")
    for directory in args.engine:
        nll, num_tokens = negative_log_likelihood(directory, text)
        print(
            json.dumps(
                {
                    "engine": directory.name,
                    "perplexity": round(math.exp(nll / num_tokens), 4),
                    "bits_per_byte": round(nll / math.log(2) / len(text.encode()), 5),
                    "num_tokens": num_tokens,
                }
            )
        )
    return 0


def negative_log_likelihood(directory: Path, text: str) -> tuple[float, int]:
    """Sum over all tokens of `text`, in nats, and their number."""
    token_ids = Tokenizer(directory).encode(text, add_special_tokens=False)
    total = 0.0
    with Engine(directory) as engine, Runtime(engine) as runtime:
        bos = engine.info.bos_token_id
        if bos is None:
            raise SystemExit(f"{directory}: the engine has no begin-of-text token")
        params = SamplingParams(max_tokens=1, temperature=0, return_context_logits=True)
        for prompt, targets in pieces(token_ids, WINDOW, bos):
            runtime.submit(prompt, params, streaming=False)
            (event,) = runtime.poll(-1)
            assert event.context_logits is not None and event.status == "OK"
            log_probs = log_softmax(event.context_logits)
            total -= float(log_probs[np.arange(len(targets)), targets].sum())
    return total, len(token_ids)


if __name__ == "__main__":
    sys.exit(main())
