// SPDX-License-Identifier: Apache-2.0
#include "tensors.h"

namespace enginery::triton::trtllm {
namespace {

using enum DataType;

constexpr TensorSpec kInputs[] = {
    {"input_ids", kInt32, kAny},
    {"input_lengths", kInt32, kOne, "", false},
    {"request_output_len", kInt32, kOne, "max_tokens", false},
    {"num_return_sequences", kInt32, kOne, "n"},
    {"end_id", kInt32, kOne},
    {"pad_id", kInt32, kOne},
    {"stop_words_list", kInt32, "2, -1"},
    {"bad_words_list", kInt32, "2, -1"},
    {"embedding_bias", kFp32, kAny, "embedding_bias"},
    {"temperature", kFp32, kOne, "temperature"},
    {"runtime_top_k", kInt32, kOne},
    {"runtime_top_p", kFp32, kOne},
    {"repetition_penalty", kFp32, kOne, "repetition_penalty"},
    {"min_tokens", kInt32, kOne, "min_tokens"},
    {"presence_penalty", kFp32, kOne, "presence_penalty"},
    {"frequency_penalty", kFp32, kOne, "frequency_penalty"},
    {"seed", kUint64, kOne, "seed"},
    {"return_log_probs", kBool, kOne},
    {"return_context_logits", kBool, kOne, "return_context_logits"},
    {"return_generation_logits", kBool, kOne, "return_generation_logits"},
    {"return_perf_metrics", kBool, kOne},
    {"return_num_input_tokens", kBool, kOne},
    {"return_num_output_tokens", kBool, kOne},
    {"exclude_input_in_output", kBool, kOne},
    {"stop", kBool, kOne},
    {"streaming", kBool, kOne},
    {"beam_width", kInt32, kOne},
    {"len_penalty", kFp32, kOne},
    {"early_stopping", kBool, kOne},
    {"beam_search_diversity_rate", kFp32, kOne},
    {"runtime_top_p_min", kFp32, kOne},
    {"runtime_top_p_decay", kFp32, kOne},
    {"runtime_top_p_reset_ids", kInt32, kOne},
    {"draft_input_ids", kInt32, kAny},
    {"draft_logits", kFp32, "-1, -1"},
    {"draft_acceptance_threshold", kFp32, kOne},
    {"lookahead_window_size", kInt32, kOne},
    {"lookahead_ngram_size", kInt32, kOne},
    {"lookahead_verification_set_size", kInt32, kOne},
    {"decoder_input_ids", kInt32, kAny},
    {"decoder_input_lengths", kInt32, kOne},
    {"encoder_input_features", kFp16, "-1, -1"},
    {"encoder_output_lengths", kInt32, kOne},
    {"prompt_embedding_table", kFp16, "-1, -1"},
    {"prompt_table_extra_ids", kUint64, kAny},
    {"prompt_vocab_size", kInt32, kOne},
    {"cross_attention_mask", kBool, "-1, -1"},
    {"skip_cross_attn_blocks", kBool, kOne},
    {"mrope_rotary_cos_sin", kFp32, kAny},
    {"mrope_position_deltas", kInt64, kOne},
    {"lora_task_id", kUint64, kOne},
    {"lora_weights", kFp16, "-1, -1"},
    {"lora_config", kInt32, "-1, 3"},
    {"context_phase_params", kUint8, kAny},
    {"retention_token_range_starts", kInt32, kAny},
    {"retention_token_range_ends", kInt32, kAny},
    {"retention_token_range_priorities", kInt32, kAny},
    {"retention_token_range_durations_ms", kInt32, kAny},
    {"retention_decode_priority", kInt32, kOne},
    {"retention_decode_duration_ms", kInt32, kOne},
    {"guided_decoding_guide_type", kString, kOne},
    {"guided_decoding_guide", kString, kOne},
};

constexpr TensorSpec kOutputs[] = {
    {"output_ids", kInt32, "-1, -1"},
    {"sequence_length", kInt32, kAny},
    {"cum_log_probs", kFp32, kAny},
    {"output_log_probs", kFp32, "-1, -1"},
    {"context_logits", kFp32, "-1, -1"},
    {"generation_logits", kFp32, "-1, -1, -1"},
    {"batch_index", kInt32, kOne},
    {"sequence_index", kInt32, kOne},
    {"context_phase_params", kUint8, kAny},
    {"kv_cache_alloc_new_blocks", kInt32, kOne},
    {"kv_cache_reused_blocks", kInt32, kOne},
    {"kv_cache_alloc_total_blocks", kInt32, kOne},
    {"arrival_time_ns", kInt64, kOne},
    {"first_scheduled_time_ns", kInt64, kOne},
    {"first_token_time_ns", kInt64, kOne},
    {"last_token_time_ns", kInt64, kOne},
    {"acceptance_rate", kFp32, kOne},
    {"total_accepted_draft_tokens", kInt32, kOne},
    {"total_draft_tokens", kInt32, kOne},
    {"num_input_tokens", kInt32, kOne},
    {"num_output_tokens", kInt32, kOne},
};

constexpr std::string_view kNoBeams =
    "beam search is not built; num_return_sequences draws several";
constexpr std::string_view kNoDrafts = "speculative decoding is not built";
constexpr std::string_view kNoEncoder = "there are no encoder-decoder models";
constexpr std::string_view kNoDecay = "top_p does not decay; use top_p";
constexpr std::string_view kNoPromptTable = "prompt tuning is not built";
constexpr std::string_view kNoLora = "adapters are not built";
constexpr std::string_view kNoImages = "there are no models of images";
constexpr std::string_view kNoRetention =
    "the prefix cache evicts what was not used for longest; nothing can be pinned";
constexpr std::string_view kNoGuide =
    "constrained decoding is not built, and a constraint that is not kept must not be accepted";

constexpr UnsupportedOption kRefused[] = {
    {"beam_width", "1", kNoBeams},
    {"len_penalty", "1.0", kNoBeams},
    {"early_stopping", "false", kNoBeams},
    {"beam_search_diversity_rate", "0.0", kNoBeams},
    {"runtime_top_p_min", "0.0", kNoDecay},
    {"runtime_top_p_decay", "1.0", kNoDecay},
    {"runtime_top_p_reset_ids", "-1", kNoDecay},
    {"draft_input_ids", "", kNoDrafts},
    {"draft_logits", "", kNoDrafts},
    {"draft_acceptance_threshold", "0.0", kNoDrafts},
    {"lookahead_window_size", "0", kNoDrafts},
    {"lookahead_ngram_size", "0", kNoDrafts},
    {"lookahead_verification_set_size", "0", kNoDrafts},
    {"decoder_input_ids", "", kNoEncoder},
    {"decoder_input_lengths", "0", kNoEncoder},
    {"encoder_input_features", "", kNoEncoder},
    {"encoder_output_lengths", "0", kNoEncoder},
    {"prompt_embedding_table", "", kNoPromptTable},
    {"prompt_table_extra_ids", "0", kNoPromptTable},
    {"prompt_vocab_size", "0", kNoPromptTable},
    {"cross_attention_mask", "", kNoImages},
    {"skip_cross_attn_blocks", "false", kNoImages},
    {"mrope_rotary_cos_sin", "", kNoImages},
    {"mrope_position_deltas", "0", kNoImages},
    {"lora_task_id", "0", kNoLora},
    {"lora_weights", "", kNoLora},
    {"lora_config", "", kNoLora},
    {"context_phase_params", "", "prefill and decode run in one place"},
    {"retention_token_range_starts", "", kNoRetention},
    {"retention_token_range_ends", "", kNoRetention},
    {"retention_token_range_priorities", "", kNoRetention},
    {"retention_token_range_durations_ms", "", kNoRetention},
    {"retention_decode_priority", "35", kNoRetention},
    {"retention_decode_duration_ms", "-1", kNoRetention},
    {"guided_decoding_guide_type", "\"\"", kNoGuide},
    {"guided_decoding_guide", "\"\"", kNoGuide},
};

constexpr EnsembleInput kEnsemble[] = {
    {"text_input", "QUERY"},
    {"decoder_text_input", "DECODER_QUERY"},
    {"max_tokens", "REQUEST_OUTPUT_LEN"},
    {"bad_words", "BAD_WORDS_DICT"},
    {"stop_words", "STOP_WORDS_DICT"},
    {"embedding_bias_words", "EMBEDDING_BIAS_WORDS"},
    {"embedding_bias_weights", "EMBEDDING_BIAS_WEIGHTS"},
    {"prompt_table_extra_id", "PROMPT_TABLE_EXTRA_ID"},
    {"end_id", "end_id"},
    {"pad_id", "pad_id"},
    {"num_return_sequences", "num_return_sequences"},
    {"exclude_input_in_output", "exclude_input_in_output"},
    {"top_k", "runtime_top_k"},
    {"top_p", "runtime_top_p"},
    {"temperature", "temperature"},
    {"length_penalty", "len_penalty"},
    {"repetition_penalty", "repetition_penalty"},
    {"min_tokens", "min_tokens"},
    {"presence_penalty", "presence_penalty"},
    {"frequency_penalty", "frequency_penalty"},
    {"seed", "seed"},
    {"return_log_probs", "return_log_probs"},
    {"return_context_logits", "return_context_logits"},
    {"return_generation_logits", "return_generation_logits"},
    {"return_perf_metrics", "return_perf_metrics"},
    {"return_num_input_tokens", "return_num_input_tokens"},
    {"return_num_output_tokens", "return_num_output_tokens"},
    {"beam_width", "beam_width"},
    {"stream", "streaming"},
    {"prompt_embedding_table", "prompt_embedding_table"},
    {"prompt_vocab_size", "prompt_vocab_size"},
    {"lora_task_id", "lora_task_id"},
    {"lora_weights", "lora_weights"},
    {"lora_config", "lora_config"},
    {"guided_decoding_guide_type", "guided_decoding_guide_type"},
    {"guided_decoding_guide", "guided_decoding_guide"},
};

}  // namespace

std::span<const TensorSpec> Inputs() { return kInputs; }
std::span<const TensorSpec> Outputs() { return kOutputs; }
std::span<const UnsupportedOption> RefusedInputs() { return kRefused; }
std::span<const EnsembleInput> EnsembleInputs() { return kEnsemble; }

}  // namespace enginery::triton::trtllm
