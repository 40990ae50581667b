# SPDX-License-Identifier: Apache-2.0
"""The structs, constants and functions of `enginery.h`, declared for ctypes.

The header is the manual; nothing is explained twice here. tests/runtime/test_abi.py compiles the
header and compares every size, offset, constant and function name with this file.
"""

from __future__ import annotations

import ctypes
from ctypes import (
    CFUNCTYPE,
    POINTER,
    c_char_p,
    c_double,
    c_float,
    c_int32,
    c_int64,
    c_uint32,
    c_uint64,
    c_void_p,
)
from typing import Any

ABI_VERSION = 1
BATCH_MAGIC = 0x54414245
BATCH_VERSION = 1
STEP_TIME_NS = 100_000
NUM_STEP_TIMES = 25

STATUSES = {
    "OK": 0,
    "INVALID_ARGUMENT": 1,
    "NOT_FOUND": 2,
    "IO_ERROR": 3,
    "BAD_MAGIC": 10,
    "UNSUPPORTED_VERSION": 11,
    "TRUNCATED": 12,
    "INVALID_HEADER": 13,
    "CHECKSUM_MISMATCH": 14,
    "INVALID_SECTION": 15,
    "MISSING_SECTION": 16,
    "INVALID_PROGRAM": 17,
    "INVALID_TENSOR": 18,
    "INVALID_TOKEN_BYTES": 19,
    "WRONG_TARGET": 20,
    "UNSUPPORTED_OP": 21,
    "RANK_MISMATCH": 22,
    "QUEUE_FULL": 30,
    "SHUT_DOWN": 31,
    "OUT_OF_MEMORY": 32,
    "EXECUTOR_FAILED": 33,
    "NOT_SUPPORTED": 34,
    "INTERNAL": 99,
}
STATUS_NAMES = {value: name for name, value in STATUSES.items()}
OK = STATUSES["OK"]

POLICIES = {"GUARANTEED_NO_EVICT": 0, "MAX_UTILIZATION": 1, "STATIC_BATCH": 2}

FINISH_REASONS = {
    "NONE": 0,
    "END_ID": 1,
    "STOP": 2,
    "LENGTH": 3,
    "CANCELLED": 4,
    "TIMEOUT": 5,
    "ERROR": 6,
}

int32_pointer = POINTER(c_int32)
int64_pointer = POINTER(c_int64)
float_pointer = POINTER(c_float)


class EngineInfo(ctypes.Structure):
    """`enginery_engine_info`."""

    _fields_ = [
        ("abi_size", c_uint64),
        ("target", c_char_p),
        ("sku", c_char_p),
        ("variant", c_char_p),
        ("builder_version", c_char_p),
        ("architecture", c_char_p),
        ("dtype", c_char_p),
        ("qformat", c_char_p),
        ("kv_cache_dtype", c_char_p),
        ("tp_size", c_int64),
        ("vocab_size", c_int64),
        ("hidden_size", c_int64),
        ("num_layers", c_int64),
        ("num_kv_heads", c_int64),
        ("head_dim", c_int64),
        ("max_batch_size", c_int64),
        ("max_num_tokens", c_int64),
        ("max_seq_len", c_int64),
        ("max_input_len", c_int64),
        ("tokens_per_block", c_int64),
        ("bos_token_id", c_int64),
        ("pad_token_id", c_int64),
        ("eos_token_ids", int64_pointer),
        ("num_eos_token_ids", c_uint64),
        ("weight_bytes", c_uint64),
        ("kv_bytes_per_token", c_uint64),
    ]


class Limits(ctypes.Structure):
    """`enginery_limits`."""

    _fields_ = [
        ("abi_size", c_uint64),
        ("max_batch_size", c_int64),
        ("max_num_tokens", c_int64),
        ("max_logit_rows", c_int64),
        ("max_seq_len", c_int64),
        ("tokens_per_block", c_int64),
    ]


class ExecutorInfo(ctypes.Structure):
    """`enginery_executor_info`."""

    _fields_ = [
        ("abi_size", c_uint64),
        ("vocab_size", c_int64),
        ("num_blocks", c_int64),
        ("block_bytes", c_uint64),
        ("workspace_bytes", c_uint64),
    ]


class SampleRecord(ctypes.Structure):
    """`enginery_sample_record`."""

    _fields_ = [
        ("logit_row", c_int32),
        ("flags", c_uint32),
        ("temperature", c_float),
        ("top_p", c_float),
        ("min_p", c_float),
        ("top_k", c_int32),
        ("seed", c_uint64),
        ("sequence_index", c_uint32),
        ("position", c_uint32),
    ]


class Batch(ctypes.Structure):
    """`enginery_batch`, the header of a ScheduledBatch."""

    _fields_ = [
        ("magic", c_uint32),
        ("version", c_uint32),
        ("total_bytes", c_uint64),
        ("step_id", c_uint64),
        ("num_sequences", c_uint32),
        ("num_tokens", c_uint32),
        ("num_logit_rows", c_uint32),
        ("block_table_width", c_uint32),
        ("num_block_copies", c_uint32),
        ("num_samples", c_uint32),
        ("token_ids", c_uint64),
        ("positions", c_uint64),
        ("cu_seqlens_q", c_uint64),
        ("context_lens", c_uint64),
        ("block_tables", c_uint64),
        ("slot_mapping", c_uint64),
        ("block_copies", c_uint64),
        ("logit_rows", c_uint64),
        ("samples", c_uint64),
    ]


class StepOutput(ctypes.Structure):
    """`enginery_step_output`."""

    _fields_ = [
        ("abi_size", c_uint64),
        # Addresses, as they are set once a step: 0 or None is NULL.
        ("logits", c_void_p),
        ("token_ids", c_void_p),
    ]


ExecutorInit = CFUNCTYPE(c_int32, c_void_p, POINTER(Limits), c_uint64, POINTER(ExecutorInfo))
# An address and no pointer object: it is made once a step.
ExecutorExecute = CFUNCTYPE(c_int32, c_void_p, c_void_p)
ExecutorCollect = CFUNCTYPE(c_int32, c_void_p, POINTER(StepOutput))
# Returns a pointer and not c_char_p: ctypes would free what a callback returns as a string.
ExecutorLastError = CFUNCTYPE(c_void_p, c_void_p)
ExecutorDestroy = CFUNCTYPE(None, c_void_p)


class Executor(ctypes.Structure):
    """`enginery_executor`."""

    _fields_ = [
        ("abi_size", c_uint64),
        ("ctx", c_void_p),
        ("init", ExecutorInit),
        ("execute", ExecutorExecute),
        ("collect", ExecutorCollect),
        ("last_error", ExecutorLastError),
        ("destroy", ExecutorDestroy),
    ]


class LogitBias(ctypes.Structure):
    """`enginery_logit_bias`."""

    _fields_ = [("token_id", c_int32), ("bias", c_float)]


class StringView(ctypes.Structure):
    """`enginery_string_view`."""

    _fields_ = [("data", c_char_p), ("bytes", c_uint64)]


class TokenSequence(ctypes.Structure):
    """`enginery_token_sequence`."""

    _fields_ = [("token_ids", int32_pointer), ("num_tokens", c_uint64)]


class Request(ctypes.Structure):
    """`enginery_request`."""

    _fields_ = [
        ("abi_size", c_uint64),
        ("prompt_token_ids", int32_pointer),
        ("num_prompt_tokens", c_uint64),
        ("max_tokens", c_int64),
        ("min_tokens", c_int64),
        ("num_return_sequences", c_int32),
        ("ignore_eos", c_int32),
        ("temperature", c_float),
        ("top_p", c_float),
        ("min_p", c_float),
        ("top_k", c_int32),
        ("repetition_penalty", c_float),
        ("presence_penalty", c_float),
        ("frequency_penalty", c_float),
        ("num_logprobs", c_int32),
        ("seed", c_uint64),
        ("stop_token_ids", int32_pointer),
        ("num_stop_token_ids", c_uint64),
        ("stop_strings", POINTER(StringView)),
        ("num_stop_strings", c_uint64),
        ("bad_token_sequences", POINTER(TokenSequence)),
        ("num_bad_token_sequences", c_uint64),
        ("logit_bias", POINTER(LogitBias)),
        ("num_logit_bias", c_uint64),
        ("include_stop", c_int32),
        ("show_special_tokens", c_int32),
        ("priority", c_int32),
        ("streaming", c_int32),
        ("timeout_ms", c_int64),
        ("return_context_logits", c_int32),
        ("return_generation_logits", c_int32),
        ("client_request_id", StringView),
        ("return_prompt_logprobs", c_int32),
        ("num_prompt_logprobs", c_int32),
    ]


class Logprob(ctypes.Structure):
    """`enginery_logprob`."""

    _fields_ = [("token_id", c_int32), ("logprob", c_float)]


class Event(ctypes.Structure):
    """`enginery_event`."""

    _fields_ = [
        ("request_id", c_uint64),
        ("sequence_index", c_int32),
        ("finish_reason", c_int32),
        ("is_last", c_int32),
        ("status", c_int32),
        ("error", c_char_p),
        ("token_ids", int32_pointer),
        ("num_token_ids", c_uint64),
        ("text", c_void_p),
        ("text_bytes", c_uint64),
        ("logprobs", POINTER(Logprob)),
        ("logprobs_per_token", c_uint64),
        ("context_logits", float_pointer),
        ("num_context_logits", c_uint64),
        ("generation_logits", float_pointer),
        ("stop_string", c_char_p),
        ("stop_token_id", c_int32),
        ("num_preemptions", c_uint32),
        ("num_prompt_tokens", c_uint64),
        ("num_reused_tokens", c_uint64),
        ("num_output_tokens", c_uint64),
        ("arrival_ns", c_uint64),
        ("first_scheduled_ns", c_uint64),
        ("first_token_ns", c_uint64),
        ("last_token_ns", c_uint64),
        ("prompt_logprobs", POINTER(Logprob)),
        ("num_prompt_logprobs", c_uint64),
        ("prompt_logprobs_per_token", c_uint64),
    ]


OnEvent = CFUNCTYPE(None, c_void_p, POINTER(Event))
OnStall = CFUNCTYPE(None, c_void_p, c_char_p, c_char_p)


class RuntimeOptions(ctypes.Structure):
    """`enginery_runtime_options`."""

    _fields_ = [
        ("abi_size", c_uint64),
        ("kv_cache_bytes", c_int64),
        ("max_batch_size", c_int64),
        ("max_num_tokens", c_int64),
        ("max_queue_size", c_int64),
        ("policy", c_int32),
        ("enable_chunked_context", c_int32),
        ("enable_block_reuse", c_int32),
        ("num_threads", c_int32),
        ("isa", c_char_p),
        ("executor", POINTER(Executor)),
        ("on_event", OnEvent),
        ("user", c_void_p),
        ("max_chunk_tokens", c_int64),
        ("iteration_stats_capacity", c_int64),
        ("pin_threads", c_int64),
        ("watchdog_timeout_ms", c_int64),
        ("watchdog_dir", c_char_p),
        ("on_stall", OnStall),
    ]


class Stats(ctypes.Structure):
    """`enginery_stats`."""

    _fields_ = [
        ("abi_size", c_uint64),
        ("num_iterations", c_uint64),
        ("num_waiting", c_uint64),
        ("num_running", c_uint64),
        ("num_blocks", c_uint64),
        ("num_free_blocks", c_uint64),
        ("num_cached_blocks", c_uint64),
        ("num_requests", c_uint64),
        ("num_finished", c_uint64),
        ("num_preemptions", c_uint64),
        ("num_prompt_tokens", c_uint64),
        ("num_reused_tokens", c_uint64),
        ("num_output_tokens", c_uint64),
        ("step_ns", c_uint64),
        ("scheduler_ns", c_uint64),
        ("block_bytes", c_uint64),
        ("workspace_bytes", c_uint64),
        ("num_scheduled_tokens", c_uint64),
        ("step_time_counts", c_uint64 * NUM_STEP_TIMES),
    ]


class ProfileRecord(ctypes.Structure):
    """`enginery_profile_record`."""

    _fields_ = [
        ("iteration", c_uint64),
        ("op", c_char_p),
        ("role", c_char_p),
        ("unit", c_char_p),
        ("num_calls", c_uint64),
        ("duration_ns", c_uint64),
        ("bytes", c_uint64),
        ("operations", c_uint64),
    ]


class MachineLimits(ctypes.Structure):
    """`enginery_machine_limits`."""

    _fields_ = [
        ("abi_size", c_uint64),
        ("memory_bandwidth", c_double),
        ("buffer_bytes", c_uint64),
        ("f32_peak", c_double),
        ("bf16_peak", c_double),
        ("i8_peak", c_double),
        ("num_threads", c_int64),
    ]


STRUCTS: dict[str, type[ctypes.Structure]] = {
    "enginery_engine_info": EngineInfo,
    "enginery_limits": Limits,
    "enginery_executor_info": ExecutorInfo,
    "enginery_sample_record": SampleRecord,
    "enginery_batch": Batch,
    "enginery_step_output": StepOutput,
    "enginery_executor": Executor,
    "enginery_logit_bias": LogitBias,
    "enginery_string_view": StringView,
    "enginery_token_sequence": TokenSequence,
    "enginery_request": Request,
    "enginery_logprob": Logprob,
    "enginery_event": Event,
    "enginery_runtime_options": RuntimeOptions,
    "enginery_stats": Stats,
    "enginery_profile_record": ProfileRecord,
    "enginery_machine_limits": MachineLimits,
}

VerifyProgress = CFUNCTYPE(None, c_void_p, c_uint64, c_uint64)

# name: (result, arguments). A string that must be freed comes back as c_void_p: as c_char_p, ctypes
# would copy it and lose the pointer.
FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "enginery_abi_version": (c_uint32, ()),
    "enginery_version": (c_char_p, ()),
    "enginery_last_error": (c_char_p, ()),
    "enginery_status_name": (c_char_p, (c_int32,)),
    "enginery_engine_open": (c_int32, (c_char_p, POINTER(c_void_p))),
    "enginery_engine_close": (None, (c_void_p,)),
    "enginery_engine_get_info": (c_int32, (c_void_p, POINTER(EngineInfo))),
    "enginery_engine_describe_json": (c_int32, (c_void_p, c_int64, POINTER(c_void_p))),
    "enginery_string_free": (None, (c_void_p,)),
    "enginery_engine_section": (
        c_int32,
        (c_void_p, c_int64, c_char_p, POINTER(c_void_p), POINTER(c_uint64)),
    ),
    "enginery_engine_verify": (c_int32, (c_void_p, VerifyProgress, c_void_p)),
    "enginery_runtime_options_init": (None, (POINTER(RuntimeOptions), c_uint64)),
    "enginery_runtime_create": (
        c_int32,
        (c_void_p, POINTER(RuntimeOptions), POINTER(c_void_p)),
    ),
    "enginery_runtime_shutdown": (c_int32, (c_void_p, c_int32, c_int64)),
    "enginery_runtime_destroy": (None, (c_void_p,)),
    "enginery_request_init": (None, (POINTER(Request), c_uint64)),
    "enginery_runtime_submit": (c_int32, (c_void_p, POINTER(Request), POINTER(c_uint64))),
    "enginery_runtime_cancel": (c_int32, (c_void_p, c_uint64)),
    "enginery_runtime_poll": (c_int32, (c_void_p, c_int64, POINTER(c_void_p))),
    "enginery_events_count": (c_uint64, (c_void_p,)),
    "enginery_events_get": (POINTER(Event), (c_void_p, c_uint64)),
    "enginery_events_free": (None, (c_void_p,)),
    "enginery_runtime_stats": (c_int32, (c_void_p, POINTER(Stats))),
    "enginery_runtime_iterations_json": (c_int32, (c_void_p, POINTER(c_void_p))),
    "enginery_runtime_executor_name": (c_char_p, (c_void_p,)),
    "enginery_runtime_set_profiling": (c_int32, (c_void_p, c_int32)),
    "enginery_runtime_profile": (c_int32, (c_void_p, POINTER(c_void_p))),
    "enginery_profile_count": (c_uint64, (c_void_p,)),
    "enginery_profile_get": (POINTER(ProfileRecord), (c_void_p, c_uint64)),
    "enginery_profile_free": (None, (c_void_p,)),
    "enginery_measure_limits": (c_int32, (c_char_p, c_int32, POINTER(MachineLimits))),
}
