/* The C ABI of bridge/: tokenizers and chat templates from the crates that the ecosystem itself uses.
 *
 * Handles are immutable after creation: any thread may call the functions that take a const handle. No panic
 * crosses this border; a panic inside becomes MLXF_BRIDGE_INTERNAL. Text is UTF-8 with its length in bytes and
 * no terminator. On failure a function leaves its other outputs alone and puts a message into *error; every
 * mlxf_bytes handed out, error or not, is released by mlxf_bytes_free(). Only src/text/ includes this header.
 */
#ifndef MLXF_BRIDGE_H
#define MLXF_BRIDGE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum mlxf_bridge_code {
  MLXF_BRIDGE_OK = 0,
  MLXF_BRIDGE_INVALID = 1,     /* The caller's text or request, or the template's raise_exception. */
  MLXF_BRIDGE_CORRUPT = 2,     /* A file contradicts itself or its format. */
  MLXF_BRIDGE_UNSUPPORTED = 3, /* Well-formed, but not known here. */
  MLXF_BRIDGE_BUDGET = 4,      /* A template ran too long or grew too large. */
  MLXF_BRIDGE_INTERNAL = 5
} mlxf_bridge_code;

typedef struct mlxf_bytes {
  uint8_t* data; /* Null when empty. */
  size_t size;
} mlxf_bytes;

void mlxf_bytes_free(mlxf_bytes bytes);

typedef struct mlxf_tokenizer mlxf_tokenizer;

/* Per-token flags. */
enum { MLXF_TOKEN_SPECIAL = 1, MLXF_TOKEN_CONTROL = 2, MLXF_TOKEN_GAP = 4 };

/* The vocabulary as arrays that live as long as the handle. The bytes that token i adds to decoded text are
 * bytes[offsets[i] .. offsets[i + 1]]. */
typedef struct mlxf_vocabulary {
  const uint8_t* bytes;
  const uint32_t* offsets; /* count + 1 of them. */
  const uint8_t* flags;
  size_t count;
  int32_t strips_leading_space;
} mlxf_vocabulary;

/* `json` is a tokenizer.json; `template_source` (may be empty) tells which bracketed added tokens are control
 * tokens. */
int32_t mlxf_tokenizer_create(const uint8_t* json, size_t json_size, const uint8_t* template_source,
                              size_t template_size, mlxf_tokenizer** tokenizer, mlxf_bytes* error);
void mlxf_tokenizer_destroy(mlxf_tokenizer* tokenizer);
mlxf_vocabulary mlxf_tokenizer_vocabulary(const mlxf_tokenizer* tokenizer);
/* *ids becomes an array of uint32_t in native byte order, released as its mlxf_bytes. */
int32_t mlxf_tokenizer_encode(const mlxf_tokenizer* tokenizer, const uint8_t* text, size_t text_size,
                              int32_t add_special, int32_t parse_special, mlxf_bytes* ids, mlxf_bytes* error);
/* The spelling in the vocabulary; empty for an unknown id. */
mlxf_bytes mlxf_tokenizer_spelling(const mlxf_tokenizer* tokenizer, uint32_t id);
/* The id of a spelling, or -1. */
int64_t mlxf_tokenizer_find(const mlxf_tokenizer* tokenizer, const uint8_t* text, size_t text_size);

typedef struct mlxf_template mlxf_template;

int32_t mlxf_template_create(const uint8_t* source, size_t source_size, mlxf_template** out,
                             mlxf_bytes* error);
void mlxf_template_destroy(mlxf_template* handle);
/* `trusted` and `variables` are JSON objects whose members the template sees as variables, in that order of
 * precedence; `variables` holds "messages". Strings in `variables` are guarded: the character *mark, which
 * occurs in no input, follows each character that may begin a control token, and goes wherever the string goes
 * in *output. `now_seconds` is what strftime_now formats. */
int32_t mlxf_template_render(const mlxf_template* handle, const uint8_t* trusted, size_t trusted_size,
                             const uint8_t* variables, size_t variables_size, int64_t now_seconds,
                             mlxf_bytes* output, uint32_t* mark, mlxf_bytes* error);

/* What the grammars of one tokenizer share. Copies what it needs: the tokenizer may go first. */
typedef struct mlxf_grammars mlxf_grammars;
typedef struct mlxf_grammar mlxf_grammar;
/* The one handle that changes: one thread at a time. */
typedef struct mlxf_matcher mlxf_matcher;

typedef enum mlxf_grammar_kind {
  MLXF_GRAMMAR_JSON_SCHEMA = 0,
  MLXF_GRAMMAR_REGEX = 1, /* Of the whole text, in the syntax of Rust's regex crate. */
  MLXF_GRAMMAR_LARK = 2,
  /* JSON: {"lark": a grammar, in which special tokens are <[id]>, "schemas": [{"name": as in the grammar's @name,
     "of": what it describes, "schema", "lenient": true to leave out what cannot be kept}], "tokens": the ids of the
     special tokens}. Other members are not this library's. */
  MLXF_GRAMMAR_COMPOSED = 3,
  /* JSON: {"lark": what was made of a GBNF grammar, as messages say, "tokens": the ids of the tokens that it names as
     <[id]>, "other_tokens": true if any others may stand in it, as <[^id]>}. */
  MLXF_GRAMMAR_GBNF = 4
} mlxf_grammar_kind;

/* `ends`: the tokens that end a text; may be none. */
int32_t mlxf_grammars_create(const mlxf_tokenizer* tokenizer, const uint32_t* ends, size_t end_count,
                             mlxf_grammars** out, mlxf_bytes* error);
void mlxf_grammars_destroy(mlxf_grammars* handle);
int32_t mlxf_grammar_compile(const mlxf_grammars* handle, int32_t kind, const uint8_t* text, size_t text_size,
                             mlxf_grammar** out, mlxf_bytes* error);
/* What it holds, which no matcher adds to. */
uint64_t mlxf_grammar_bytes(const mlxf_grammar* handle);
/* What the grammar does not keep of the schemas that it was made of, a line each. */
void mlxf_grammar_notes(const mlxf_grammar* handle, mlxf_bytes* out);
void mlxf_grammar_destroy(mlxf_grammar* handle);
/* At the grammar's beginning. It outlives the grammar. */
int32_t mlxf_matcher_create(const mlxf_grammar* handle, mlxf_matcher** out, mlxf_bytes* error);
void mlxf_matcher_destroy(mlxf_matcher* handle);
/* The tokens that may come next: token i is bit i % 32 of words[i / 32]. The end tokens are among them where the text
 * may end. Valid until the matcher's next call. Fails where nothing can follow a text that is not complete. */
int32_t mlxf_matcher_allowed(mlxf_matcher* handle, const uint32_t** words, size_t* word_count,
                             int32_t* may_end, mlxf_bytes* error);
/* Goes on behind `token`, which was allowed and is no end. *must_end: the text is complete, and nothing can follow. */
int32_t mlxf_matcher_accept(mlxf_matcher* handle, uint32_t token, int32_t* must_end, mlxf_bytes* error);

#ifdef __cplusplus
}
#endif

#endif
