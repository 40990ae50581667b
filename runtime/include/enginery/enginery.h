/* SPDX-License-Identifier: Apache-2.0
 *
 * The C interface of Enginery's runtime. This header is its manual.
 *
 *   enginery_engine    an engine directory, opened, checked and memory-mapped; read-only
 *   enginery_runtime   the serving loop over one engine: scheduler, KV blocks, executor, sampler
 *   enginery_events    what happened to requests since the last poll: tokens, text, ends
 *
 *     enginery_engine* engine = NULL;
 *     enginery_runtime* runtime = NULL;
 *     enginery_runtime_options options;
 *     enginery_runtime_options_init(&options, sizeof options);
 *     if (enginery_engine_open("engines/demo", &engine) != ENGINERY_OK ||
 *         enginery_runtime_create(engine, &options, &runtime) != ENGINERY_OK) {
 *       fail(enginery_last_error());
 *     }
 *     enginery_request request;
 *     enginery_request_init(&request, sizeof request);
 *     request.prompt_token_ids = ids; request.num_prompt_tokens = n; request.max_tokens = 64;
 *     uint64_t id;
 *     enginery_runtime_submit(runtime, &request, &id);
 *     for (;;) {
 *       enginery_events* events = NULL;
 *       enginery_runtime_poll(runtime, 1000, &events);
 *       for (uint64_t i = 0; i < enginery_events_count(events); ++i) {
 *         const enginery_event* e = enginery_events_get(events, i);
 *         fwrite(e->text, 1, e->text_bytes, stdout);
 *         ...stop at e->finish_reason != ENGINERY_FINISH_NONE
 *       }
 *       enginery_events_free(events);
 *     }
 *
 * Conventions
 *   - Every function that can fail returns an enginery_status; the message for a person is in
 *     enginery_last_error(), per thread, until that thread's next failing call. It names the
 *     field, the value, what is accepted and the fix.
 *   - Structs that cross the boundary begin with `abi_size`: set by the *_init function (or by
 *     the filler) to sizeof of the struct as the caller knows it. Members are only ever appended;
 *     the library reads what the caller has.
 *   - Sizes are bytes, times are nanoseconds of CLOCK_MONOTONIC unless the name says otherwise.
 *     No bools, no enums in structs: sized ints.
 *   - Pointers passed in are read during the call and never kept, except where stated. Pointers
 *     handed out live as long as the object that handed them out, as stated.
 *   - Threads: everything may be called from any thread. Functions on one enginery_runtime may be
 *     called concurrently, except enginery_runtime_destroy, which must come last. No function
 *     blocks on the model, except enginery_runtime_poll (up to its timeout), _shutdown and
 *     _destroy. enginery_measure_limits takes about a second.
 *   - The library never exits or aborts the process because of a file or a request, installs no
 *     signal handlers and writes nothing to stdout or stderr.
 *   - Environment: ENGINERY_ISA (auto, amx, avx512, avx2, portable) when runtime options leave
 * `isa` NULL.
 */
#ifndef ENGINERY_ENGINERY_H_
#define ENGINERY_ENGINERY_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define ENGINERY_API __declspec(dllexport)
#else
#define ENGINERY_API __attribute__((visibility("default")))
#endif

/* Raised when a struct or function changes meaning; appended members do not raise it. */
#define ENGINERY_ABI_VERSION 1

ENGINERY_API uint32_t enginery_abi_version(void);
/* Version of the library, e.g. "0.1.0". Static storage. */
ENGINERY_API const char* enginery_version(void);

/* ---- Status ---------------------------------------------------------------------------------- */

typedef int32_t enginery_status;
enum {
  ENGINERY_OK = 0,
  ENGINERY_INVALID_ARGUMENT = 1, /* a field of a request, an option or a call is out of range */
  ENGINERY_NOT_FOUND = 2,        /* file, request id or section that is not there */
  ENGINERY_IO_ERROR = 3,
  /* engine files, see docs/engine-format.md; each error has its own code */
  ENGINERY_BAD_MAGIC = 10,
  ENGINERY_UNSUPPORTED_VERSION = 11,
  ENGINERY_TRUNCATED = 12,
  ENGINERY_INVALID_HEADER = 13,
  ENGINERY_CHECKSUM_MISMATCH = 14,
  ENGINERY_INVALID_SECTION = 15,
  ENGINERY_MISSING_SECTION = 16,
  ENGINERY_INVALID_PROGRAM = 17,
  ENGINERY_INVALID_TENSOR = 18,
  ENGINERY_INVALID_TOKEN_BYTES = 19,
  /* the engine is for another target or SKU than this machine and executor */
  ENGINERY_WRONG_TARGET = 20,
  /* op, version, dtype or layout that the executor does not have */
  ENGINERY_UNSUPPORTED_OP = 21,
  ENGINERY_RANK_MISMATCH = 22, /* rank files of one engine that do not belong together */
  ENGINERY_QUEUE_FULL = 30,    /* max_queue_size requests wait already; try again later */
  ENGINERY_SHUT_DOWN = 31,     /* the runtime no longer takes requests */
  ENGINERY_OUT_OF_MEMORY = 32,
  ENGINERY_EXECUTOR_FAILED = 33,
  ENGINERY_NOT_SUPPORTED = 34, /* the executor in use does not do that */
  ENGINERY_INTERNAL = 99
};

/* Message of the calling thread's last failure; "" when there was none. Valid until that
 * thread's next failing call. */
ENGINERY_API const char* enginery_last_error(void);
/* The name as in this header without the prefix, e.g. "QUEUE_FULL". Static storage; "UNKNOWN"
 * for other values. */
ENGINERY_API const char* enginery_status_name(enginery_status status);

/* ---- Engine ---------------------------------------------------------------------------------- */

typedef struct enginery_engine enginery_engine;

/* Opens an engine directory (all its rank files) or one rank file: maps, checks header, section
 * table, program and token bytes. Costs milliseconds whatever the weights' size. *engine is set
 * only on success. */
ENGINERY_API enginery_status enginery_engine_open(const char* path, enginery_engine** engine);
/* NULL is fine. Runtimes created from it must be destroyed before. */
ENGINERY_API void enginery_engine_close(enginery_engine* engine);

typedef struct enginery_engine_info {
  uint64_t abi_size;  /* set by the caller */
  const char* target; /* strings live as long as the engine */
  const char* sku;
  const char* variant;
  const char* builder_version;
  const char* architecture;
  const char* dtype;
  const char* qformat;
  const char* kv_cache_dtype;
  int64_t tp_size;
  int64_t vocab_size;
  int64_t hidden_size;
  int64_t num_layers;
  int64_t num_kv_heads; /* per rank */
  int64_t head_dim;
  int64_t max_batch_size;
  int64_t max_num_tokens;
  int64_t max_seq_len;
  int64_t max_input_len;
  int64_t tokens_per_block;
  int64_t bos_token_id; /* -1: none */
  int64_t pad_token_id; /* -1: none */
  const int64_t* eos_token_ids;
  uint64_t num_eos_token_ids;
  uint64_t weight_bytes;       /* of all ranks */
  uint64_t kv_bytes_per_token; /* of all ranks */
} enginery_engine_info;
ENGINERY_API enginery_status enginery_engine_get_info(const enginery_engine* engine,
                                                      enginery_engine_info* info);

/* Header, section table and program of one rank as JSON (UTF-8). The caller frees *json with
 * enginery_string_free:
 *   {"header": {field: value},
 *    "sections": [{"name","offset","bytes","alignment","flags","sha256"}],
 *    "attributes": {name: value},
 *    "tensors": [{"name","dtype","layout","shape","section" (its name),"offset","bytes"}],
 *    "values": [{"name","dtype","rows","columns"}],
 *    "steps": [{"op","version","inputs": [name or null],"outputs": [name],
 *               "attributes": {name: value}}]} */
ENGINERY_API enginery_status enginery_engine_describe_json(const enginery_engine* engine,
                                                           int64_t rank, char** json);
ENGINERY_API void enginery_string_free(char* string);
/* Bytes of a section of a rank, as mapped. ENGINERY_NOT_FOUND when there is none of that name. */
ENGINERY_API enginery_status enginery_engine_section(const enginery_engine* engine, int64_t rank,
                                                     const char* name, const void** data,
                                                     uint64_t* bytes);
/* Hashes every section of every rank against the table. `progress` (may be NULL) is called on
 * this thread as bytes are done. */
ENGINERY_API enginery_status enginery_engine_verify(const enginery_engine* engine,
                                                    void (*progress)(void* user, uint64_t done,
                                                                     uint64_t total),
                                                    void* user);

/* ---- Executor --------------------------------------------------------------------------------- *
 * What runs one step of the model. The cpu executor is built in; others, such as Python's for GPUs
 * and their emulation (runtime/executor.py, runtime/executors), fill this struct
 * (docs/architecture.md). All calls come from the runtime's step thread, never two at a time. Each
 * returns an enginery_status; after a failure last_error() is asked for the reason, the requests of
 * that step fail with it, and the next step is tried with others. */

typedef struct enginery_limits {
  uint64_t abi_size;
  int64_t max_batch_size; /* sequences in a step */
  int64_t max_num_tokens; /* packed tokens in a step */
  int64_t max_logit_rows; /* rows that want logits in a step */
  int64_t max_seq_len;
  int64_t tokens_per_block;
} enginery_limits;

typedef struct enginery_executor_info {
  uint64_t abi_size;
  int64_t vocab_size;
  int64_t num_blocks;   /* KV blocks that kv_cache_bytes pays for; at least 1 */
  uint64_t block_bytes; /* of all ranks */
  uint64_t workspace_bytes;
} enginery_executor_info;

/* Bits of enginery_sample_record.flags. */
enum {
  ENGINERY_SAMPLE_GREEDY = 1, /* temperature 0: the largest logit, of equal ones the lowest id */
  /* penalties, bias, bans, logprobs or logits are asked for: the C++ sampler does it, from the
   * logits that the step gives back; a token id drawn for it is ignored */
  ENGINERY_SAMPLE_HOST_ONLY = 2
};

/* Sampling of one logits row, for executors that sample themselves: all or, as the cpu executor
 * does, the greedy ones. Rows with a NaN, +infinity or nothing but -infinity are to be left to the
 * C++ sampler, which ends their requests with the reason. */
typedef struct enginery_sample_record {
  int32_t logit_row; /* index into logit_rows */
  uint32_t flags;    /* ENGINERY_SAMPLE_* */
  float temperature;
  float top_p;
  float min_p;
  int32_t top_k; /* 0: all; 1: as greedy, whatever the temperature */
  uint64_t seed;
  uint32_t sequence_index;
  /* absolute position of the token to be drawn: the counter of the random stream */
  uint32_t position;
} enginery_sample_record;

/* ScheduledBatch: one flat buffer without pointers, so that rank 0 can broadcast it. It begins
 * with this header; arrays stand at 8-byte aligned byte offsets from its start. S sequences, T
 * packed tokens, L rows that want logits, W block table width. */
#define ENGINERY_BATCH_MAGIC 0x54414245u /* "EBAT" */
#define ENGINERY_BATCH_VERSION 1u
typedef struct enginery_batch {
  uint32_t magic;
  uint32_t version;
  uint64_t total_bytes;
  uint64_t step_id;
  uint32_t num_sequences;     /* S */
  uint32_t num_tokens;        /* T */
  uint32_t num_logit_rows;    /* L */
  uint32_t block_table_width; /* W */
  uint32_t num_block_copies;
  uint32_t num_samples;  /* at most max_batch_size */
  uint64_t token_ids;    /* i32[T] */
  uint64_t positions;    /* i32[T], absolute, 0-based */
  uint64_t cu_seqlens_q; /* i32[S + 1]: tokens of sequence s are [cu[s], cu[s + 1]) */
  uint64_t context_lens; /* i32[S]: KV length after this step */
  uint64_t block_tables; /* i32[S][W], unused entries -1 */
  /* i64[T]: block * tokens_per_block + offset where the token's K and V go */
  uint64_t slot_mapping;
  /* i32[num_block_copies][2]: (from, to), all done before the step writes any KV */
  uint64_t block_copies;
  uint64_t logit_rows; /* i32[L]: packed token whose logits are wanted, increasing */
  uint64_t samples;    /* enginery_sample_record[num_samples] */
} enginery_batch;

typedef struct enginery_step_output {
  uint64_t abi_size;
  /* [L][vocab_size]; valid until the next execute. NULL spares the copy when nobody reads it: every
   * record of the step is without host_only and has a token id of at least 0, and every logit row
   * is the row of some record (others are wanted for themselves, as return_context_logits does).
   * Requests of a step that breaks this end with EXECUTOR_FAILED. */
  const float* logits;
  /* [num_samples], -1 where the executor did not sample and the C++ sampler is to, from the row's
   * logits; NULL: none sampled. Valid until the next execute */
  const int32_t* token_ids;
} enginery_step_output;

typedef struct enginery_executor {
  uint64_t abi_size;
  void* ctx;
  /* Once, before anything else. Allocates KV and workspace for the limits. */
  enginery_status (*init)(void* ctx, const enginery_limits* limits, uint64_t kv_cache_bytes,
                          enginery_executor_info* info);
  /* Starts the step; may return before it is done. The batch stays readable until collect
   * returns. */
  enginery_status (*execute)(void* ctx, const enginery_batch* batch);
  /* Waits for the step that execute started. */
  enginery_status (*collect)(void* ctx, enginery_step_output* output);
  /* Reason of the last failure; valid until the next call. May be NULL. */
  const char* (*last_error)(void* ctx);
  void (*destroy)(void* ctx);
} enginery_executor;

/* ---- Runtime --------------------------------------------------------------------------------- */

typedef struct enginery_runtime enginery_runtime;

enum {
  /* admit a request only when its longest end fits: it is never preempted */
  ENGINERY_POLICY_GUARANTEED_NO_EVICT = 0,
  /* admit while blocks are free; when they run out the youngest is preempted and recomputed */
  ENGINERY_POLICY_MAX_UTILIZATION = 1,
  /* admit a batch, run it until all of it is done: the baseline for comparisons */
  ENGINERY_POLICY_STATIC_BATCH = 2
};

struct enginery_event;
typedef struct enginery_runtime_options {
  uint64_t abi_size;
  /* > 0: absolute budget; 0: enough for max_batch_size sequences of max_seq_len, at most half of
   * the free memory */
  int64_t kv_cache_bytes;
  int64_t max_batch_size; /* 0: the engine's; else 1 .. the engine's */
  int64_t max_num_tokens; /* 0: the engine's; else 1 .. the engine's */
  int64_t max_queue_size; /* waiting requests before QUEUE_FULL; 0: no bound */
  int32_t policy;         /* ENGINERY_POLICY_* */
  /* 1 (default): long prompts are prefilled in pieces beside decodes */
  int32_t enable_chunked_context;
  /* 1 (default): full blocks of equal prefixes are shared (prefix cache) */
  int32_t enable_block_reuse;
  /* cpu; 0: as many as this process may run on: the CPUs of its affinity mask, fewer when a cgroup
   * limits its share of them */
  int32_t num_threads;
  const char* isa; /* cpu; NULL: ENGINERY_ISA or auto. Read during create */
  /* NULL: the built-in executor, which runs engines of target cpu (others: WRONG_TARGET). Copied
   * during create; ctx must outlive the runtime */
  const enginery_executor* executor;
  /* NULL: events are fetched with enginery_runtime_poll. Else called on the runtime's delivery
   * thread with each event, one at a time; the event is valid during the call. It may submit and
   * cancel; it must not destroy the runtime. */
  void (*on_event)(void* user, const struct enginery_event* event);
  void* user;
  /* 0: max_num_tokens; else the longest piece of a prompt in one step */
  int64_t max_chunk_tokens;
  /* iterations kept for enginery_runtime_iterations_json; default 1000 */
  int64_t iteration_stats_capacity;
  /* cpu; 1: each of num_threads threads is held on a CPU of its own out of the affinity mask of the
   * thread that calls create, one per core before the second of any; the step thread is one of
   * them. INVALID_ARGUMENT when there are fewer CPUs than threads. Worth it on a machine that does
   * nothing else: two runtimes pinned in one mask share its first CPUs. Default 0 */
  int64_t pin_threads;
  /* 0 (default): off; else a step that takes so long is a stall: the state of the serving loop is
   * written to a file and on_stall called. The step is neither ended nor waited for. A slow step is
   * none: allow far more than the longest prefill takes */
  int64_t watchdog_timeout_ms;
  /* Folder of these files, enginery-stall-PROCESS-XXXXXX.json: one JSON object, readable by this
   * user alone, without tokens or texts. NULL: the one for temporary files (TMPDIR or /tmp). Read
   * during create; INVALID_ARGUMENT when no file can be made there */
  const char* watchdog_dir;
  /* Called once for a step that stalls, with `user`, on a thread of its own: it may end the
   * process, and must not destroy the runtime. `path`: of the file, "" when it could not be
   * written; `message`: for a person. NULL: the file alone tells */
  void (*on_stall)(void* user, const char* path, const char* message);
} enginery_runtime_options;
/* Fills defaults. `abi_size` is sizeof(enginery_runtime_options) as the caller knows it. */
ENGINERY_API void enginery_runtime_options_init(enginery_runtime_options* options,
                                                uint64_t abi_size);

/* Starts the step thread. *runtime is set only on success. On success an executor given in the
 * options belongs to the runtime, which calls its destroy; on failure it stays the caller's. */
ENGINERY_API enginery_status enginery_runtime_create(enginery_engine* engine,
                                                     const enginery_runtime_options* options,
                                                     enginery_runtime** runtime);
/* Stops taking requests. drain = 1: waits until all are finished, at most timeout_ms (-1: no
 * limit; ENGINERY_OK or, when time ran out, the rest is cancelled and ENGINERY_OK all the same).
 * drain = 0: cancels all. Events can still be polled. */
ENGINERY_API enginery_status enginery_runtime_shutdown(enginery_runtime* runtime, int32_t drain,
                                                       int64_t timeout_ms);
/* Cancels what runs, joins the threads, frees. NULL is fine. Not from on_event. */
ENGINERY_API void enginery_runtime_destroy(enginery_runtime* runtime);

typedef struct enginery_logit_bias {
  int32_t token_id;
  float bias; /* added to the logit; -INFINITY bans the token */
} enginery_logit_bias;

typedef struct enginery_string_view {
  const char* data; /* UTF-8, need not end in zero */
  uint64_t bytes;
} enginery_string_view;

typedef struct enginery_token_sequence {
  const int32_t* token_ids;
  uint64_t num_tokens;
} enginery_token_sequence;

/* One request. Every field is checked by submit; the first bad one is named in
 * enginery_last_error(). */
typedef struct enginery_request {
  uint64_t abi_size;
  const int32_t* prompt_token_ids; /* each in [0, vocab_size) */
  uint64_t num_prompt_tokens;      /* 1 .. max_input_len */
  /* new tokens; prompt + max_tokens <= max_seq_len. 0: the prompt is computed and nothing drawn.
   * Default 32 */
  int64_t max_tokens;
  int64_t min_tokens;           /* no stop token is drawn before; 0 .. max_tokens */
  int32_t num_return_sequences; /* 1 .. max_batch_size, each with its own random stream */
  int32_t ignore_eos;           /* 1: the engine's eos_token_ids do not end it */
  float temperature;            /* 0: greedy; else > 0 and finite. Default 1 */
  float top_p;                  /* (0, 1]; default 1 */
  float min_p;                  /* [0, 1]; default 0 */
  int32_t top_k;                /* 0: all (default); else >= 1 */
  float repetition_penalty;     /* > 0; default 1. Over prompt and output */
  float presence_penalty;       /* finite; default 0. Over output */
  float frequency_penalty;      /* finite; default 0. Over output */
  /* -1: none (default); 0: of the token drawn; k: and of the k best (<= 20) */
  int32_t num_logprobs;
  uint64_t seed;                 /* random stream; same seed, same tokens. Default 0 */
  const int32_t* stop_token_ids; /* end the sequence; the token is not part of the output */
  uint64_t num_stop_token_ids;
  /* end the sequence when the text has them; cut off unless include_stop */
  const enginery_string_view* stop_strings;
  uint64_t num_stop_strings;
  const enginery_token_sequence* bad_token_sequences; /* never completed in the output */
  uint64_t num_bad_token_sequences;
  const enginery_logit_bias* logit_bias;
  uint64_t num_logit_bias;
  /* 1: a stop string or stop token stays in the output; 2: a stop or end token stays among the
   * token ids, with its log probabilities, and adds no text */
  int32_t include_stop;
  int32_t show_special_tokens; /* 1: text of special tokens too */
  int32_t priority;            /* larger first; default 0 */
  /* 1 (default): events as tokens come; 0: one event per sequence at its end */
  int32_t streaming;
  /* 0: none; else the request ends with ENGINERY_FINISH_TIMEOUT this long after submit */
  int64_t timeout_ms;
  /* 1: logits of every prompt position, in the first event. Disables prefix reuse for it */
  int32_t return_context_logits;
  /* 1: logits (before penalties and temperature) each token was drawn from */
  int32_t return_generation_logits;
  /* what the caller calls it, for the watchdog's file: UTF-8 of at most 256 bytes; none by default
   */
  enginery_string_view client_request_id;
  /* 1: log probabilities of the prompt's tokens from the second on, each given those before it, in
   * the first event. Disables prefix reuse for it */
  int32_t return_prompt_logprobs;
  /* with return_prompt_logprobs: and of so many of the best in place of each; 0 .. 20 */
  int32_t num_prompt_logprobs;
} enginery_request;
ENGINERY_API void enginery_request_init(enginery_request* request, uint64_t abi_size);

/* Queues the request; *request_id is unique in this runtime and never 0. Copies everything it
 * needs. */
ENGINERY_API enginery_status enginery_runtime_submit(enginery_runtime* runtime,
                                                     const enginery_request* request,
                                                     uint64_t* request_id);
/* The request ends with ENGINERY_FINISH_CANCELLED soon. ENGINERY_NOT_FOUND when it has ended or
 * never was: harmless. */
ENGINERY_API enginery_status enginery_runtime_cancel(enginery_runtime* runtime,
                                                     uint64_t request_id);

enum {
  ENGINERY_FINISH_NONE = 0,   /* not finished */
  ENGINERY_FINISH_END_ID = 1, /* an end-of-sequence token */
  ENGINERY_FINISH_STOP = 2,   /* a stop token id or stop string */
  ENGINERY_FINISH_LENGTH = 3, /* max_tokens */
  ENGINERY_FINISH_CANCELLED = 4,
  ENGINERY_FINISH_TIMEOUT = 5,
  ENGINERY_FINISH_ERROR = 6 /* see event.status and event.error */
};

typedef struct enginery_logprob {
  int32_t token_id;
  float logprob; /* natural log, of the distribution before temperature and penalties */
} enginery_logprob;

/* Pointers live as long as the enginery_events they came from (or during on_event). */
typedef struct enginery_event {
  uint64_t request_id;
  int32_t sequence_index;   /* 0 .. num_return_sequences - 1 */
  int32_t finish_reason;    /* of this sequence; ENGINERY_FINISH_* */
  int32_t is_last;          /* 1: no event of this request follows */
  enginery_status status;   /* ENGINERY_OK, or why it ended with ENGINERY_FINISH_ERROR */
  const char* error;        /* message, "" when status is ENGINERY_OK */
  const int32_t* token_ids; /* new tokens since the last event of the sequence */
  uint64_t num_token_ids;
  /* new text, whole UTF-8 characters (an invalid byte becomes U+FFFD), held back while a stop
   * string may begin in it */
  const char* text;
  uint64_t text_bytes;
  /* [num_token_ids][1 + num_logprobs]: the token drawn, then the best ones; NULL when not asked */
  const enginery_logprob* logprobs;
  uint64_t logprobs_per_token;
  const float* context_logits; /* [num_context_logits][vocab_size] or NULL */
  uint64_t num_context_logits;
  const float* generation_logits; /* [num_token_ids][vocab_size] or NULL */
  const char* stop_string;        /* the stop string that matched, or "" */
  int32_t stop_token_id;          /* the stop or end token that matched, or -1 */
  uint32_t num_preemptions;       /* so far, of this sequence */
  uint64_t num_prompt_tokens;
  uint64_t num_reused_tokens; /* prompt tokens taken from the prefix cache */
  uint64_t num_output_tokens; /* so far, of this sequence */
  uint64_t arrival_ns;        /* 0 where it has not happened */
  uint64_t first_scheduled_ns;
  uint64_t first_token_ns;
  uint64_t last_token_ns;
  /* [num_prompt_logprobs][prompt_logprobs_per_token], of prompt tokens 1, 2, ...: the token that is
   * there, then the best ones; NULL when there are none */
  const enginery_logprob* prompt_logprobs;
  uint64_t num_prompt_logprobs;       /* num_prompt_tokens - 1 */
  uint64_t prompt_logprobs_per_token; /* 0: they are not in this event */
} enginery_event;

typedef struct enginery_events enginery_events;
/* Waits up to timeout_ms (0: not at all, -1: for ever) for events and hands over all there are,
 * in order. On timeout ENGINERY_OK with an empty list; after shutdown and the last event
 * ENGINERY_SHUT_DOWN. *events is set on ENGINERY_OK and must be freed. */
ENGINERY_API enginery_status enginery_runtime_poll(enginery_runtime* runtime, int64_t timeout_ms,
                                                   enginery_events** events);
ENGINERY_API uint64_t enginery_events_count(const enginery_events* events);
/* NULL when index is out of range. */
ENGINERY_API const enginery_event* enginery_events_get(const enginery_events* events,
                                                       uint64_t index);
ENGINERY_API void enginery_events_free(enginery_events* events);

/* ---- Statistics ------------------------------------------------------------------------------ */

#define ENGINERY_STEP_TIME_NS 100000u
#define ENGINERY_NUM_STEP_TIMES 25
typedef struct enginery_stats {
  uint64_t abi_size; /* set by the caller */
  uint64_t num_iterations;
  uint64_t num_waiting;       /* requests not yet admitted (preempted sequences included) */
  uint64_t num_running;       /* sequences in flight */
  uint64_t num_blocks;        /* KV blocks in all */
  uint64_t num_free_blocks;   /* can be had at once: never used, or cached and evictable */
  uint64_t num_cached_blocks; /* of the free ones: hold a reusable prefix */
  uint64_t num_requests;      /* submitted since start */
  uint64_t num_finished;      /* ended, for whatever reason */
  uint64_t num_preemptions;
  uint64_t num_prompt_tokens; /* of admitted requests */
  uint64_t num_reused_tokens;
  uint64_t num_output_tokens;
  uint64_t step_ns;      /* time spent in steps, in all */
  uint64_t scheduler_ns; /* of it: not in the executor */
  uint64_t block_bytes;
  uint64_t workspace_bytes;
  uint64_t num_scheduled_tokens; /* packed tokens of all steps */
  /* Steps by how long they took: entry i counts those of at most ENGINERY_STEP_TIME_NS << i, and
   * of more than the entry before it; the last one all that took longer */
  uint64_t step_time_counts[ENGINERY_NUM_STEP_TIMES];
} enginery_stats;
ENGINERY_API enginery_status enginery_runtime_stats(enginery_runtime* runtime,
                                                    enginery_stats* stats);
/* The last iterations as a JSON array, oldest first; the caller frees it with
 * enginery_string_free:
 * [{"iteration", "start_ns", "duration_ns", "executor_ns", "num_sequences", "num_prefill_tokens",
 *   "num_decode_tokens", "num_waiting", "num_used_blocks", "num_preempted"}] */
ENGINERY_API enginery_status enginery_runtime_iterations_json(enginery_runtime* runtime,
                                                              char** json);
/* "amx", "avx512", "avx2", "portable", or the name of the executor. Lives as long as the runtime.
 */
ENGINERY_API const char* enginery_runtime_executor_name(const enginery_runtime* runtime);

/* ---- Profile --------------------------------------------------------------------------------- *
 * Where a step's time goes. Of the built-in executor only: with others both functions of the
 * runtime return ENGINERY_NOT_SUPPORTED. Off by default; then it costs nothing, and on two readings
 * of the clock per op. It changes no result. */

/* enable = 1: forgets what was measured and measures from the next step on; 0: stops, and keeps
 * what was measured. */
ENGINERY_API enginery_status enginery_runtime_set_profiling(enginery_runtime* runtime,
                                                            int32_t enable);

/* All calls of one kind of op in one step. Strings live as long as the enginery_profile. */
typedef struct enginery_profile_record {
  uint64_t iteration; /* of the step, as in enginery_runtime_iterations_json */
  /* "embed", "rms_norm", "linear", "kv_append", "paged_attention", "silu_mul", "scale_columns",
   * "group_sums", "gather_rows", "add", "all_reduce", "all_gather"; of ops that run as one
   * "linear+silu_mul"; "rope": the step's cosines and sines; and "sample": its greedy tokens */
  const char* op;
  const char* role; /* of a linear's weight: "qkv_proj", "lm_head", ...; "" for other ops */
  const char* unit; /* what its products multiply: "f32", "bf16", "i8"; "": it has none */
  uint64_t num_calls;
  uint64_t duration_ns; /* in all */
  /* In all, of weights and KV read or written, each once per call: what must come from memory.
   * Activations are not counted: caches hold them */
  uint64_t bytes;
  uint64_t operations; /* in all, of its products; a multiply-add counts two */
} enginery_profile_record;

typedef struct enginery_profile enginery_profile;
/* The records of the last steps measured (1024 at most), oldest first, those of a step in the order
 * of its ops. *profile is set on ENGINERY_OK and must be freed; it may outlive the runtime. */
ENGINERY_API enginery_status enginery_runtime_profile(enginery_runtime* runtime,
                                                      enginery_profile** profile);
ENGINERY_API uint64_t enginery_profile_count(const enginery_profile* profile);
/* NULL when index is out of range. */
ENGINERY_API const enginery_profile_record* enginery_profile_get(const enginery_profile* profile,
                                                                 uint64_t index);
ENGINERY_API void enginery_profile_free(enginery_profile* profile);

/* What this machine does at most, as short loops find it: what a profile is compared with. */
typedef struct enginery_machine_limits {
  uint64_t abi_size; /* set by the caller */
  /* bytes per second, all threads reading a buffer that no cache holds (1 GiB at most, less where
   * memory is short: buffer_bytes) */
  double memory_bandwidth;
  uint64_t buffer_bytes;
  /* Operations per second of all threads in the instructions that the kernels multiply with, all
   * operands in registers; 0: not known (isa "portable") */
  double f32_peak;
  double bf16_peak;
  double i8_peak;
  int64_t num_threads; /* that measured */
} enginery_machine_limits;

/* Takes about a second, and all of num_threads CPUs meanwhile. `isa` as in the runtime options,
 * NULL as "auto"; num_threads 0: as many as this process may run on. The best of several rounds:
 * other load on the machine lowers it all the same. */
ENGINERY_API enginery_status enginery_measure_limits(const char* isa, int32_t num_threads,
                                                     enginery_machine_limits* limits);

#ifdef __cplusplus
} /* extern "C" */
#endif
#endif /* ENGINERY_ENGINERY_H_ */
