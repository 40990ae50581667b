# SPDX-License-Identifier: Apache-2.0
"""Text in, text out, on an engine directory."""

from __future__ import annotations

import functools
import os
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, overload

from .dispatcher import Dispatcher
from .engine import Engine, EngineInfo
from .errors import InvalidArgumentError, NotFoundError, QueueFullError
from .executor import Executor
from .generation import Generation, Mailbox
from .llm_config import KvCacheConfig, SchedulerConfig
from .options import Unsupported, option_problems
from .outputs import CompletionOutput, RequestOutput
from .progress import Progress
from .prompt import Prompt, encode_prompt, is_single_prompt, one_per_prompt
from .runtime import Iteration, Runtime, RuntimeOptions, Stats
from .sampling_params import SamplingParams
from .tokenizer import Message, Tokenizer
from .tracker import RequestTracker

# Options that are fixed when an engine is built, and the attribute of its info that holds them.
FIXED_BY_ENGINE = {
    "dtype": "dtype",
    "qformat": "qformat",
    "max_seq_len": "max_seq_len",
    "max_input_len": "max_input_len",
    "tokens_per_block": "tokens_per_block",
    "tensor_parallel_size": "tp_size",
}

UNSUPPORTED: Unsupported = {
    "quant_config": ((), "name the scheme with qformat"),
    "build_config": ((), "give its fields as options: max_seq_len, max_batch_size, ..."),
    "pipeline_parallel_size": ((1,), "pipeline parallelism is not built"),
    "moe_expert_parallel_size": ((1,), "mixtures of experts are not built"),
    "max_beam_width": ((1,), "beam search is not built"),
    "speculative_config": ((), "speculative decoding is not built"),
    "lora_config": ((), "LoRA is not built"),
    "enable_lora": ((False,), "LoRA is not built"),
    "trust_remote_code": ((False,), "no code of a checkpoint is ever run"),
    "revision": ((), "models are directories; nothing is downloaded"),
    "tokenizer_revision": ((), "tokenizers are directories; nothing is downloaded"),
    "guided_decoding_backend": ((), "constrained decoding is not built"),
    "backend": (("tensorrt",), "the engine's target says what runs it"),
}


class LLM:
    """An engine with its serving loop and tokenizer; every method may be called from any thread.

    Args:
        model: an engine directory.
        tokenizer: a directory with `tokenizer.json`, or a `Tokenizer`; None: the engine's own.
        kv_cache_config: how large the KV cache is.
        scheduler_config: in which order requests run.
        max_batch_size: sequences in a step; None: the engine's.
        max_num_tokens: packed tokens in a step; None: the engine's.
        enable_chunked_prefill: whether long prompts are prefilled in pieces beside decodes.
        num_threads: of the cpu executor; None: as many as this process may run on.
        pin_threads: whether each of them is held on a CPU of its own.
        isa: kernels of the cpu executor; None: the environment's ENGINERY_ISA, or the best.
        executor: runs the steps in place of the executor of the engine's target: an `Executor`, or
            an import string "package.module:factory" whose factory takes the engine and
            `executor_options`.
        executor_options: keyword arguments of that factory.
        sku: which SKU of an engine that was built for several; None: the executor's choice.
        others: options that were fixed when the engine was built, e.g. `dtype` (another value
            than the engine's is refused), and options of other libraries' `LLM` (refused with the
            reason).

    Raises:
        InvalidArgumentError: an option is out of range, unsupported or unknown.
        EngineFileError, EngineMismatchError, NotFoundError: as `Engine` and `Runtime` say.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        tokenizer: str | os.PathLike[str] | Tokenizer | None = None,
        *,
        kv_cache_config: KvCacheConfig | None = None,
        scheduler_config: SchedulerConfig | None = None,
        max_batch_size: int | None = None,
        max_num_tokens: int | None = None,
        enable_chunked_prefill: bool = True,
        num_threads: int | None = None,
        pin_threads: bool = False,
        isa: str | None = None,
        executor: Executor | str | None = None,
        executor_options: Mapping[str, Any] | None = None,
        sku: str | None = None,
        **others: Any,
    ) -> None:
        fixed = {name: others.pop(name) for name in FIXED_BY_ENGINE if name in others}
        problems = option_problems(_options_of(LLM), others, UNSUPPORTED)
        if problems:
            raise InvalidArgumentError.from_problems("LLM", problems)
        kv_cache_config = kv_cache_config or KvCacheConfig()
        scheduler_config = scheduler_config or SchedulerConfig()
        self.engine = Engine(model)
        _check_fixed(fixed, self.engine.info)
        self._tokenizer_source = tokenizer
        options = RuntimeOptions(
            kv_cache_bytes=kv_cache_config.bytes_for(self.engine.info),
            enable_block_reuse=kv_cache_config.enable_block_reuse,
            max_batch_size=max_batch_size or 0,
            max_num_tokens=max_num_tokens or 0,
            max_queue_size=scheduler_config.max_queue_size,
            max_chunk_tokens=scheduler_config.max_chunk_tokens,
            policy=scheduler_config.capacity_scheduler_policy,
            enable_chunked_context=enable_chunked_prefill,
            num_threads=num_threads or 0,
            pin_threads=pin_threads,
            isa=isa,
            free_gpu_memory_fraction=(
                None if self.engine.info.target == "cpu" else kv_cache_config.memory_fraction
            ),
            sku=sku,
        )
        self._runtime = Runtime(
            self.engine, options, executor=executor, executor_options=executor_options
        )
        self._dispatcher = Dispatcher(self._runtime)
        # Runs when the LLM is dropped, and at the interpreter's exit while threads still can.
        self._finalizer = weakref.finalize(self, _close, self._dispatcher, self.engine)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """Loaded on first use: prompts of token ids need none.

        Raises:
            NotFoundError: there is no `tokenizer.json`.
        """
        source = self._tokenizer_source
        if isinstance(source, Tokenizer):
            return source
        path = Path(self.engine.path if source is None else source)
        return Tokenizer(path.parent if path.is_file() else path)

    @overload
    def generate(  # type: ignore[overload-overlap]
        self,
        inputs: Prompt,
        sampling_params: SamplingParams | None = None,
        *,
        use_tqdm: bool = True,
        priority: int = 0,
        timeout_ms: int = 0,
    ) -> RequestOutput: ...

    @overload
    def generate(
        self,
        inputs: Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        priority: int = 0,
        timeout_ms: int = 0,
    ) -> list[RequestOutput]: ...

    def generate(
        self,
        inputs: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        priority: int = 0,
        timeout_ms: int = 0,
    ) -> RequestOutput | list[RequestOutput]:
        """Completes prompts and waits for all of them.

        Args:
            inputs: one prompt, or a list of them; a list of integers is one prompt.
            sampling_params: one for all, or one per prompt; None: the defaults.
            use_tqdm: shows progress on standard error when that is a terminal.
            priority: larger is admitted first.
            timeout_ms: ends a request with "timeout" so long after it was submitted; 0: never.

        Returns:
            A `RequestOutput` for one prompt, a list of them in order for a list.

        Raises:
            InvalidArgumentError: a prompt is refused; none of the others is run.
        """
        if is_single_prompt(inputs):
            prompts: list[Any] = [inputs]
            if isinstance(sampling_params, Sequence):
                raise InvalidArgumentError("sampling_params: is a list, inputs is one prompt")
        else:
            prompts = list(inputs)
        params = one_per_prompt(sampling_params, len(prompts))
        progress = Progress(len(prompts), use_tqdm)
        generations: list[Generation] = []
        running: deque[Generation] = deque()
        try:
            for index, (prompt, chosen) in enumerate(zip(prompts, params, strict=True)):
                generation = self._submit_when_possible(
                    prompt, chosen, index, running, priority=priority, timeout_ms=timeout_ms
                )
                generations.append(generation)
                running.append(generation)
            outputs = []
            for generation in generations:
                outputs.append(generation.result())
                progress.add(outputs[-1])
        except BaseException:
            for generation in generations:
                generation.abort()
            raise
        finally:
            progress.close()
        return outputs[0] if is_single_prompt(inputs) else outputs

    def generate_async(
        self,
        inputs: Prompt,
        sampling_params: SamplingParams | None = None,
        *,
        streaming: bool = False,
        priority: int = 0,
        timeout_ms: int = 0,
    ) -> Generation:
        """Submits one prompt and returns at once.

        Args:
            inputs: the prompt.
            sampling_params: None: the defaults.
            streaming: whether the result, iterated, gives an output per update.
            priority: larger is admitted first.
            timeout_ms: ends with "timeout" so long after now; 0: never.

        Raises:
            InvalidArgumentError: the prompt or a parameter is refused.
            QueueFullError: too many requests wait.
            ShutDownError: the LLM is closed.
        """
        params = sampling_params or SamplingParams()
        text, token_ids = encode_prompt(inputs, params, lambda: self.tokenizer)
        output = RequestOutput(
            request_id=0,
            prompt=text,
            prompt_token_ids=token_ids,
            outputs=[CompletionOutput(index) for index in range(params.n)],
        )
        bad = self.tokenizer.bad_token_sequences(params.bad) if params.bad else ()
        mailbox = Mailbox(RequestTracker(output, params), streaming)

        def submit() -> int:
            output.request_id = self._runtime.submit(
                token_ids,
                params,
                streaming=streaming,
                priority=priority,
                timeout_ms=timeout_ms,
                bad_token_sequences=bad,
            )
            return output.request_id

        request_id = self._dispatcher.submit(submit, mailbox)
        return Generation(request_id, mailbox, self._dispatcher.cancel)

    def chat(
        self,
        messages: Sequence[Message],
        sampling_params: SamplingParams | None = None,
        *,
        add_generation_prompt: bool = True,
        **template_variables: Any,
    ) -> RequestOutput:
        """Completes a chat, written as text by the model's own chat template.

        Raises:
            NotFoundError: the model has no chat template.
            InvalidArgumentError: the template or the runtime refuses the messages.
        """
        text = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=add_generation_prompt, **template_variables
        )
        # The template has written the special tokens already.
        token_ids = self.tokenizer.encode(text, add_special_tokens=False)
        output = self.generate_async(token_ids, sampling_params).result()
        output.prompt = text
        return output

    def stats(self) -> Stats:
        """Counters of the serving loop."""
        return self._runtime.stats()

    def iterations(self) -> list[Iteration]:
        """The last steps of the serving loop, oldest first."""
        return self._runtime.iterations()

    @property
    def executor_name(self) -> str:
        """What runs the steps, e.g. "avx512"."""
        return self._runtime.executor_name

    def close(self) -> None:
        """Cancels what runs and frees everything; twice is harmless."""
        self._finalizer()

    shutdown = close

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _submit_when_possible(
        self,
        prompt: Any,
        params: SamplingParams,
        index: int,
        running: deque[Generation],
        **options: Any,
    ) -> Generation:
        """Submits one of a list's prompts, waiting while the queue is full of the list's own."""
        while True:
            try:
                return self.generate_async(prompt, params, **options)
            except QueueFullError:
                if not running:
                    raise
                running.popleft().result()
            except (InvalidArgumentError, NotFoundError) as error:
                error.add_note(f"in inputs[{index}]")
                raise


def _options_of(cls: type[LLM]) -> list[str]:
    code = cls.__init__.__code__
    return list(code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount])


def _check_fixed(given: Mapping[str, Any], info: EngineInfo) -> None:
    """Refuses options that the engine was built without."""
    problems = []
    for name, value in given.items():
        built = getattr(info, FIXED_BY_ENGINE[name])
        if value not in (None, "auto", built):
            problems.append(
                f"{name} = {value!r}: the engine was built with {built!r}; build another, or name "
                "a checkpoint as the model"
            )
    if problems:
        raise InvalidArgumentError.from_problems("LLM", problems)


def _close(dispatcher: Dispatcher, engine: Engine) -> None:
    dispatcher.close()
    engine.close()
