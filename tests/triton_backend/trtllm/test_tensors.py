# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import fields

import pytest

from enginery.runtime.sampling_params import SamplingParams
from enginery.triton_backend.trtllm.repository import ensemble_inputs, ensemble_outputs
from enginery.triton_backend.trtllm.tensors import (
    ENSEMBLE_INPUTS,
    ENSEMBLE_LINKS,
    INPUTS,
    OUTPUTS,
    PREPROCESSING,
    TENSORRT_LLM,
    TENSORRT_LLM_INPUTS,
)

# As TensorRT-LLM's repository has them: name, and type and shape where it is not INT32[1].
TENSORRT_LLM_NAMES = """
input_ids:INT32[-1] input_lengths request_output_len num_return_sequences draft_input_ids:INT32[-1]
draft_logits:FP32[-1,-1] draft_acceptance_threshold:FP32 decoder_input_ids:INT32[-1]
decoder_input_lengths encoder_input_features:FP16[-1,-1] encoder_output_lengths end_id pad_id
stop_words_list:INT32[2,-1] bad_words_list:INT32[2,-1] embedding_bias:FP32[-1] beam_width
temperature:FP32 runtime_top_k runtime_top_p:FP32 runtime_top_p_min:FP32 runtime_top_p_decay:FP32
runtime_top_p_reset_ids len_penalty:FP32 early_stopping:BOOL repetition_penalty:FP32 min_tokens
beam_search_diversity_rate:FP32 presence_penalty:FP32 frequency_penalty:FP32 seed:UINT64
return_log_probs:BOOL return_context_logits:BOOL return_generation_logits:BOOL
return_perf_metrics:BOOL return_num_input_tokens:BOOL return_num_output_tokens:BOOL
exclude_input_in_output:BOOL stop:BOOL streaming:BOOL prompt_embedding_table:FP16[-1,-1]
prompt_table_extra_ids:UINT64[-1] prompt_vocab_size cross_attention_mask:BOOL[-1,-1]
mrope_rotary_cos_sin:FP32[-1] mrope_position_deltas:INT64 lora_task_id:UINT64
lora_weights:FP16[-1,-1] lora_config:INT32[-1,3] context_phase_params:UINT8[-1]
skip_cross_attn_blocks:BOOL retention_token_range_starts:INT32[-1]
retention_token_range_ends:INT32[-1] retention_token_range_priorities:INT32[-1]
retention_token_range_durations_ms:INT32[-1] retention_decode_priority retention_decode_duration_ms
guided_decoding_guide_type:STRING guided_decoding_guide:STRING lookahead_window_size
lookahead_ngram_size lookahead_verification_set_size
"""
TENSORRT_LLM_OUTPUT_NAMES = """
output_ids:INT32[-1,-1] sequence_length:INT32[-1] cum_log_probs:FP32[-1]
output_log_probs:FP32[-1,-1] context_logits:FP32[-1,-1] generation_logits:FP32[-1,-1,-1] batch_index
sequence_index context_phase_params:UINT8[-1] kv_cache_alloc_new_blocks kv_cache_reused_blocks
kv_cache_alloc_total_blocks arrival_time_ns:INT64 first_scheduled_time_ns:INT64
first_token_time_ns:INT64 last_token_time_ns:INT64 acceptance_rate:FP32 total_accepted_draft_tokens
total_draft_tokens num_input_tokens num_output_tokens
"""
PREPROCESSING_NAMES = """
QUERY:STRING DECODER_QUERY:STRING REQUEST_OUTPUT_LEN BAD_WORDS_DICT:STRING[-1]
STOP_WORDS_DICT:STRING[-1] EMBEDDING_BIAS_WORDS:STRING[-1] EMBEDDING_BIAS_WEIGHTS:FP32[-1] END_ID
PAD_ID PROMPT_TABLE_EXTRA_ID:UINT64
"""
ENSEMBLE_NAMES = """
text_input:STRING decoder_text_input:STRING max_tokens num_return_sequences bad_words:STRING[-1]
stop_words:STRING[-1] exclude_input_in_output:BOOL end_id pad_id top_k top_p:FP32 temperature:FP32
length_penalty:FP32 repetition_penalty:FP32 min_tokens presence_penalty:FP32 frequency_penalty:FP32
seed:UINT64 return_log_probs:BOOL return_context_logits:BOOL return_generation_logits:BOOL
return_perf_metrics:BOOL return_num_input_tokens:BOOL return_num_output_tokens:BOOL beam_width
stream:BOOL prompt_embedding_table:FP16[-1,-1] prompt_table_extra_id:UINT64 prompt_vocab_size
embedding_bias_words:STRING[-1] embedding_bias_weights:FP32[-1] lora_task_id:UINT64
lora_weights:FP16[-1,-1] lora_config:INT32[-1,3] guided_decoding_guide_type:STRING
guided_decoding_guide:STRING
"""
ENSEMBLE_OUTPUT_NAMES = "text_output:STRING[-1] " + TENSORRT_LLM_OUTPUT_NAMES.replace(
    "output_ids:INT32[-1,-1] sequence_length:INT32[-1] ", ""
).replace("context_phase_params:UINT8[-1] ", "")


def expected(text: str) -> dict[str, str]:
    entries = (entry.partition(":") for entry in text.split())
    return {name: kind or "INT32" for name, _, kind in entries}


def written(specs: object) -> dict[str, str]:
    kinds = {}
    for spec in specs:  # type: ignore[attr-defined]
        dims = "" if spec.dims == (1,) else "[" + ",".join(map(str, spec.dims)) + "]"
        kinds[spec.name] = f"{spec.data_type}{dims}"
    return kinds


def test_tables_have_tensorrt_llms_tensors() -> None:
    assert written(INPUTS[TENSORRT_LLM]) == expected(TENSORRT_LLM_NAMES)
    assert written(OUTPUTS[TENSORRT_LLM]) == expected(TENSORRT_LLM_OUTPUT_NAMES)
    assert written(INPUTS[PREPROCESSING]) == expected(PREPROCESSING_NAMES)
    assert written(ensemble_inputs()) == expected(ENSEMBLE_NAMES)
    assert written(ensemble_outputs()) == expected(ENSEMBLE_OUTPUT_NAMES)


@pytest.mark.parametrize("table", [INPUTS, OUTPUTS])
def test_names_are_unique(table: dict[str, tuple[object, ...]]) -> None:
    for specs in table.values():
        assert len(written(specs)) == len(specs)


def test_links_join_equal_types() -> None:
    inputs = {(step, spec.name): spec.data_type for step in INPUTS for spec in INPUTS[step]}
    outputs = {(step, spec.name): spec.data_type for step in OUTPUTS for spec in OUTPUTS[step]}
    for source, output, target, name in ENSEMBLE_LINKS:
        assert outputs[source, output] == inputs[target, name]


def test_every_input_that_nothing_links_can_be_left_out() -> None:
    linked = {(target, name) for _, _, target, name in ENSEMBLE_LINKS}
    linked |= {(target, name) for _, target, name in ENSEMBLE_INPUTS}
    for step, specs in INPUTS.items():
        for spec in specs:
            assert spec.is_optional or (step, spec.name) in linked


def test_options_are_those_of_sampling_params() -> None:
    options = [spec.option for spec in TENSORRT_LLM_INPUTS if spec.option is not None]
    assert len(options) == len(set(options))
    assert set(options) <= {field.name for field in fields(SamplingParams)}


def test_what_works_has_no_values_that_are_off() -> None:
    for specs in INPUTS.values():
        for spec in specs:
            assert spec.doc
            assert spec.refusal or not spec.off
