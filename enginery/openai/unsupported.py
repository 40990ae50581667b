# SPDX-License-Identifier: Apache-2.0
"""Parameters that clients bring from elsewhere and this front end refuses, with the reason.

Ignoring one would change the user's results without a word. Each has the values that leave it off;
null always does.
"""

from __future__ import annotations

from enginery.runtime.options import Unsupported

_BEAMS = "beam search is not built; n draws several independent sequences"
_GUIDED = (
    "constrained decoding is not built, and a constraint that is not kept must not be accepted"
)
_TOOLS = "tool calls are not built"
_STORE = "nothing is stored here"

_BOTH: Unsupported = {
    "best_of": ((1,), "sequences are not ranked; ask for them with n and choose by logprobs"),
    "use_beam_search": ((False,), _BEAMS),
    "length_penalty": ((1, 1.0), f"it belongs to beam search: {_BEAMS}"),
    "early_stopping": ((False,), f"it belongs to beam search: {_BEAMS}"),
    "guided_json": ((), _GUIDED),
    "guided_regex": ((), _GUIDED),
    "guided_choice": ((), _GUIDED),
    "guided_grammar": ((), _GUIDED),
    "structured_outputs": ((), _GUIDED),
    "prompt_logprobs": ((), "ask /v1/completions with echo and logprobs"),
    "include_stop_str_in_output": ((False,), "stop strings are always cut off"),
    "skip_special_tokens": ((True,), "the text never has special tokens"),
    "spaces_between_special_tokens": ((True, False), "the text never has special tokens"),
    "truncate_prompt_tokens": ((), "a prompt is never cut unasked; /tokenize counts its tokens"),
    "tools": (([],), _TOOLS),
    # Without tools these say nothing.
    "tool_choice": (("none", "auto"), _TOOLS),
    "parallel_tool_calls": ((True, False), _TOOLS),
    "functions": (([],), _TOOLS),
    "function_call": (("none", "auto"), _TOOLS),
    "response_format": (({"type": "text"},), _GUIDED),
    "service_tier": (("auto", "default"), "there is one tier"),
    "store": ((False,), _STORE),
    "metadata": (({},), _STORE),
}

COMPLETIONS: Unsupported = {
    **_BOTH,
    "suffix": (("",), "filling in the middle is not built"),
    "messages": ((), "a chat belongs to /v1/chat/completions"),
    "max_completion_tokens": ((), "it belongs to /v1/chat/completions; use max_tokens"),
    "top_logprobs": ((), "it belongs to /v1/chat/completions; use logprobs"),
    "chat_template_kwargs": ((), "a chat belongs to /v1/chat/completions"),
}

CHAT: Unsupported = {
    **_BOTH,
    "audio": ((), "the model reads and writes text alone"),
    "modalities": ((["text"],), "the model reads and writes text alone"),
    "prediction": ((), "speculative decoding is not built"),
    "reasoning_effort": (
        (),
        "give the chat template's own variables in chat_template_kwargs",
    ),
    "verbosity": ((), "give the chat template's own variables in chat_template_kwargs"),
    "web_search_options": ((), "the model has no tools"),
    "chat_template": ((), "the checkpoint's own template is used; /v1/completions takes any text"),
    "add_generation_prompt": ((True,), "the answer is always the assistant's next turn"),
    "continue_final_message": ((False,), "the answer is always the assistant's next turn"),
    "echo": ((False,), "an answer never repeats the chat"),
    "prompt": ((), "a text belongs to /v1/completions; give messages"),
}

MESSAGE: Unsupported = {
    "tool_calls": (([],), _TOOLS),
    "tool_call_id": ((), _TOOLS),
    "function_call": ((), _TOOLS),
    "refusal": ((), "write it as content"),
    "audio": ((), "the model reads text alone"),
    "annotations": (([],), "write them as content"),
}

PART: Unsupported = dict.fromkeys(
    ("image_url", "input_audio", "file", "refusal", "video_url", "audio_url"),
    ((), "the model reads text alone"),
)
