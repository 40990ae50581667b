# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-calls
"""The same shapes and loads in `transformers`: bfloat16, random weights, greedy tokens.

    python -m benchmarks.gpu.baseline SHAPE [--loads 1,64,16,128] ...

Twice: `generate` on a batch that starts and ends together (no padding, so the best case for it),
and `generate_batch`, the library's continuous batching. Neither compiles the model.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from typing import Any

import torch
import transformers

from benchmarks.gpu.steps import Outcome, Steps
from benchmarks.random_checkpoint import SHAPES


class Baseline:
    """A model with random weights on the GPU."""

    def __init__(self, shape: str, device: str, prompt: int, output: int) -> None:
        fields: dict[str, Any] = dict(SHAPES[shape])
        kind = fields.pop("model_type")
        config = transformers.AutoConfig.for_model(kind, **fields)
        with torch.device(device):
            self.model = transformers.AutoModelForCausalLM.from_config(
                config, dtype=torch.bfloat16, attn_implementation="sdpa"
            )
        self.model.eval()
        self.device, self.prompt, self.output = device, prompt, output
        self.vocab_size = config.vocab_size

    def prompts(self, num_sequences: int, tokens: int) -> torch.Tensor:
        """Random token ids [num_sequences, tokens]."""
        return torch.randint(2, self.vocab_size, (num_sequences, tokens), device=self.device)

    def static_batch(self, num_sequences: int) -> Outcome:
        """`generate`, all sequences together."""
        self._generate(num_sequences, self.prompt, 4)
        first_s = self._generate(num_sequences, self.prompt, 1)
        all_s = self._generate(num_sequences, self.prompt, self.output)
        return {
            "num_sequences": num_sequences,
            "ttft_ms_p50": first_s * 1e3,
            "tpot_ms_mean": (all_s - first_s) * 1e3 / (self.output - 1),
            "output_tokens_per_s": num_sequences * self.output / all_s,
        }

    def continuous(self, num_sequences: int) -> Outcome:
        """`generate_batch`; its setup, which takes seconds, does not count."""
        config = transformers.GenerationConfig(
            max_new_tokens=self.output, do_sample=False, eos_token_id=-1, pad_token_id=0
        )
        results = self.model.generate_batch(
            inputs=self.prompts(num_sequences, self.prompt).tolist(),
            generation_config=config,
            record_timestamps=True,
        ).values()
        counts = {len(result.generated_tokens) for result in results}
        if counts != {self.output} or len(results) != num_sequences:
            raise RuntimeError(f"{len(results)} results of {counts} tokens")
        times = [result.timestamps for result in results]
        span = max(each[-1] for each in times) - min(each[0] for each in times)
        tpots = [(each[-1] - each[0]) / (len(each) - 1) for each in times]
        return {
            "num_sequences": num_sequences,
            "tpot_ms_mean": 1e3 * statistics.mean(tpots),
            "output_tokens_per_s_after_first": num_sequences * (self.output - 1) / span,
        }

    def prefill(self, tokens: int) -> Outcome:
        """One token after a long prompt, the best of three."""
        times = [self._generate(1, tokens, 1) for _ in range(4)]
        return {"prompt_tokens": tokens, "ttft_ms": 1e3 * min(times[1:])}

    def _generate(self, num_sequences: int, prompt: int, output: int) -> float:
        inputs = self.prompts(num_sequences, prompt)
        config = transformers.GenerationConfig(
            max_new_tokens=output, min_new_tokens=output, do_sample=False,
            eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        self._wait()
        begin = time.perf_counter()
        with torch.inference_mode():
            result = self.model.generate(
                inputs, attention_mask=torch.ones_like(inputs), generation_config=config
            )
        self._wait()
        seconds = time.perf_counter() - begin
        assert result.shape[1] == prompt + output, result.shape
        return seconds

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure transformers on a shape")
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--loads", default="1,64,16,128")
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--output", type=int, default=128)
    parser.add_argument("--long_prompt", type=int, default=2048)
    args = parser.parse_args()
    steps = Steps("transformers")
    made: list[Baseline] = []

    def load() -> Outcome:
        made.append(Baseline(args.shape, args.device, args.prompt, args.output))
        return {"version": transformers.__version__, "torch": torch.__version__}

    steps.run(f"{args.shape}: load", load)
    if not made:
        return
    baseline = made[0]
    loads = [int(text) for text in args.loads.split(",")]
    for num in loads:
        run = functools.partial(baseline.static_batch, num)
        steps.run(f"{args.shape}: generate, {num} sequences", run)
    steps.run(f"{args.shape}: prefill", functools.partial(baseline.prefill, args.long_prompt))
    for num in loads[1:] + loads[:1]:  # each takes seconds to set up: the one alone last
        run = functools.partial(baseline.continuous, num)
        steps.run(f"{args.shape}: generate_batch, {num} sequences", run)
    steps.summary()


if __name__ == "__main__":
    main()
