/* The forge runtime: runs .forge language models without heap or panics, the same bits on every target.
 *
 * Nothing is allocated: handles are structs of fixed size that you put where you like, and a session works in memory
 * you lend it. Every function that can fail returns a ForgeStatus.
 *
 * What you promise, because it cannot be checked (null pointers, alignment, lengths, and handles that were never opened
 * or have been moved are found and refused):
 *
 *  1. A pointer with a length points to that many elements, which nobody else writes during the call, and nobody else
 *     reads if the function writes them. Null is allowed where the length is 0.
 *  2. What a handle was opened with stays where it is, unchanged, until the handle is used for the last time: the file
 *     under a ForgeModel; the model, the ForgePrepared and the memory under a ForgeSession. Lent memory belongs to one
 *     handle at a time. There is nothing to close: a handle that is no longer used may be overwritten.
 *  3. A handle that was not opened is zeroed, or at least never was opened at this place. It is not moved after opening.
 *  4. A session and a sampler are used by one thread at a time. A model may be shared by threads.
 */

#ifndef FORGE_H
#define FORGE_H

/* Made by cbindgen from forge-runtime/src/capi: change that, then run examples/c/check.sh --write. */

#include <stddef.h>
#include <stdint.h>

/*
 How a call ended. Numbers never change; new ones may come.
 */
enum ForgeStatus
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /*
   All went well.
   */
  FORGE_STATUS_OK = 0,
  /*
   A pointer is null that must not be.
   */
  FORGE_STATUS_NULL = 1,
  /*
   A pointer is not aligned for what it points to.
   */
  FORGE_STATUS_UNALIGNED = 2,
  /*
   A length is larger than any memory.
   */
  FORGE_STATUS_LENGTH = 3,
  /*
   A handle was never opened, or has been moved since.
   */
  FORGE_STATUS_HANDLE = 4,
  /*
   Memory or room for results is too small.
   */
  FORGE_STATUS_BUFFER = 5,
  /*
   A token id is outside the vocabulary.
   */
  FORGE_STATUS_TOKEN = 6,
  /*
   The session has read as many tokens as it can; reset it.
   */
  FORGE_STATUS_POSITION = 7,
  /*
   The bytes are no snapshot of a session of this model.
   */
  FORGE_STATUS_SNAPSHOT = 8,
  /*
   The tokenizer has no such control token.
   */
  FORGE_STATUS_CONTROL = 9,
  /*
   Text that must be UTF-8 is not.
   */
  FORGE_STATUS_UTF8 = 10,
  /*
   The file lists no tools, or a call may take more tokens than are allowed.
   */
  FORGE_STATUS_BUDGET = 12,
  /*
   An error of a newer runtime than this header.
   */
  FORGE_STATUS_OTHER = 11,
  /*
   The bytes are not a .forge file.
   */
  FORGE_STATUS_FILE_MAGIC = 100,
  /*
   The file was written by a newer version.
   */
  FORGE_STATUS_FILE_VERSION = 101,
  /*
   The file ends too early.
   */
  FORGE_STATUS_FILE_TRUNCATED = 102,
  /*
   The file has bytes where none may be.
   */
  FORGE_STATUS_FILE_TRAILING = 103,
  /*
   The file is damaged: a checksum does not match.
   */
  FORGE_STATUS_FILE_CHECKSUM = 104,
  /*
   The file's manifest is malformed.
   */
  FORGE_STATUS_FILE_MANIFEST = 105,
  /*
   A size of the model is out of range.
   */
  FORGE_STATUS_FILE_CONFIG = 106,
  /*
   A section lies outside the file, misaligned, or on another.
   */
  FORGE_STATUS_FILE_LAYOUT = 107,
  /*
   A tensor is missing, repeated or of the wrong shape.
   */
  FORGE_STATUS_FILE_TENSOR = 108,
  /*
   A tensor's payload is invalid.
   */
  FORGE_STATUS_FILE_CODEC = 109,
  /*
   The tokenizer table is invalid.
   */
  FORGE_STATUS_FILE_TOKENIZER = 110,
  /*
   The tool table is invalid.
   */
  FORGE_STATUS_FILE_TOOLS = 111,
  /*
   The model card is not UTF-8.
   */
  FORGE_STATUS_FILE_CARD = 112,
  /*
   The library was built without a codec that the file uses.
   */
  FORGE_STATUS_FILE_FEATURE = 113,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum ForgeStatus ForgeStatus;
#else
typedef int32_t ForgeStatus;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/*
 An opened file: see forge_model_open.
 */
typedef struct ForgeModel {
  uint64_t opaque[48];
} ForgeModel;

/*
 What a model is.
 */
typedef struct ForgeInfo {
  /*
   Number of token ids, and of logits.
   */
  uint32_t vocab;
  /*
   Positions a token attends to.
   */
  uint32_t window;
  /*
   Width of the residual stream.
   */
  uint32_t dim;
  /*
   Blocks in the stack.
   */
  uint32_t layers;
  /*
   Times the stack is applied to each token.
   */
  uint32_t recursion;
} ForgeInfo;

/*
 Weights laid out for this machine: see forge_prepare.
 */
typedef struct ForgePrepared {
  uint64_t opaque[4];
} ForgePrepared;

/*
 How a session runs. No choice changes a bit of any result. All zero, or a null pointer where options are asked for,
 is the default.
 */
typedef struct ForgeOptions {
  /*
   Tokens of a prompt read at a time; 0 is 1.
   */
  uint32_t block;
  /*
   Not 0: the portable kernels, whatever the machine has.
   */
  uint32_t portable;
  /*
   Weights that forge_prepare has laid out from the same model, or null.
   */
  const struct ForgePrepared *prepared;
} ForgeOptions;

/*
 How the next token is chosen. forge_sampler_init fills it in; every number may be changed after that.
 */
typedef struct ForgeSampler {
  /*
   Divides the logits; 0 or less takes the most likely token.
   */
  float temperature;
  /*
   Keeps the `top_k` most likely tokens; 0 for all.
   */
  uint32_t top_k;
  /*
   Keeps the fewest most likely tokens that together have at least this probability; 1 for all.
   */
  float top_p;
  /*
   Keeps tokens at least this many times as likely as the most likely one; 0 for all.
   */
  float min_p;
  /*
   Divides the positive and multiplies the negative logits of recent tokens; 1 for none.
   */
  float repetition_penalty;
  /*
   Where draws come from.
   */
  uint32_t random[4];
} ForgeSampler;

/*
 A sequence of tokens: see forge_session_open.
 */
typedef struct ForgeSession {
  uint64_t opaque[104];
} ForgeSession;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/*
 Opens a .forge file that lies in memory (flash will do), after checking all of it: structure, content, checksums.
 Takes time linear in its length and no memory. The file must stay where it is while the model is used.
 */
ForgeStatus forge_model_open(struct ForgeModel *model,
                             const void *file,
                             size_t len);

/*
 Tells what a model is.
 */
ForgeStatus forge_model_info(const struct ForgeModel *model, struct ForgeInfo *info);

/*
 Bytes of memory a session with these options needs, exactly.
 */
ForgeStatus forge_workspace_size(const struct ForgeModel *model,
                                 const struct ForgeOptions *options,
                                 size_t *bytes);

/*
 Bytes of memory forge_prepare needs.
 */
ForgeStatus forge_prepared_size(const struct ForgeModel *model, size_t *bytes);

/*
 Lays a model's weights out for this machine in lent memory, best aligned to 64 bytes: sessions that use them run
 several times as fast on machines with vector registers. The memory must stay while the weights are used.
 */
ForgeStatus forge_prepare(struct ForgePrepared *prepared,
                          const struct ForgeModel *model,
                          void *memory,
                          size_t len);

/*
 Sets a sampler up that draws from the model's own distribution at a temperature; 0 always takes the most likely
 token. The same seed gives the same tokens on every machine.
 */
ForgeStatus forge_sampler_init(struct ForgeSampler *sampler,
                               float temperature,
                               uint64_t seed);

/*
 Chooses a token by its logits, which are used up. `recent` are the tokens the repetition penalty applies to.
 */
ForgeStatus forge_sample(struct ForgeSampler *sampler,
                         float *logits,
                         size_t vocab,
                         const uint16_t *recent,
                         size_t recent_len,
                         uint16_t *token);

/*
 Begins a sequence of tokens in lent memory of at least forge_workspace_size bytes, aligned to 4; what is beyond them
 is not touched. Model, options' prepared weights and memory must stay while the session is used. `options` may be
 null.
 */
ForgeStatus forge_session_open(struct ForgeSession *session,
                               const struct ForgeModel *model,
                               const struct ForgeOptions *options,
                               void *memory,
                               size_t len);

/*
 Forgets all tokens.
 */
ForgeStatus forge_reset(struct ForgeSession *session);

/*
 Number of tokens read.
 */
ForgeStatus forge_position(const struct ForgeSession *session, uint32_t *position);

/*
 Reads a token without computing logits.
 */
ForgeStatus forge_feed(struct ForgeSession *session, uint16_t token);

/*
 Reads tokens without computing logits, the options' block at a time: all but the last token of a prompt. None is
 read if any is outside the vocabulary.
 */
ForgeStatus forge_prefill(struct ForgeSession *session,
                          const uint16_t *tokens,
                          size_t len);

/*
 Reads a token and gives the logits of the next, one for every id. They lie in the session's memory until the session
 is used again, and may be changed there.
 */
ForgeStatus forge_step(struct ForgeSession *session,
                       uint16_t token,
                       float **logits);

/*
 Bytes forge_snapshot writes now.
 */
ForgeStatus forge_snapshot_size(const struct ForgeSession *session, size_t *bytes);

/*
 Writes what the session remembers to `out`, forge_snapshot_size bytes: the same on every machine.
 */
ForgeStatus forge_snapshot(const struct ForgeSession *session, void *out, size_t capacity);

/*
 Goes on from a snapshot of a session of the same model, taken on any machine with any options. When that fails, the
 session is reset.
 */
ForgeStatus forge_restore(struct ForgeSession *session,
                          const void *snapshot,
                          size_t len);

/*
 What a status means, in English; never null. The text is static.
 */
const char *forge_status_message(int32_t status);

/*
 The runtime's version, such as "0.1.0"; static text.
 */
const char *forge_version(void);

/*
 Encodes text, any bytes, as token ids. As many places as the text has bytes always suffice.
 */
ForgeStatus forge_encode(const struct ForgeModel *model,
                         const char *text,
                         size_t len,
                         uint16_t *tokens,
                         size_t capacity,
                         size_t *count);

/*
 Writes `<bos> [system <sys>] text <sep>` as token ids: what a model is asked with. `system` may be null, for none.
 As many places as both texts have bytes, and three, always suffice.
 */
ForgeStatus forge_prompt(const struct ForgeModel *model,
                         const char *system,
                         size_t system_len,
                         const char *text,
                         size_t len,
                         uint16_t *tokens,
                         size_t capacity,
                         size_t *count);

/*
 The bytes of a token, at most 64; none for special tokens. They may be part of a character.
 */
ForgeStatus forge_decode(const struct ForgeModel *model,
                         uint16_t token,
                         uint8_t *out,
                         size_t capacity,
                         size_t *len);

/*
 The id of a control token such as "<eos>", by its name.
 */
ForgeStatus forge_control(const struct ForgeModel *model,
                          const char *name,
                          size_t len,
                          uint16_t *token);

/*
 Writes a completion up to its `<eos>` as UTF-8 text with a NUL after it: a tool call as JSON, anything else as its
 text. `len` is the text's length without the NUL, also when it did not fit and FORGE_STATUS_BUFFER is returned.
 */
ForgeStatus forge_render(const struct ForgeModel *model,
                         const uint16_t *tokens,
                         size_t count,
                         char *out,
                         size_t capacity,
                         size_t *len);

/*
 Resets the session, asks it `text` and writes its reply as forge_render does. `sampler` may be null, to take the most
 likely tokens. `scratch` holds the prompt's ids (as many places as the text has bytes, and three, always suffice),
 then the reply's, which are at most `max_tokens` and at most as many as fit.
 */
ForgeStatus forge_reply(const struct ForgeModel *model,
                        struct ForgeSession *session,
                        struct ForgeSampler *sampler,
                        const char *text,
                        size_t text_len,
                        uint16_t *scratch,
                        size_t scratch_len,
                        size_t max_tokens,
                        char *out,
                        size_t capacity,
                        size_t *len);

/*
 As forge_reply, but the reply is always a call of one of the file's tools, with arguments that its slots take.
 */
ForgeStatus forge_call(const struct ForgeModel *model,
                       struct ForgeSession *session,
                       struct ForgeSampler *sampler,
                       const char *text,
                       size_t text_len,
                       uint16_t *scratch,
                       size_t scratch_len,
                       size_t max_tokens,
                       char *out,
                       size_t capacity,
                       size_t *len);

/*
 As forge_reply, but the reply has at most one thought, of at most `budget` tokens between its marks; 0 answers at
 once. The thought is left out of what is written unless `show` is other than 0; it counts towards `max_tokens`, so
 that a reply which these end within its thought is empty. FORGE_STATUS_CONTROL when the model cannot think.
 */
ForgeStatus forge_think(const struct ForgeModel *model,
                        struct ForgeSession *session,
                        struct ForgeSampler *sampler,
                        const char *text,
                        size_t text_len,
                        uint32_t budget,
                        uint32_t show,
                        uint16_t *scratch,
                        size_t scratch_len,
                        size_t max_tokens,
                        char *out,
                        size_t capacity,
                        size_t *len);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* FORGE_H */
