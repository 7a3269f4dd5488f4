// Prints nothing; writes the logits that llama.cpp computes for a prompt as raw little-endian f32 [tokens, vocab].
//
// Usage: llamacpp_logits MODEL.gguf OUT.bin ID...
// One thread, f32 KV cache, no flash attention and no repacked weights, so that the plain kernels are what is recorded:
// f32 arithmetic for F32 weights, int8 activations for quantised ones.
// Build: g++ -std=c++17 -O2 -I LLAMA/include -I LLAMA/ggml/include tools/reference/llamacpp_logits.cpp
//   -L LLAMA/build/bin -lllama -lggml -lggml-base -Wl,-rpath,LLAMA/build/bin -o llamacpp_logits   (llama.cpp v0.5.0)

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "llama.h"

namespace {

int fail(const char* reason) {
  std::fprintf(stderr, "llamacpp_logits: %s\n", reason);
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return fail("usage: llamacpp_logits MODEL.gguf OUT.bin ID...");
  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  llama_backend_init();

  llama_model_params model_params = llama_model_default_params();
  model_params.use_extra_bufts = false;
  llama_model* model = llama_model_load_from_file(argv[1], model_params);
  if (model == nullptr) return fail("the model does not load");

  const int tokens = argc - 3;
  llama_context_params params = llama_context_default_params();
  params.n_ctx = 256;
  params.n_batch = 256;
  params.n_ubatch = 256;
  params.n_threads = 1;
  params.n_threads_batch = 1;
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
  params.type_k = GGML_TYPE_F32;
  params.type_v = GGML_TYPE_F32;
  llama_context* context = llama_init_from_model(model, params);
  if (context == nullptr || tokens > 256) return fail("no context, or more than 256 tokens");

  llama_batch batch = llama_batch_init(tokens, 0, 1);
  batch.n_tokens = tokens;
  for (int i = 0; i < tokens; ++i) {
    batch.token[i] = std::atoi(argv[i + 3]);
    batch.pos[i] = i;
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = 0;
    batch.logits[i] = 1;
  }
  if (llama_decode(context, batch) != 0) return fail("llama_decode failed");

  std::FILE* out = std::fopen(argv[2], "wb");
  if (out == nullptr) return fail("the output cannot be written");
  const size_t vocab = static_cast<size_t>(llama_vocab_n_tokens(llama_model_get_vocab(model)));
  for (int i = 0; i < tokens; ++i) {
    if (std::fwrite(llama_get_logits_ith(context, i), sizeof(float), vocab, out) != vocab)
      return fail("short write");
  }
  const bool closed = std::fclose(out) == 0;
  llama_batch_free(batch);
  llama_free(context);
  llama_model_free(model);
  return closed ? 0 : fail("the output cannot be closed");
}
