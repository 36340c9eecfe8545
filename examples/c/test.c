/* Every function of forge.h, used as it should be and as it should not. Prints what is wrong; silent when all is well.
 *
 *   test CALL.forge FULL.forge TOOLS.forge THINKING.forge
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "forge.h"

static int failures;

#define CHECK(what)                                                      \
  do {                                                                   \
    if (!(what)) {                                                       \
      fprintf(stderr, "test.c:%d: not so: %s\n", __LINE__, #what);       \
      failures++;                                                        \
    }                                                                    \
  } while (0)
#define GIVES(status, call) CHECK((call) == FORGE_STATUS_##status)

/* A file in memory of exactly its size, so that a sanitiser sees every step beyond it. */
static void *read_file(const char *path, size_t *length) {
  FILE *in = fopen(path, "rb");
  void *bytes;
  long end;
  if (in == NULL || fseek(in, 0, SEEK_END) != 0 || (end = ftell(in)) <= 0) exit(2);
  rewind(in);
  *length = (size_t)end;
  bytes = malloc(*length);
  if (bytes == NULL || fread(bytes, 1, *length, in) != *length) exit(2);
  fclose(in);
  return bytes;
}

static void opening(const unsigned char *file, size_t length) {
  static ForgeModel model, moved;
  ForgeInfo info;
  size_t i;
  unsigned char *damaged = malloc(length);
  GIVES(HANDLE, forge_model_info(&model, &info));
  GIVES(NULL, forge_model_open(NULL, file, length));
  GIVES(NULL, forge_model_open(&model, NULL, length));
  GIVES(LENGTH, forge_model_open(&model, file, (size_t)-1));
  GIVES(UNALIGNED, forge_model_open((ForgeModel *)((char *)&model + 1), file, length));
  GIVES(FILE_TRUNCATED, forge_model_open(&model, NULL, 0));
  GIVES(FILE_TRUNCATED, forge_model_open(&model, file, length - 1));
  GIVES(OK, forge_model_open(&model, file, length));
  GIVES(OK, forge_model_info(&model, &info));
  GIVES(NULL, forge_model_info(&model, NULL));
  CHECK(info.vocab > 256 && info.dim > 0 && info.layers > 0 && info.window > 0);
  memcpy(&moved, &model, sizeof model);
  GIVES(HANDLE, forge_model_info(&moved, &info));
  /* One bit anywhere is noticed, and closes the handle. */
  for (i = 0; i < length; i += 97) {
    memcpy(damaged, file, length);
    damaged[i] ^= 4;
    CHECK(forge_model_open(&model, damaged, length) >= FORGE_STATUS_FILE_MAGIC);
    GIVES(HANDLE, forge_model_info(&model, &info));
  }
  free(damaged);
}

/* The memory a session says it needs is what it touches, and less is refused. */
static void memory_is_exact(const ForgeModel *model) {
  static ForgeSession session;
  ForgeOptions portable = {0, 1, NULL};
  size_t size, i;
  unsigned char *memory;
  GIVES(OK, forge_workspace_size(model, &portable, &size));
  memory = malloc(size + 64);
  memset(memory, 0xA5, size + 64);
  GIVES(BUFFER, forge_session_open(&session, model, &portable, memory, size - 1));
  GIVES(HANDLE, forge_reset(&session));
  GIVES(BUFFER, forge_session_open(&session, model, &portable, memory + 1, size));
  GIVES(OK, forge_session_open(&session, model, &portable, memory, size + 64));
  for (i = 0; i < 100; i++) GIVES(OK, forge_feed(&session, (uint16_t)(i % 200)));
  for (i = size; i < size + 64; i++) CHECK(memory[i] == 0xA5);
  free(memory);
}

/* Token by token, in blocks, with prepared weights, from a snapshot: the same logits. */
static void one_result(const ForgeModel *model, uint32_t vocab) {
  static ForgeSession plain, fast;
  static ForgePrepared prepared;
  static const uint16_t tokens[] = {20, 97, 105, 125, 22, 106, 52, 28, 233, 74, 100, 113};
  const size_t count = sizeof tokens / sizeof *tokens;
  ForgeOptions options = {4, 0, &prepared};
  size_t sizes[4], i;
  uint32_t position;
  float *want, *got;
  void *parts[4];
  GIVES(HANDLE, forge_workspace_size(model, &options, &sizes[1]));
  GIVES(OK, forge_prepared_size(model, &sizes[0]));
  parts[0] = malloc(sizes[0]);
  if (sizes[0] > 0) GIVES(BUFFER, forge_prepare(&prepared, model, parts[0], sizes[0] - 1));
  GIVES(OK, forge_prepare(&prepared, model, parts[0], sizes[0]));
  GIVES(OK, forge_workspace_size(model, &options, &sizes[1]));
  GIVES(OK, forge_workspace_size(model, NULL, &sizes[2]));
  parts[1] = malloc(sizes[1]);
  parts[2] = malloc(sizes[2]);
  GIVES(OK, forge_session_open(&fast, model, &options, parts[1], sizes[1]));
  GIVES(OK, forge_session_open(&plain, model, NULL, parts[2], sizes[2]));
  for (i = 0; i + 1 < count; i++) GIVES(OK, forge_feed(&plain, tokens[i]));
  GIVES(OK, forge_prefill(&fast, tokens, count - 1));
  GIVES(OK, forge_snapshot_size(&plain, &sizes[3]));
  parts[3] = malloc(sizes[3]);
  GIVES(BUFFER, forge_snapshot(&plain, parts[3], sizes[3] - 1));
  GIVES(OK, forge_snapshot(&plain, parts[3], sizes[3]));
  GIVES(OK, forge_step(&plain, tokens[count - 1], &want));
  GIVES(OK, forge_step(&fast, tokens[count - 1], &got));
  CHECK(memcmp(want, got, vocab * sizeof *want) == 0);
  memset(got, 0, vocab * sizeof *got);
  GIVES(OK, forge_restore(&fast, parts[3], sizes[3]));
  GIVES(OK, forge_position(&fast, &position));
  CHECK(position == count - 1);
  GIVES(OK, forge_step(&fast, tokens[count - 1], &got));
  CHECK(memcmp(want, got, vocab * sizeof *want) == 0);
  ((unsigned char *)parts[3])[sizes[3] / 2] ^= 1;
  GIVES(SNAPSHOT, forge_restore(&fast, parts[3], sizes[3]));
  GIVES(OK, forge_position(&fast, &position));
  CHECK(position == 0);
  GIVES(TOKEN, forge_feed(&fast, 65535));
  GIVES(NULL, forge_step(&fast, 1, NULL));
  GIVES(NULL, forge_prefill(&fast, NULL, 3));
  GIVES(OK, forge_prefill(&fast, NULL, 0));
  for (i = 0; i < 4; i++) free(parts[i]);
}

static void sampling(void) {
  float logits[4] = {0.5f, 2.0f, 1.0f, -1.0f}, copy[4];
  ForgeSampler one, other;
  uint16_t a, b;
  int i, different = 0;
  GIVES(OK, forge_sampler_init(&one, 0.0f, 1));
  memcpy(copy, logits, sizeof copy);
  GIVES(OK, forge_sample(&one, copy, 4, NULL, 0, &a));
  CHECK(a == 1);
  GIVES(OK, forge_sampler_init(&one, 1.5f, 7));
  GIVES(OK, forge_sampler_init(&other, 1.5f, 7));
  for (i = 0; i < 50; i++) {
    memcpy(copy, logits, sizeof copy);
    GIVES(OK, forge_sample(&one, copy, 4, NULL, 0, &a));
    memcpy(copy, logits, sizeof copy);
    GIVES(OK, forge_sample(&other, copy, 4, NULL, 0, &b));
    CHECK(a == b && a < 4);
    different += a != 1;
  }
  CHECK(different > 0);
  GIVES(NULL, forge_sample(&one, NULL, 4, NULL, 0, &a));
  GIVES(NULL, forge_sample(NULL, copy, 4, NULL, 0, &a));
  GIVES(NULL, forge_sample(&one, copy, 4, NULL, 0, NULL));
}

static void texts(const ForgeModel *model) {
  static const char text[] = "Hello, w\xc3\xb6rld";
  uint16_t ids[32], bos;
  unsigned char piece[64];
  char whole[64] = "";
  size_t count, length, i, at = 0;
  GIVES(BUFFER, forge_encode(model, text, sizeof text - 1, ids, 3, &count));
  GIVES(OK, forge_encode(model, text, sizeof text - 1, ids, 32, &count));
  for (i = 0; i < count; i++) {
    GIVES(OK, forge_decode(model, ids[i], piece, sizeof piece, &length));
    memcpy(whole + at, piece, length);
    at += length;
  }
  CHECK(at == sizeof text - 1 && memcmp(whole, text, at) == 0);
  GIVES(BUFFER, forge_decode(model, ids[0], piece, 0, &length));
  GIVES(TOKEN, forge_decode(model, 65535, piece, sizeof piece, &length));
  GIVES(OK, forge_control(model, "<bos>", 5, &bos));
  GIVES(CONTROL, forge_control(model, "<nothing>", 9, &bos));
  GIVES(UTF8, forge_control(model, "\xff", 1, &bos));
  GIVES(OK, forge_prompt(model, "be brief", 8, "hi", 2, ids, 32, &count));
  CHECK(count >= 5 && ids[0] == bos);
  GIVES(OK, forge_encode(model, "text", 4, ids, 32, &count));
  GIVES(BUFFER, forge_render(model, ids, count, whole, 4, &length));
  CHECK(length == 4 && whole[0] == 0);
  GIVES(OK, forge_render(model, ids, count, whole, 5, &length));
  CHECK(length == 4 && strcmp(whole, "text") == 0);
}

static void replies(const ForgeModel *model) {
  static const char want[] = "{\"tool\":\"set_light\",\"args\":{\"room\":\"salon\",\"level\":\"20\"}}";
  static ForgeSession session;
  uint16_t scratch[64];
  char answer[128];
  ForgeSampler sampler;
  size_t size, length;
  void *memory;
  GIVES(OK, forge_workspace_size(model, NULL, &size));
  memory = malloc(size);
  GIVES(OK, forge_session_open(&session, model, NULL, memory, size));
  GIVES(OK, forge_reply(model, &session, NULL, "anything", 8, scratch, 64, 64, answer, sizeof answer, &length));
  CHECK(strcmp(answer, want) == 0 && length == sizeof want - 1);
  GIVES(OK, forge_sampler_init(&sampler, 0.01f, 3));
  GIVES(OK, forge_reply(model, &session, &sampler, "", 0, scratch, 64, 64, answer, sizeof answer, &length));
  CHECK(strcmp(answer, want) == 0);
  GIVES(OK, forge_reply(model, &session, NULL, "x", 1, scratch, 64, 0, answer, sizeof answer, &length));
  CHECK(length == 0);
  GIVES(BUFFER, forge_reply(model, &session, NULL, "x", 1, scratch, 2, 64, answer, sizeof answer, &length));
  GIVES(BUFFER, forge_reply(model, &session, NULL, "x", 1, scratch, 64, 64, answer, sizeof want - 1, &length));
  CHECK(length == sizeof want - 1);
  free(memory);
}

/* Held to the tools the file lists, the level stops where it would leave its range; without tools nothing is called. */
static void calls(const ForgeModel *tools, const ForgeModel *none) {
  static const char want[] = "{\"tool\":\"set_light\",\"args\":{\"room\":\"salon\",\"level\":\"2\"}}";
  static ForgeSession session, other;
  uint16_t scratch[64];
  char answer[128];
  size_t size, length;
  void *memory[2];
  GIVES(OK, forge_workspace_size(tools, NULL, &size));
  memory[0] = malloc(size);
  GIVES(OK, forge_session_open(&session, tools, NULL, memory[0], size));
  GIVES(OK, forge_call(tools, &session, NULL, "anything", 8, scratch, 64, 64, answer, sizeof answer, &length));
  CHECK(strcmp(answer, want) == 0);
  GIVES(BUDGET, forge_call(tools, &session, NULL, "anything", 8, scratch, 64, 1, answer, sizeof answer, &length));
  GIVES(OK, forge_workspace_size(none, NULL, &size));
  memory[1] = malloc(size);
  GIVES(OK, forge_session_open(&other, none, NULL, memory[1], size));
  GIVES(BUDGET, forge_call(none, &other, NULL, "anything", 8, scratch, 64, 64, answer, sizeof answer, &length));
  free(memory[0]);
  free(memory[1]);
}

/* The model says what it thinks before its answer, or another answer at once. */
static void thoughts(const ForgeModel *model) {
  static const struct {
    uint32_t budget, show;
    const char *want;
  } cases[] = {
      {0, 0, "5"},  {0, 1, "5"},  {4, 0, "45"}, {4, 1, "<think>12+3</think>45"}, {UINT32_MAX, 1, "<think>12+3</think>45"},
      {2, 0, "45"}, {2, 1, "<think>12</think>45"},
  };
  static ForgeSession session;
  uint16_t scratch[64];
  char answer[128];
  size_t size, length, i;
  void *memory;
  GIVES(OK, forge_workspace_size(model, NULL, &size));
  memory = malloc(size);
  GIVES(OK, forge_session_open(&session, model, NULL, memory, size));
  for (i = 0; i < sizeof cases / sizeof *cases; i++) {
    GIVES(OK, forge_think(model, &session, NULL, "anything", 8, cases[i].budget, cases[i].show, scratch, 64, 64, answer,
                          sizeof answer, &length));
    CHECK(strcmp(answer, cases[i].want) == 0 && length == strlen(cases[i].want));
  }
  GIVES(OK, forge_reply(model, &session, NULL, "anything", 8, scratch, 64, 64, answer, sizeof answer, &length));
  CHECK(strcmp(answer, "<think>12+3</think>45") == 0);
  /* The thought counts, and what ends within it says nothing. */
  GIVES(OK, forge_think(model, &session, NULL, "x", 1, 4, 0, scratch, 64, 3, answer, sizeof answer, &length));
  CHECK(length == 0 && answer[0] == 0);
  GIVES(OK, forge_think(model, &session, NULL, "x", 1, 4, 0, scratch, 64, 8, answer, sizeof answer, &length));
  CHECK(strcmp(answer, "4") == 0);
  GIVES(NULL, forge_think(model, NULL, NULL, "x", 1, 4, 0, scratch, 64, 64, answer, sizeof answer, &length));
  free(memory);
}

int main(int argc, char **argv) {
  static ForgeModel call, full, tools, thinking;
  void *files[4];
  size_t lengths[4];
  ForgeInfo info;
  if (argc != 5) return 2;
  files[0] = read_file(argv[1], &lengths[0]);
  files[1] = read_file(argv[2], &lengths[1]);
  files[2] = read_file(argv[3], &lengths[2]);
  files[3] = read_file(argv[4], &lengths[3]);
  CHECK(strlen(forge_version()) > 4 && strcmp(forge_status_message(0), "success") == 0);
  opening(files[1], lengths[1]);
  GIVES(OK, forge_model_open(&call, files[0], lengths[0]));
  GIVES(OK, forge_model_open(&full, files[1], lengths[1]));
  GIVES(OK, forge_model_open(&tools, files[2], lengths[2]));
  GIVES(OK, forge_model_open(&thinking, files[3], lengths[3]));
  GIVES(OK, forge_model_info(&full, &info));
  memory_is_exact(&full);
  one_result(&full, info.vocab);
  sampling();
  texts(&full);
  replies(&call);
  calls(&tools, &call);
  thoughts(&thinking);
  free(files[0]);
  free(files[1]);
  free(files[2]);
  free(files[3]);
  return failures > 0;
}
