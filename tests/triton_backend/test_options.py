# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses

import pytest

from enginery.runtime.errors import InvalidArgumentError
from enginery.runtime.runtime import RuntimeOptions
from enginery.triton_backend.options import ModelOptions

ALL = ModelOptions(
    engine_dir="/engines/demo",
    tokenizer_dir="/tokenizers/demo",
    num_sender_threads=5,
    log_requests="json",
    runtime=RuntimeOptions(
        kv_cache_bytes=1 << 40,
        max_batch_size=7,
        max_num_tokens=99,
        max_queue_size=1000,
        policy="STATIC_BATCH",
        enable_chunked_context=False,
        enable_block_reuse=False,
        max_chunk_tokens=33,
        num_threads=3,
        pin_threads=True,
        isa="portable",
        executor="some_package.module:Factory",
        sku="h200",
        free_gpu_memory_fraction=0.75,
        watchdog_timeout_ms=60_000,
        watchdog_dir="/var/lib/enginery",
    ),
)


def test_all_options_differ_from_the_defaults() -> None:
    # Else the round trip below would not show that an option is written and read.
    defaults = RuntimeOptions()
    for field in dataclasses.fields(RuntimeOptions):
        if field.name != "iteration_stats_capacity":
            assert getattr(ALL.runtime, field.name) != getattr(defaults, field.name), field.name


@pytest.mark.parametrize("options", [ALL, ModelOptions(engine_dir="/e")])
def test_round_trip(options: ModelOptions) -> None:
    parameters = options.to_parameters()
    assert all(isinstance(value, str) for value in parameters.values())
    assert ModelOptions.from_parameters(parameters) == options


def test_defaults_are_left_out() -> None:
    assert ModelOptions(engine_dir="/e").to_parameters() == {"engine_dir": "/e"}


def test_names_of_other_servers_files() -> None:
    options = ModelOptions.from_parameters(
        {
            "engine_dir": "/e",
            "batch_scheduler_policy": "max_utilization",
            "enable_kv_cache_reuse": "False",
            "enable_chunked_context": "1",
        }
    )
    assert options.runtime.policy == "MAX_UTILIZATION"
    assert not options.runtime.enable_block_reuse
    assert options.runtime.enable_chunked_context


def test_every_problem_is_listed() -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        ModelOptions.from_parameters(
            {
                "max_attention_window_size": "0",
                "kv_cache_free_gpu_mem_fraction": "1.5",
                "executor": "no factory",
                "max_batch_size": "many",
                "max_num_tokens": "-1",
                "kv_cache_bytes": str(2**63),
                "batch_scheduler_policy": "fastest",
                "enable_chunked_context": "perhaps",
                "num_sender_threads": "0",
                "log_requests": "true",
            }
        )
    message = str(raised.value)
    assert "11 problems" in message
    for part in (
        "max_attention_window_size = '0': there is no such parameter; there are engine_dir",
        "kv_cache_free_gpu_mem_fraction = '1.5': must be above 0 and below 1",
        "executor = 'no factory': must be an import string",
        "max_batch_size = 'many': must be an integer",
        "max_num_tokens = '-1': must be 0 .. ",
        f"kv_cache_bytes = '{2**63}': must be 0 .. ",
        "batch_scheduler_policy = 'fastest': must be one of guaranteed_no_evict",
        "enable_chunked_context = 'perhaps': must be true or false",
        "num_sender_threads = '0': must be 1 .. 64",
        "log_requests = 'true': must be one of text, json",
        "engine_dir: is missing",
    ):
        assert part in message
