/* SPDX-License-Identifier: Apache-2.0
 *
 * Time from opening an engine to its first token through the C interface, as a process that starts
 * from nothing sees it.
 *
 *   first_token ENGINE [NUM_PROMPT_TOKENS=16] [NUM_THREADS=0]
 *
 * Prints one JSON object; times in milliseconds. Run it twice and take the second: the first fills
 * the page cache.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "enginery/enginery.h"

static double now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void check(enginery_status status, const char* what) {
  if (status == ENGINERY_OK) return;
  fprintf(stderr, "%s: %s: %s\n", what, enginery_status_name(status), enginery_last_error());
  exit(1);
}

static double kilobytes_of(const char* field) {
  char line[256];
  double value = -1;
  FILE* status = fopen("/proc/self/status", "r");
  if (status == NULL) return value;
  while (fgets(line, sizeof line, status) != NULL) {
    char format[64];
    snprintf(format, sizeof format, "%s: %%lf kB", field);
    if (sscanf(line, format, &value) == 1) break;
  }
  fclose(status);
  return value;
}

int main(int argc, char** argv) {
  if (argc < 2) {
    fprintf(stderr, "usage: first_token ENGINE [NUM_PROMPT_TOKENS] [NUM_THREADS]\n");
    return 2;
  }
  const int num_tokens = argc > 2 ? atoi(argv[2]) : 16;
  if (num_tokens < 1 || num_tokens > 4096) {
    fprintf(stderr, "NUM_PROMPT_TOKENS = %d: must be 1 .. 4096\n", num_tokens);
    return 2;
  }
  enginery_engine* engine = NULL;
  enginery_runtime* runtime = NULL;
  const double start = now_ms();
  check(enginery_engine_open(argv[1], &engine), "open");
  const double opened = now_ms();
  enginery_runtime_options options;
  enginery_runtime_options_init(&options, sizeof options);
  options.num_threads = argc > 3 ? atoi(argv[3]) : 0;
  check(enginery_runtime_create(engine, &options, &runtime), "create");
  const double created = now_ms();

  int32_t prompt[4096];
  for (int i = 0; i < num_tokens; ++i) prompt[i] = 100 + 7 * i % 200;
  enginery_request request;
  enginery_request_init(&request, sizeof request);
  request.prompt_token_ids = prompt;
  request.num_prompt_tokens = (uint64_t)num_tokens;
  request.max_tokens = 1;
  request.temperature = 0;
  request.ignore_eos = 1;
  uint64_t id = 0;
  check(enginery_runtime_submit(runtime, &request, &id), "submit");
  double first = 0;
  while (first == 0) {
    enginery_events* events = NULL;
    check(enginery_runtime_poll(runtime, -1, &events), "poll");
    for (uint64_t i = 0; i < enginery_events_count(events); ++i) {
      if (enginery_events_get(events, i)->num_token_ids > 0) first = now_ms();
    }
    enginery_events_free(events);
  }
  printf(
      "{\"num_prompt_tokens\": %d, \"open_ms\": %.3f, \"create_ms\": %.3f, \"first_token_ms\": "
      "%.3f, "
      "\"total_ms\": %.3f, \"executor\": \"%s\", \"peak_rss_kb\": %.0f, \"rss_anon_kb\": %.0f}\n",
      num_tokens, opened - start, created - opened, first - created, first - start,
      enginery_runtime_executor_name(runtime), kilobytes_of("VmHWM"), kilobytes_of("RssAnon"));
  enginery_runtime_destroy(runtime);
  enginery_engine_close(engine);
  return 0;
}
