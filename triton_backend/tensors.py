# SPDX-License-Identifier: Apache-2.0
"""The tensors of the served model, in one table that everything else reads.

Names follow TensorRT-LLM's ensemble and vLLM's backend, so that a client of either finds its own.
The model has no batch dimension: one Triton server request is one request of the runtime.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of the model.

    Attributes:
        name: as clients spell it.
        data_type: as in `config.pbtxt`, without `TYPE_`.
        dims: shape; -1 for any length.
        doc: one line for people.
        is_optional: may be left out of a request (inputs) or of a response (outputs).
        option: the field of SamplingParams that an input sets; None: the model reads it itself.
    """

    name: str
    data_type: str
    dims: tuple[int, ...]
    doc: str
    is_optional: bool = True
    option: str | None = None


def _option(name: str, data_type: str, doc: str, option: str | None = None) -> TensorSpec:
    return TensorSpec(name, data_type, (1,), doc, option=option or name)


def _options(name: str, data_type: str, doc: str, option: str | None = None) -> TensorSpec:
    return TensorSpec(name, data_type, (-1,), doc, option=option or name)


INPUTS: tuple[TensorSpec, ...] = (
    TensorSpec("text_input", "STRING", (1,), "the prompt as text; this or input_ids"),
    TensorSpec("input_ids", "INT32", (-1,), "the prompt as token ids; this or text_input"),
    TensorSpec("stream", "BOOL", (1,), "a response whenever tokens come; default false"),
    TensorSpec("streaming", "BOOL", (1,), "another name of stream"),
    _option("max_tokens", "INT32", "new tokens at most; 0: none; default 32"),
    TensorSpec("request_output_len", "INT32", (1,), "another name of max_tokens"),
    _option("min_tokens", "INT32", "no stop or end token before so many; default 0"),
    _option("num_return_sequences", "INT32", "sequences drawn for the prompt; default 1", "n"),
    _option("temperature", "FP32", ">= 0; 0: greedy; default 1"),
    _option("top_k", "INT32", ">= 0; 0: all (default)"),
    _option("top_p", "FP32", "(0, 1]; default 1"),
    _option("min_p", "FP32", "[0, 1]; default 0"),
    _option("seed", "UINT64", "of the random stream: the same seed, the same tokens; default 0"),
    _option("repetition_penalty", "FP32", "> 0, over prompt and output; default 1"),
    _option("presence_penalty", "FP32", "over the output; default 0"),
    _option("frequency_penalty", "FP32", "over the output; default 0"),
    _options("stop_words", "STRING", "texts that end the output and are cut off", "stop"),
    _options("bad_words", "STRING", "words the output must not contain", "bad"),
    _options("stop_token_ids", "INT32", "token ids that end the output"),
    _option(
        "include_stop_token",
        "BOOL",
        "a stop or end token stays in output_ids; it adds no text; default false",
    ),
    _option("end_id", "INT32", "ends the output in place of the engine's own end tokens"),
    _option("ignore_eos", "BOOL", "the engine's own end tokens do not end the output"),
    _options("logit_bias_ids", "INT32", "token ids whose logits are biased", "logit_bias"),
    TensorSpec(
        "logit_bias_values",
        "FP32",
        (-1,),
        "one per token id of logit_bias_ids, added to its logit; -inf bans the token",
    ),
    _option(
        "logprobs",
        "INT32",
        "0: asks for output_log_probs and cum_log_probs; k, at most 20: and for top_token_ids and "
        "top_log_probs, of the k likeliest",
    ),
    TensorSpec(
        "sampling_parameters",
        "STRING",
        (1,),
        "the options above as one JSON object, in the names of SamplingParams",
    ),
    TensorSpec(
        "exclude_input_in_output",
        "BOOL",
        (1,),
        "false: the first response repeats the prompt; default true",
    ),
    TensorSpec("return_log_probs", "BOOL", (1,), "as logprobs 0"),
    _option(
        "prompt_logprobs",
        "INT32",
        "0: asks for prompt_log_probs; k, at most 20: and for prompt_top_token_ids and "
        "prompt_top_log_probs; no prefix reuse then",
    ),
    TensorSpec(
        "return_perf_metrics", "BOOL", (1,), "asks for counts and times in the last response"
    ),
    TensorSpec("priority", "INT32", (1,), "larger is admitted first; default 0"),
    TensorSpec("timeout_ms", "INT64", (1,), "ends the request so long after its arrival"),
)

OUTPUTS: tuple[TensorSpec, ...] = (
    TensorSpec("text_output", "STRING", (1,), "new text", is_optional=False),
    TensorSpec("output_ids", "INT32", (-1,), "new token ids", is_optional=False),
    TensorSpec("sequence_index", "INT32", (1,), "which sequence of the request", is_optional=False),
    TensorSpec(
        "finish_reason",
        "STRING",
        (1,),
        'empty while the sequence goes on; then "stop", "length", "cancelled" or "timeout"',
        is_optional=False,
    ),
    TensorSpec("output_log_probs", "FP32", (-1,), "natural log, one per new token id"),
    TensorSpec("cum_log_probs", "FP32", (1,), "their sum over the sequence so far"),
    TensorSpec(
        "top_token_ids", "INT32", (-1,), "for each new token the k likeliest, likeliest first"
    ),
    TensorSpec("top_log_probs", "FP32", (-1,), "natural log, one per token id of top_token_ids"),
    TensorSpec(
        "prompt_log_probs",
        "FP32",
        (-1,),
        "natural log, one per prompt token from the second on; in the first response",
    ),
    TensorSpec(
        "prompt_top_token_ids", "INT32", (-1,), "for each of them the k likeliest, likeliest first"
    ),
    TensorSpec(
        "prompt_top_log_probs",
        "FP32",
        (-1,),
        "natural log, one per token id of prompt_top_token_ids",
    ),
    TensorSpec("num_input_tokens", "INT32", (1,), "tokens of the prompt"),
    TensorSpec("num_output_tokens", "INT32", (1,), "tokens of the sequence"),
    TensorSpec("num_reused_tokens", "INT32", (1,), "prompt tokens from the prefix cache"),
    TensorSpec("arrival_time_ns", "INT64", (1,), "CLOCK_MONOTONIC of the runtime"),
    TensorSpec("first_scheduled_time_ns", "INT64", (1,), "CLOCK_MONOTONIC of the runtime"),
    TensorSpec("first_token_time_ns", "INT64", (1,), "CLOCK_MONOTONIC of the runtime"),
    TensorSpec("last_token_time_ns", "INT64", (1,), "CLOCK_MONOTONIC of the runtime"),
)
