# SPDX-License-Identifier: Apache-2.0
"""How a request's tokens are drawn and when it ends, in the names of TensorRT-LLM's class."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InvalidArgumentError
from .options import Unsupported, explains_unknown_options

MAX_LOGPROBS = 20
_TOKEN_ID_NAME = re.compile("0|[1-9][0-9]{0,9}")

# Options of TensorRT-LLM's SamplingParams that are refused: the values that leave them off (None
# always does) and why there is nothing else. Ignoring them would change the user's results.
UNSUPPORTED: Unsupported = {
    "use_beam_search": ((False,), "beam search is not built; n > 1 draws independent sequences"),
    "best_of": (
        (1,),
        "sequences are not ranked; ask for them with n and choose by cumulative_logprob",
    ),
    "beam_search_diversity_rate": ((), "beam search is not built"),
    "beam_width_array": ((), "beam search is not built"),
    "length_penalty": ((1.0,), "it belongs to beam search, which is not built"),
    "early_stopping": ((), "it belongs to beam search, which is not built"),
    "no_repeat_ngram_size": ((0,), "not built; repetition_penalty and frequency_penalty are"),
    "top_p_min": ((), "top_p does not decay; use top_p"),
    "top_p_reset_ids": ((), "top_p does not decay; use top_p"),
    "top_p_decay": ((1.0,), "top_p does not decay; use top_p"),
    "pad_id": ((), "requests are packed: nothing is padded"),
    "logits_processor": ((), "no Python runs between the model and the sampler; use logit_bias"),
    "apply_batched_logits_processor": (
        (False,),
        "no Python runs between the model and the sampler; use logit_bias",
    ),
    "exclude_input_from_output": (
        (True,),
        "outputs never repeat the prompt; it is in RequestOutput.prompt_token_ids",
    ),
    "return_encoder_output": ((False,), "there are no encoder-decoder models"),
    "additional_model_outputs": ((), "an engine has one output, the logits"),
    "lookahead_config": ((), "speculative decoding is not built"),
    "guided_decoding": (
        (),
        "constrained decoding is not built, and a constraint that is not kept must not be accepted",
    ),
    "spaces_between_special_tokens": ((False,), "the text is what the tokenizer's decoder gives"),
}


@explains_unknown_options(UNSUPPORTED)
@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """One request's sampling, checked when it is made; `dataclasses.replace` makes variants.

    What needs the engine to be checked (the vocabulary, its limits) is checked at submit. An
    option of TensorRT-LLM that Enginery lacks is refused with the reason unless it is off.

    Raises:
        InvalidArgumentError: lists every option that is out of range, unsupported or unknown.
    """

    max_tokens: int = 32
    """New tokens at most; 0: none, for `prompt_logprobs` and logits of the prompt."""
    min_tokens: int = 0
    """No stop or end token is drawn before so many new tokens; 0 .. max_tokens."""
    n: int = 1
    """Sequences drawn for the prompt, each with its own random stream."""
    temperature: float = 1.0
    """0: greedy; else > 0."""
    top_k: int | None = None
    """Draw among the k likeliest tokens; None or 0: all."""
    top_p: float = 1.0
    """Draw among the likeliest tokens whose probabilities sum to this; (0, 1]."""
    min_p: float = 0.0
    """Draw among tokens at least this probable, relative to the likeliest; [0, 1]."""
    seed: int | None = None
    """Of the random stream: the same seed gives the same tokens. None: 0."""
    repetition_penalty: float = 1.0
    """> 0; divides positive and multiplies negative logits of tokens in prompt and output."""
    presence_penalty: float = 0.0
    """Subtracted from the logits of tokens in the output."""
    frequency_penalty: float = 0.0
    """Subtracted once per occurrence in the output."""
    logit_bias: Mapping[int, float] | None = None
    """Token id to a value added to its logit; `-inf` bans the token."""
    embedding_bias: Sequence[float] | npt.NDArray[np.floating[Any]] | None = field(
        default=None, compare=False
    )
    """[vocab_size], added to the logits."""
    bad: str | Sequence[str] = ()
    """Words that the output must not contain, as their tokens with and without a space before."""
    bad_token_ids: Sequence[int | Sequence[int]] = ()
    """Token ids, or sequences of them, that the output must not contain."""
    stop: str | Sequence[str] = ()
    """Texts that end the sequence; cut off unless `include_stop_str_in_output`."""
    stop_token_ids: Sequence[int] = ()
    """Token ids that end the sequence."""
    include_stop_str_in_output: bool = False
    """Whether the stop text or stop token stays in the output."""
    include_stop_token: bool = False
    """Whether a stop or end token stays among the token ids; it adds no text."""
    end_id: int | None = None
    """Ends the sequence in place of the engine's own end tokens; -1: nothing does."""
    ignore_eos: bool = False
    """Whether the engine's own end tokens are drawn like any other."""
    logprobs: int | None = None
    """None: none; 0: of the token drawn; k: and of the k likeliest, at most 20."""
    prompt_logprobs: int | None = None
    """Of the prompt's tokens from the second on, each given those before it; as `logprobs`."""
    return_context_logits: bool = False
    """Logits of every prompt position; float32 [num_prompt_tokens, vocab_size]."""
    return_generation_logits: bool = False
    """Logits, before penalties and temperature, that each token was drawn from."""
    return_perf_metrics: bool = False
    """Accepted for compatibility: `RequestOutput.metrics` is always there."""
    detokenize: bool = True
    """False: outputs have token ids and no text."""
    skip_special_tokens: bool = True
    """Whether special tokens are left out of the text."""
    add_special_tokens: bool = True
    """Whether the tokenizer adds its special tokens (such as BOS) to a prompt given as text."""
    truncate_prompt_tokens: int | None = None
    """Keep only so many tokens of the prompt, its last ones; None: keep all."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", _strings(self.stop))
        object.__setattr__(self, "bad", _strings(self.bad))
        problems = self._problems()
        if problems:
            raise InvalidArgumentError.from_problems("SamplingParams", problems)

    def _problems(self) -> list[str]:
        found: list[str] = []

        def integer(name: str, low: int, high: int | None, accepted: str) -> None:
            value = getattr(self, name)
            number = _as_int(value)
            if number is None or number < low or (high is not None and number > high):
                found.append(f"{name} = {value!r}: must be {accepted}")

        def real(name: str, accepts: Any, accepted: str) -> None:
            value = getattr(self, name)
            number = _as_float(value)
            if number is None or not math.isfinite(number) or not accepts(number):
                found.append(f"{name} = {value!r}: must be {accepted}")

        integer("max_tokens", 0, None, "an integer >= 0")
        longest = _as_int(self.max_tokens)
        integer("min_tokens", 0, longest, f"an integer in 0 .. max_tokens ({self.max_tokens!r})")
        integer("n", 1, None, "an integer >= 1")
        real("temperature", lambda x: x >= 0, "a finite number >= 0 (0 is greedy)")
        real("top_p", lambda x: 0 < x <= 1, "in (0, 1]; for greedy use temperature=0")
        real("min_p", lambda x: 0 <= x <= 1, "in [0, 1]")
        real("repetition_penalty", lambda x: x > 0, "a finite number > 0 (1 is off)")
        real("presence_penalty", lambda x: True, "a finite number (0 is off)")
        real("frequency_penalty", lambda x: True, "a finite number (0 is off)")
        if self.top_k is not None:
            integer("top_k", 0, 2**31 - 1, "None, 0 (both: all tokens) or an integer >= 1")
        if self.seed is not None:
            integer("seed", 0, 2**64 - 1, "None or an integer in 0 .. 2**64 - 1")
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) is not None:
                integer(name, 0, MAX_LOGPROBS, f"None or an integer in 0 .. {MAX_LOGPROBS}")
        if self.end_id is not None:
            integer("end_id", -1, 2**31 - 1, "None, -1 (never ends) or a token id")
        if self.truncate_prompt_tokens is not None:
            integer("truncate_prompt_tokens", 1, None, "None or an integer >= 1")
        for item in fields(self):
            if item.type == "bool" and not isinstance(getattr(self, item.name), bool):
                found.append(f"{item.name} = {getattr(self, item.name)!r}: must be True or False")
        for name in ("stop", "bad"):
            value = getattr(self, name)
            if not all(isinstance(text, str) and text and _is_utf8(text) for text in value):
                found.append(f"{name} = {list(value)!r}: must be texts that are not empty")
        found += self._token_id_problems()
        return found

    def _token_id_problems(self) -> list[str]:
        found = []
        stops = self.stop_token_ids
        if not _is_list(stops) or not all(_is_token_id(value) for value in stops):
            found.append(f"stop_token_ids = {stops!r}: must be a list of token ids")
        if not _is_list(self.bad_token_ids):
            found.append(f"bad_token_ids = {self.bad_token_ids!r}: must be a list")
            return found
        biases: Any = self.logit_bias or {}
        if not isinstance(biases, Mapping):
            found.append(f"logit_bias = {biases!r}: must map token ids to numbers")
            return found
        for entry in self.bad_token_ids:
            sequence = entry if isinstance(entry, Sequence) else [entry]
            if not sequence or not all(_is_token_id(value) for value in sequence):
                found.append(
                    f"bad_token_ids: {entry!r} is not a token id or a sequence of token ids"
                )
        for token_id, bias in biases.items():
            number = _as_float(bias)
            sound = number is not None and not math.isnan(number) and number != math.inf
            if not _is_token_id(token_id) or not sound:
                found.append(
                    f"logit_bias: {token_id!r}: {bias!r} is not a token id and a number "
                    "(-inf bans the token)"
                )
        if self.embedding_bias is not None:
            bias_array = np.asarray(self.embedding_bias)
            if bias_array.ndim != 1 or bias_array.dtype.kind not in "fiu":
                found.append(
                    f"embedding_bias: shape {list(bias_array.shape)}, dtype {bias_array.dtype}: "
                    "must be numbers [vocab_size]"
                )
            elif np.isnan(bias_array).any() or np.isposinf(bias_array).any():
                found.append("embedding_bias: has NaN or +inf; -inf bans a token")
        return found


def token_id_of_name(name: str) -> int | None:
    """The token id that a name in a JSON object says, as in `logit_bias`; None: it says none.

    Zeros before it are refused: no two names are one token.
    """
    return int(name) if _TOKEN_ID_NAME.fullmatch(name) else None


def _strings(value: str | Sequence[str] | None) -> tuple[str, ...]:
    """`value` as a tuple; what is neither a text nor a list is left for the checks to refuse."""
    if value is None:
        return ()
    return tuple(value) if _is_list(value) else (value,)  # type: ignore[return-value]


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _is_utf8(text: str) -> bool:
    """Whether `text` has no lone surrogates, which no UTF-8 can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _as_int(value: Any) -> int | None:
    """`value` as an int, None when it is not an integer; bool is not one."""
    if isinstance(value, bool | np.bool_):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _as_float(value: Any) -> float | None:
    if isinstance(value, bool | np.bool_ | str | bytes):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _is_token_id(value: Any) -> bool:
    number = _as_int(value)
    return number is not None and 0 <= number < 2**31
