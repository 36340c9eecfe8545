/* A .forge model in a C program: read the file, lend the runtime memory, ask.
 *
 *   cargo build --release -p forge-capi
 *   cc -std=c99 -Iinclude examples/c/main.c target/release/libforge.a -lm -lpthread -ldl -o forge-c
 *   ./forge-c model.forge "dim the bedroom lights to 20"
 *
 * Nothing is allocated, so that it runs on a microcontroller as it stands; see check.sh for how.
 */
#include <stdio.h>
#include <string.h>

#include "forge.h"

/* Room for the file, the session and the texts. forge_workspace_size says how much a session needs. */
#define MAX_FILE (512 * 1024)
#define MAX_MEMORY (512 * 1024)
#define MAX_PROMPT 256
#define MAX_TOKENS 64

static uint64_t file[MAX_FILE / 8];
static uint64_t memory[MAX_MEMORY / 8];
static ForgeModel model;
static ForgeSession session;

/* Says what went wrong, if anything. */
static int failed(const char *what, ForgeStatus status) {
  if (status == FORGE_STATUS_OK) return 0;
  fprintf(stderr, "error: %s: %s\n", what, forge_status_message(status));
  return 1;
}

/* Reads a file; 0 when it is missing, empty or too long. */
static size_t read_file(const char *path) {
  FILE *in = fopen(path, "rb");
  size_t length = 0;
  if (in == NULL) return 0;
  length = fread(file, 1, sizeof file, in);
  if (length == sizeof file) length = 0;
  fclose(in);
  return length;
}

int main(int argc, char **argv) {
  uint16_t tokens[MAX_PROMPT + 3];
  char answer[1024];
  size_t length, needed;
  if (argc != 3 || strlen(argv[2]) > MAX_PROMPT) {
    fprintf(stderr, "usage: forge-c MODEL.forge PROMPT\n");
    return 2;
  }
  length = read_file(argv[1]);
  if (length == 0) {
    fprintf(stderr, "error: %s: cannot be read, or is longer than %d bytes\n", argv[1], MAX_FILE - 1);
    return 2;
  }
  /* Checks all of the file, which from now on stays where it is. */
  if (failed(argv[1], forge_model_open(&model, file, length))) return 2;
  if (failed(argv[1], forge_workspace_size(&model, NULL, &needed))) return 2;
  if (needed > sizeof memory) {
    fprintf(stderr, "error: %s: needs %lu bytes of memory\n", argv[1], (unsigned long)needed);
    return 2;
  }
  if (failed("session", forge_session_open(&session, &model, NULL, memory, needed))) return 2;
  if (failed("reply", forge_reply(&model, &session, NULL, argv[2], strlen(argv[2]), tokens,
                                  MAX_PROMPT + 3, MAX_TOKENS, answer, sizeof answer, &length)))
    return 2;
  printf("%s\n", answer);
  return 0;
}
