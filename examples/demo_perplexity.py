# SPDX-License-Identifier: Apache-2.0
"""Measures a checkpoint's perplexity with `transformers` in float32: the reference for engines.

    python examples/demo_perplexity.py --output examples/demo/perplexity.json

The protocol: the text's token ids, without special tokens, are cut into consecutive windows of 512;
each window is evaluated by itself after one beginning-of-text token, which is context and is not
predicted. So every token of the text is predicted exactly once, from at most 512 tokens before it.
Perplexity is exp(total negative log-likelihood in nats / number of tokens).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import Tokenizer

WINDOW = 512
DEMO = Path(__file__).parent / "demo"


@torch.inference_mode()
def negative_log_likelihoods(model: Any, token_ids: list[int]) -> torch.Tensor:
    """Nats per token of `token_ids`, under the protocol above; float64, [num_tokens]."""
    bos = model.config.bos_token_id
    losses = []
    for begin in range(0, len(token_ids), WINDOW):
        row = torch.tensor([[bos, *token_ids[begin : begin + WINDOW]]])
        log_probs = model(row).logits[0, :-1].double().log_softmax(dim=-1)
        losses.append(-log_probs.gather(1, row[0, 1:, None])[:, 0])
    return torch.cat(losses)


def measure(model_dir: Path, text_path: Path) -> dict[str, object]:
    """Evaluates the checkpoint on the text, and says exactly what was measured."""
    text = text_path.read_text(encoding="utf-8")
    tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    token_ids = tokenizer.encode(text, add_special_tokens=False).ids
    model = transformers.AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    nats = negative_log_likelihoods(model, token_ids).sum().item()
    num_bytes = len(text.encode())
    weights = (model_dir / "model.safetensors").read_bytes()
    return {
        "bits_per_byte": round(nats / math.log(2) / num_bytes, 5),
        "num_bytes": num_bytes,
        "num_tokens": len(token_ids),
        "perplexity": round(math.exp(nats / len(token_ids)), 4),
        "protocol": {
            "bos_per_window": True,
            "compute_dtype": "float32",
            "stride": WINDOW,
            "window": WINDOW,
        },
        "sha256": {
            "model.safetensors": hashlib.sha256(weights).hexdigest(),
            "text": hashlib.sha256(text.encode()).hexdigest(),
        },
        "versions": {
            "tokenizers": tokenizers.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Perplexity of a checkpoint, with transformers")
    parser.add_argument("--model", type=Path, default=DEMO, help="checkpoint directory")
    parser.add_argument("--text", type=Path, default=DEMO / "heldout.txt", help="UTF-8 text")
    parser.add_argument("--output", type=Path, help="where to write the result, besides printing")
    args = parser.parse_args()
    result = json.dumps(measure(args.model, args.text), indent=2) + "\n"
    print(result, end="")
    if args.output:
        args.output.write_text(result, encoding="utf-8")


if __name__ == "__main__":
    main()
