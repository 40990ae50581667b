# SPDX-License-Identifier: Apache-2.0
"""Flags of TensorRT-LLM's trtllm-build that command lines still carry.

They are taken so that such a command line builds, each with a note of what became of it. A flag
that would change what the engine does is refused instead, unless it asks for what we do anyway.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from enginery.builder.errors import OptionError, Problems
from enginery.cli.flags import FlagParser


@dataclass(frozen=True)
class LegacyFlag:
    """One flag of trtllm-build.

    Attributes:
        note: what it comes to here.
        accepted: the values that ask for nothing else than we do; empty accepts any.
        takes_value: False for a switch, True for exactly one value; None for either.
    """

    note: str
    accepted: tuple[str, ...] = ()
    takes_value: bool | None = True


_KERNELS = LegacyFlag("kernels are part of the target and chosen for the machine that runs")
_PROFILES = "plans have profiles for decode and for prefill that follow from the limits"
_TIMING = "nothing is timed at build; compiled parts are kept in --cache_dir"
_ALWAYS_ON = ("enable", "true", "True", "on", "auto", "1")
_OFF = ("disable", "false", "False", "off", "0")

LEGACY_FLAGS: dict[str, LegacyFlag] = {
    "bert_attention_plugin": _KERNELS,
    "gpt_attention_plugin": _KERNELS,
    "gemm_plugin": _KERNELS,
    "gemm_swiglu_plugin": _KERNELS,
    "low_latency_gemm_plugin": _KERNELS,
    "low_latency_gemm_swiglu_plugin": _KERNELS,
    "nccl_plugin": _KERNELS,
    "lookup_plugin": _KERNELS,
    "context_fmha": _KERNELS,
    "context_fmha_fp32_acc": _KERNELS,
    "enable_xqa": _KERNELS,
    "multi_block_mode": _KERNELS,
    "use_fused_mlp": LegacyFlag(
        "gate and up projections are always fused", _ALWAYS_ON, takes_value=None
    ),
    "remove_input_padding": LegacyFlag("tokens are always packed", _ALWAYS_ON),
    "paged_kv_cache": LegacyFlag("the KV cache is always paged", _ALWAYS_ON),
    "kv_cache_type": LegacyFlag("the KV cache is always paged", ("paged",)),
    "use_paged_context_fmha": LegacyFlag("prefill always reads the paged KV cache", _ALWAYS_ON),
    "multiple_profiles": LegacyFlag(_PROFILES),
    "opt_num_tokens": LegacyFlag(_PROFILES),
    "workers": LegacyFlag("packing and compiling take as many threads as they can use"),
    "max_beam_width": LegacyFlag("decoding is greedy or by sampling, without beams", ("1",)),
    "max_encoder_input_len": LegacyFlag("there are no encoder-decoder models"),
    "max_prompt_embedding_table_size": LegacyFlag("there is no prompt tuning", ("0",)),
    "max_multimodal_len": LegacyFlag("there is no multimodal input", ("0",)),
    "max_draft_len": LegacyFlag("there is no speculative decoding yet", ("0",)),
    "gather_context_logits": LegacyFlag(
        "logits of a whole prompt are not returned yet", _OFF, takes_value=None
    ),
    "gather_generation_logits": LegacyFlag(
        "logprobs are asked for per request", _OFF, takes_value=None
    ),
    "load_by_shard": LegacyFlag("weights are read tensor by tensor", takes_value=False),
    "load_model_on_cpu": LegacyFlag("weights are read tensor by tensor", takes_value=False),
    "use_parallel_embedding": LegacyFlag("every rank holds the embedding", takes_value=False),
    "logits_dtype": LegacyFlag("logits are float32", ("float32",)),
    "pp_size": LegacyFlag("there is no pipeline parallelism yet", ("1",)),
    "cp_size": LegacyFlag("there is no context parallelism", ("1",)),
    "use_fp8_context_fmha": LegacyFlag("say --kv_cache_dtype fp8 for an FP8 cache", _OFF),
    "use_weight_only": LegacyFlag("say --qformat int8_wo for INT8 weights", _OFF, takes_value=None),
    "weight_only_precision": LegacyFlag("say --qformat int8_wo for INT8 weights", ("float16",)),
    "input_timing_cache": LegacyFlag(_TIMING),
    "output_timing_cache": LegacyFlag(_TIMING),
    "profiling_verbosity": LegacyFlag("`enginery inspect` shows program, plans and kernels"),
    "strip_plan": LegacyFlag("plans hold no weights", takes_value=False),
    "weight_streaming": LegacyFlag("weights are mapped and paged in on use", takes_value=False),
    "fast_build": LegacyFlag("every build is", takes_value=False),
    "monitor_memory": LegacyFlag("peak memory is always measured", takes_value=False),
    "visualize_network": LegacyFlag("`enginery inspect` shows the program", takes_value=None),
}


def add_legacy_flags(parser: FlagParser) -> None:
    """Declares the flags, hidden from the help."""
    for name, flag in LEGACY_FLAGS.items():
        dest = f"legacy_{name}"
        if flag.takes_value is False:
            parser.add_argument(
                f"--{name}",
                dest=dest,
                action="store_const",
                const="enable",
                help=argparse.SUPPRESS,
            )
        elif flag.takes_value is None:
            parser.add_argument(
                f"--{name}", dest=dest, nargs="?", const="enable", help=argparse.SUPPRESS
            )
        else:
            parser.add_argument(f"--{name}", dest=dest, help=argparse.SUPPRESS)


def legacy_notes(args: argparse.Namespace) -> list[str]:
    """Returns a note for each such flag that was given.

    Raises:
        OptionError: a flag asks for what is not built.
    """
    problems = Problems("options", OptionError)
    notes = []
    for name, flag in LEGACY_FLAGS.items():
        value = getattr(args, f"legacy_{name}", None)
        if value is None:
            continue
        if flag.accepted and value not in flag.accepted:
            problems.add(name, f"{value!r} is not supported: {flag.note}", "leave the flag out")
        notes.append(f"--{name} has no effect: {flag.note}")
    problems.raise_if_any()
    return notes
