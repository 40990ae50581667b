# SPDX-License-Identifier: Apache-2.0
"""The tensors of the models, as data: everything that reads or writes one goes by these tables.

Names, types and shapes are those of TensorRT-LLM's `inflight_batcher_llm` repository. Shapes are
without the batch dimension. An input either works or is refused by name when it asks for something.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..tensors import TensorSpec

PREPROCESSING = "preprocessing"
TENSORRT_LLM = "tensorrt_llm"
POSTPROCESSING = "postprocessing"
BLS = "tensorrt_llm_bls"

_NO_BEAMS = "beam search is not built; num_return_sequences draws several"
_NO_DRAFTS = "speculative decoding is not built"
_NO_ENCODER = "there are no encoder-decoder models"
_NO_DECAY = "top_p does not decay; use top_p"
_NO_PROMPT_TABLE = "prompt tuning is not built"
_NO_LORA = "adapters are not built"
_NO_IMAGES = "there are no models of images"
_NO_RETENTION = "the prefix cache evicts what was not used for longest; nothing can be pinned"
_NO_GUIDE = (
    "constrained decoding is not built, and a constraint that is not kept must not be accepted"
)


@dataclass(frozen=True)
class InputSpec(TensorSpec):
    """An input of one of the models.

    Attributes:
        refusal: why it is refused; empty: it works.
        off: values of a refused input that ask for nothing, and so are taken; so does a tensor
            without elements.
    """

    refusal: str = ""
    off: tuple[Any, ...] = ()


def _works(name: str, kind: str, doc: str, option: str | None = None) -> InputSpec:
    data_type, dims = _kind(kind)
    return InputSpec(name, data_type, dims, doc, option=option)


def _refused(name: str, kind: str, refusal: str, *off: Any) -> InputSpec:
    data_type, dims = _kind(kind)
    return InputSpec(name, data_type, dims, f"refused: {refusal}", refusal=refusal, off=off)


def _out(name: str, kind: str, doc: str) -> TensorSpec:
    data_type, dims = _kind(kind)
    return TensorSpec(name, data_type, dims, doc)


def _kind(kind: str) -> tuple[str, tuple[int, ...]]:
    """E.g. "INT32[2,-1]"; one element where no shape is given."""
    data_type, _, dims = kind.partition("[")
    return data_type, tuple(int(dim) for dim in dims.rstrip("]").split(",")) if dims else (1,)


def _required(spec: InputSpec) -> InputSpec:
    return replace(spec, is_optional=False)


TENSORRT_LLM_INPUTS: tuple[InputSpec, ...] = (
    _works("input_ids", "INT32[-1]", "the prompt; rows of a batch are padded at their ends"),
    _required(_works("input_lengths", "INT32", "how much of input_ids is the prompt")),
    _required(_works("request_output_len", "INT32", "new tokens at most", "max_tokens")),
    _works("num_return_sequences", "INT32", "sequences drawn for the prompt; default 1", "n"),
    _works("end_id", "INT32", "ends the output; -1: nothing does; default: the engine's own"),
    _works("pad_id", "INT32", "nothing is padded: a response has one sequence, as long as it is"),
    _works("stop_words_list", "INT32[2,-1]", "words that end the output, which keeps them"),
    _works("bad_words_list", "INT32[2,-1]", "words the output must not contain"),
    _works("embedding_bias", "FP32[-1]", "[vocab_size], added to the logits", "embedding_bias"),
    _works("temperature", "FP32", ">= 0; 0: greedy; default 1", "temperature"),
    _works("runtime_top_k", "INT32", ">= 0; 0: all; greedy when top-p is off as well"),
    _works("runtime_top_p", "FP32", "(0, 1]; 0 or less: off"),
    _works("repetition_penalty", "FP32", "> 0; default 1", "repetition_penalty"),
    _works("min_tokens", "INT32", "no end token before so many; default 0", "min_tokens"),
    _works("presence_penalty", "FP32", "over the output; default 0", "presence_penalty"),
    _works("frequency_penalty", "FP32", "over the output; default 0", "frequency_penalty"),
    _works("seed", "UINT64", "of the random stream; default 0", "seed"),
    _works("return_log_probs", "BOOL", "asks for output_log_probs and cum_log_probs"),
    _works(
        "return_context_logits", "BOOL", "asks for context_logits; no prefix reuse then",
        "return_context_logits",
    ),
    _works(
        "return_generation_logits", "BOOL", "asks for generation_logits",
        "return_generation_logits",
    ),
    _works("return_perf_metrics", "BOOL", "asks for times and counts, in every response"),
    _works("return_num_input_tokens", "BOOL", "asks for num_input_tokens"),
    _works("return_num_output_tokens", "BOOL", "asks for num_output_tokens"),
    _works("exclude_input_in_output", "BOOL", "a response without streaming leaves out the prompt"),
    _works("stop", "BOOL", "true: cancels the requests that have this request's id"),
    _works("streaming", "BOOL", "a response whenever tokens come; default false"),
    _refused("beam_width", "INT32", _NO_BEAMS, 1),
    _refused("len_penalty", "FP32", _NO_BEAMS, 1.0),
    _refused("early_stopping", "BOOL", _NO_BEAMS, False),
    _refused("beam_search_diversity_rate", "FP32", _NO_BEAMS, 0.0),
    _refused("runtime_top_p_min", "FP32", _NO_DECAY, 0.0),
    _refused("runtime_top_p_decay", "FP32", _NO_DECAY, 1.0),
    _refused("runtime_top_p_reset_ids", "INT32", _NO_DECAY, -1),
    _refused("draft_input_ids", "INT32[-1]", _NO_DRAFTS),
    _refused("draft_logits", "FP32[-1,-1]", _NO_DRAFTS),
    _refused("draft_acceptance_threshold", "FP32", _NO_DRAFTS, 0.0),
    _refused("lookahead_window_size", "INT32", _NO_DRAFTS, 0),
    _refused("lookahead_ngram_size", "INT32", _NO_DRAFTS, 0),
    _refused("lookahead_verification_set_size", "INT32", _NO_DRAFTS, 0),
    _refused("decoder_input_ids", "INT32[-1]", _NO_ENCODER),
    _refused("decoder_input_lengths", "INT32", _NO_ENCODER, 0),
    _refused("encoder_input_features", "FP16[-1,-1]", _NO_ENCODER),
    _refused("encoder_output_lengths", "INT32", _NO_ENCODER, 0),
    _refused("prompt_embedding_table", "FP16[-1,-1]", _NO_PROMPT_TABLE),
    _refused("prompt_table_extra_ids", "UINT64[-1]", _NO_PROMPT_TABLE, 0),
    _refused("prompt_vocab_size", "INT32", _NO_PROMPT_TABLE, 0),
    _refused("cross_attention_mask", "BOOL[-1,-1]", _NO_IMAGES),
    _refused("skip_cross_attn_blocks", "BOOL", _NO_IMAGES, False),
    _refused("mrope_rotary_cos_sin", "FP32[-1]", _NO_IMAGES),
    _refused("mrope_position_deltas", "INT64", _NO_IMAGES, 0),
    _refused("lora_task_id", "UINT64", _NO_LORA, 0),
    _refused("lora_weights", "FP16[-1,-1]", _NO_LORA),
    _refused("lora_config", "INT32[-1,3]", _NO_LORA),
    _refused("context_phase_params", "UINT8[-1]", "prefill and decode run in one place"),
    _refused("retention_token_range_starts", "INT32[-1]", _NO_RETENTION),
    _refused("retention_token_range_ends", "INT32[-1]", _NO_RETENTION),
    _refused("retention_token_range_priorities", "INT32[-1]", _NO_RETENTION),
    _refused("retention_token_range_durations_ms", "INT32[-1]", _NO_RETENTION),
    _refused("retention_decode_priority", "INT32", _NO_RETENTION, 35),
    _refused("retention_decode_duration_ms", "INT32", _NO_RETENTION, -1),
    _refused("guided_decoding_guide_type", "STRING", _NO_GUIDE, ""),
    _refused("guided_decoding_guide", "STRING", _NO_GUIDE, ""),
)  # fmt: skip

# Of the responses to requests that ask for them; beams is 1.
TENSORRT_LLM_OUTPUTS: tuple[TensorSpec, ...] = (
    _out("output_ids", "INT32[-1,-1]", "[beams, tokens]; when streaming the new tokens"),
    _out("sequence_length", "INT32[-1]", "[beams], tokens in output_ids"),
    _out("cum_log_probs", "FP32[-1]", "[beams], sum over the output so far"),
    _out("output_log_probs", "FP32[-1,-1]", "[beams, tokens], of the whole output so far"),
    _out("context_logits", "FP32[-1,-1]", "[prompt tokens, vocab_size]"),
    _out(
        "generation_logits", "FP32[-1,-1,-1]",
        "[beams, tokens, vocab_size]; when streaming [new tokens, beams, vocab_size]",
    ),
    _out("batch_index", "INT32", "which row of a request of several"),
    _out("sequence_index", "INT32", "which sequence of num_return_sequences"),
    _out("context_phase_params", "UINT8[-1]", "never sent: prefill and decode run in one place"),
    _out("kv_cache_alloc_new_blocks", "INT32", "KV blocks of the sequence that were not reused"),
    _out("kv_cache_reused_blocks", "INT32", "KV blocks taken from the prefix cache"),
    _out("kv_cache_alloc_total_blocks", "INT32", "KV blocks of the sequence"),
    _out("arrival_time_ns", "INT64", "CLOCK_MONOTONIC of the runtime"),
    _out("first_scheduled_time_ns", "INT64", "CLOCK_MONOTONIC of the runtime"),
    _out("first_token_time_ns", "INT64", "CLOCK_MONOTONIC of the runtime"),
    _out("last_token_time_ns", "INT64", "CLOCK_MONOTONIC of the runtime, so far"),
    _out("acceptance_rate", "FP32", "0: nothing is drafted"),
    _out("total_accepted_draft_tokens", "INT32", "0: nothing is drafted"),
    _out("total_draft_tokens", "INT32", "0: nothing is drafted"),
    _out("num_input_tokens", "INT32", "tokens of the prompt"),
    _out("num_output_tokens", "INT32", "tokens of the output so far, without the prompt"),
)  # fmt: skip

PREPROCESSING_INPUTS: tuple[InputSpec, ...] = (
    _required(_works("QUERY", "STRING", "the prompt")),
    _refused("DECODER_QUERY", "STRING", _NO_ENCODER, ""),
    _required(_works("REQUEST_OUTPUT_LEN", "INT32", "new tokens at most; handed on")),
    _works("BAD_WORDS_DICT", "STRING[-1]", "words the output must not contain"),
    _works("STOP_WORDS_DICT", "STRING[-1]", "words that end the output"),
    _works("EMBEDDING_BIAS_WORDS", "STRING[-1]", "words whose tokens are biased"),
    _works("EMBEDDING_BIAS_WEIGHTS", "FP32[-1]", "one per word, added to the logits of its tokens"),
    _works("END_ID", "INT32", "handed on"),
    _works("PAD_ID", "INT32", "handed on; pads INPUT_ID"),
    _refused("PROMPT_TABLE_EXTRA_ID", "UINT64", _NO_PROMPT_TABLE, 0),
)

PREPROCESSING_OUTPUTS: tuple[TensorSpec, ...] = (
    _out("INPUT_ID", "INT32[-1]", "token ids, padded to the longest row"),
    _out("REQUEST_INPUT_LEN", "INT32", "token ids of the row"),
    _out("DECODER_INPUT_ID", "INT32[-1]", "empty: there are no encoder-decoder models"),
    _out("REQUEST_DECODER_INPUT_LEN", "INT32", "0"),
    _out("BAD_WORDS_IDS", "INT32[2,-1]", "tokens of the words, and where each word ends"),
    _out("STOP_WORDS_IDS", "INT32[2,-1]", "tokens of the words, and where each word ends"),
    _out("EMBEDDING_BIAS", "FP32[-1]", "[vocab_size], or empty without words"),
    _out("REQUEST_OUTPUT_LEN", "INT32[-1]", "as given"),
    _out("OUT_END_ID", "INT32", "as given, or the engine's first end token, or -1"),
    _out("OUT_PAD_ID", "INT32", "as given, or the engine's pad or end token, or 0"),
    _out("OUT_PROMPT_TABLE_EXTRA_IDS", "UINT64[-1]", "never sent: prompt tuning is not built"),
)

POSTPROCESSING_INPUTS: tuple[InputSpec, ...] = (
    _required(_works("TOKENS_BATCH", "INT32[-1,-1]", "[beams, tokens]")),
    _required(_works("SEQUENCE_LENGTH", "INT32[-1]", "[beams], how many of the tokens count")),
)

POSTPROCESSING_OUTPUTS: tuple[TensorSpec, ...] = (
    _out("OUTPUT", "STRING[-1]", "[beams], their texts"),
)

# Inputs of the ensemble, each with the step and the input there that takes it.
ENSEMBLE_INPUTS: tuple[tuple[str, str, str], ...] = (
    ("text_input", PREPROCESSING, "QUERY"),
    ("decoder_text_input", PREPROCESSING, "DECODER_QUERY"),
    ("max_tokens", PREPROCESSING, "REQUEST_OUTPUT_LEN"),
    ("bad_words", PREPROCESSING, "BAD_WORDS_DICT"),
    ("stop_words", PREPROCESSING, "STOP_WORDS_DICT"),
    ("embedding_bias_words", PREPROCESSING, "EMBEDDING_BIAS_WORDS"),
    ("embedding_bias_weights", PREPROCESSING, "EMBEDDING_BIAS_WEIGHTS"),
    ("prompt_table_extra_id", PREPROCESSING, "PROMPT_TABLE_EXTRA_ID"),
    ("end_id", TENSORRT_LLM, "end_id"),
    ("pad_id", TENSORRT_LLM, "pad_id"),
    ("num_return_sequences", TENSORRT_LLM, "num_return_sequences"),
    ("exclude_input_in_output", TENSORRT_LLM, "exclude_input_in_output"),
    ("top_k", TENSORRT_LLM, "runtime_top_k"),
    ("top_p", TENSORRT_LLM, "runtime_top_p"),
    ("temperature", TENSORRT_LLM, "temperature"),
    ("length_penalty", TENSORRT_LLM, "len_penalty"),
    ("repetition_penalty", TENSORRT_LLM, "repetition_penalty"),
    ("min_tokens", TENSORRT_LLM, "min_tokens"),
    ("presence_penalty", TENSORRT_LLM, "presence_penalty"),
    ("frequency_penalty", TENSORRT_LLM, "frequency_penalty"),
    ("seed", TENSORRT_LLM, "seed"),
    ("return_log_probs", TENSORRT_LLM, "return_log_probs"),
    ("return_context_logits", TENSORRT_LLM, "return_context_logits"),
    ("return_generation_logits", TENSORRT_LLM, "return_generation_logits"),
    ("return_perf_metrics", TENSORRT_LLM, "return_perf_metrics"),
    ("return_num_input_tokens", TENSORRT_LLM, "return_num_input_tokens"),
    ("return_num_output_tokens", TENSORRT_LLM, "return_num_output_tokens"),
    ("beam_width", TENSORRT_LLM, "beam_width"),
    ("stream", TENSORRT_LLM, "streaming"),
    ("prompt_embedding_table", TENSORRT_LLM, "prompt_embedding_table"),
    ("prompt_vocab_size", TENSORRT_LLM, "prompt_vocab_size"),
    ("lora_task_id", TENSORRT_LLM, "lora_task_id"),
    ("lora_weights", TENSORRT_LLM, "lora_weights"),
    ("lora_config", TENSORRT_LLM, "lora_config"),
    ("guided_decoding_guide_type", TENSORRT_LLM, "guided_decoding_guide_type"),
    ("guided_decoding_guide", TENSORRT_LLM, "guided_decoding_guide"),
)

# What the ensemble hands from step to step: from an output to an input.
ENSEMBLE_LINKS: tuple[tuple[str, str, str, str], ...] = (
    (PREPROCESSING, "INPUT_ID", TENSORRT_LLM, "input_ids"),
    (PREPROCESSING, "REQUEST_INPUT_LEN", TENSORRT_LLM, "input_lengths"),
    (PREPROCESSING, "REQUEST_OUTPUT_LEN", TENSORRT_LLM, "request_output_len"),
    (PREPROCESSING, "BAD_WORDS_IDS", TENSORRT_LLM, "bad_words_list"),
    (PREPROCESSING, "STOP_WORDS_IDS", TENSORRT_LLM, "stop_words_list"),
    (PREPROCESSING, "EMBEDDING_BIAS", TENSORRT_LLM, "embedding_bias"),
    (TENSORRT_LLM, "output_ids", POSTPROCESSING, "TOKENS_BATCH"),
    (TENSORRT_LLM, "sequence_length", POSTPROCESSING, "SEQUENCE_LENGTH"),
)

_NOT_OF_ENSEMBLE = ("output_ids", "sequence_length", "context_phase_params")

# Outputs of the ensemble, each with the step and the output there that gives it.
ENSEMBLE_OUTPUTS: tuple[tuple[str, str, str], ...] = (
    ("text_output", POSTPROCESSING, "OUTPUT"),
    *(
        (spec.name, TENSORRT_LLM, spec.name)
        for spec in TENSORRT_LLM_OUTPUTS
        if spec.name not in _NOT_OF_ENSEMBLE
    ),
)

# Of the BLS model, beside the ensemble's.
BLS_INPUTS: tuple[InputSpec, ...] = (
    _refused("num_draft_tokens", "INT32", _NO_DRAFTS, 0),
    _refused("use_draft_logits", "BOOL", _NO_DRAFTS, False),
)

INPUTS: dict[str, tuple[InputSpec, ...]] = {
    PREPROCESSING: PREPROCESSING_INPUTS,
    TENSORRT_LLM: TENSORRT_LLM_INPUTS,
    POSTPROCESSING: POSTPROCESSING_INPUTS,
}

OUTPUTS: dict[str, tuple[TensorSpec, ...]] = {
    PREPROCESSING: PREPROCESSING_OUTPUTS,
    TENSORRT_LLM: TENSORRT_LLM_OUTPUTS,
    POSTPROCESSING: POSTPROCESSING_OUTPUTS,
}
