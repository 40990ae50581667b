/* SPDX-License-Identifier: Apache-2.0
 *
 * Opens an engine and streams what follows a prompt given as token ids, in C alone:
 *
 *   cc -std=c11 -I runtime/include examples/stream.c -L DIR -lenginery -Wl,-rpath,DIR -o stream
 *   ./stream engines/demo 32 1 15043 29892
 *
 * DIR is the folder of libenginery.so. Prints the text as it comes, then a line of figures.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "enginery/enginery.h"

static int fail(const char* what) {
  fprintf(stderr, "%s: %s\n", what, enginery_last_error());
  return 1;
}

/* Prints events until the request's last. Returns 0 when it ended well. */
static int stream(enginery_runtime* runtime) {
  for (;;) {
    enginery_events* events = NULL;
    if (enginery_runtime_poll(runtime, -1, &events) != ENGINERY_OK) return fail("poll");
    for (uint64_t i = 0; i < enginery_events_count(events); ++i) {
      const enginery_event* event = enginery_events_get(events, i);
      fwrite(event->text, 1, event->text_bytes, stdout);
      fflush(stdout);
      if (!event->is_last) continue;
      const int failed = event->finish_reason == ENGINERY_FINISH_ERROR;
      if (failed) {
        fprintf(stderr, "the request failed: %s\n", event->error);
      } else {
        printf("\n%llu tokens, first after %.1f ms, last after %.1f ms\n",
               (unsigned long long)event->num_output_tokens,
               (double)(event->first_token_ns - event->arrival_ns) / 1e6,
               (double)(event->last_token_ns - event->arrival_ns) / 1e6);
      }
      enginery_events_free(events);
      return failed;
    }
    enginery_events_free(events);
  }
}

static int run(enginery_engine* engine, const enginery_request* request) {
  enginery_runtime_options options;
  enginery_runtime_options_init(&options, sizeof options);
  enginery_runtime* runtime = NULL;
  if (enginery_runtime_create(engine, &options, &runtime) != ENGINERY_OK) {
    return fail("runtime_create");
  }
  uint64_t id = 0;
  const int result = enginery_runtime_submit(runtime, request, &id) == ENGINERY_OK ? stream(runtime)
                                                                                   : fail("submit");
  enginery_runtime_destroy(runtime);
  return result;
}

/* A whole decimal number in [low, high]; ends the program otherwise. */
static int64_t number(const char* text, int64_t low, int64_t high) {
  char* end = NULL;
  errno = 0;
  const long long value = strtoll(text, &end, 10);
  if (end == text || *end != '\0' || errno != 0 || value < low || value > high) {
    fprintf(stderr, "\"%s\" is not a number from %lld to %lld\n", text, (long long)low,
            (long long)high);
    exit(2);
  }
  return value;
}

int main(int argc, char** argv) {
  if (argc < 4) {
    fprintf(stderr, "usage: %s ENGINE MAX_TOKENS TOKEN_ID...\n", argv[0]);
    return 2;
  }
  const int num_prompt_tokens = argc - 3;
  int32_t* prompt = malloc((size_t)num_prompt_tokens * sizeof *prompt);
  if (prompt == NULL) return 1;
  for (int i = 0; i < num_prompt_tokens; ++i) {
    prompt[i] = (int32_t)number(argv[3 + i], INT32_MIN, INT32_MAX);
  }
  enginery_request request;
  enginery_request_init(&request, sizeof request);
  request.prompt_token_ids = prompt; /* read by submit, not kept */
  request.num_prompt_tokens = (uint64_t)num_prompt_tokens;
  request.max_tokens = number(argv[2], INT64_MIN, INT64_MAX);
  request.temperature = 0.0f; /* greedy */

  enginery_engine* engine = NULL;
  int result = 1;
  if (enginery_engine_open(argv[1], &engine) != ENGINERY_OK) {
    fail(argv[1]);
  } else {
    result = run(engine, &request);
  }
  enginery_engine_close(engine);
  free(prompt);
  return result;
}
