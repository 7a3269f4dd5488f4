// tokenize: the token ids of a text, as the model's own tokenizer gives them.
#include <cstdio>
#include <memory>

#include "base/json.h"
#include "cli/commands.h"
#include "text/tokenizer.h"

namespace mlxf::cli {
namespace {

struct Flags {
  std::string model;
  std::string text;
  std::string file;
  bool special = false;
  bool bare = false;
  bool json = false;
};

Status run(const Flags& flags) {
  ModelFlags chosen;
  chosen.path = flags.model;
  ASSIGN_OR_RETURN(const std::string path, chosen.model_path());
  ASSIGN_OR_RETURN(const auto manifest, formats::open_model(path));
  ASSIGN_OR_RETURN(const text::Tokenizer tokenizer, text::load_tokenizer(manifest));
  std::string text = flags.text;
  if (!flags.file.empty()) {
    ASSIGN_OR_RETURN(text, read_text(flags.file));
  }
  text::EncodeOptions options;
  options.parse_special = flags.special;
  options.add_special_tokens = !flags.bare;
  ASSIGN_OR_RETURN(const std::vector<TokenId> ids, tokenizer.encode(text, options));
  if (flags.json) {
    Json tokens = Json::array();
    for (const TokenId id : ids) tokens.push_back(tokenizer.token_text(id));
    std::printf("%s\n", dump_json(Json{{"ids", ids}, {"tokens", tokens}}).c_str());
    return {};
  }
  for (const TokenId id : ids) std::printf("%8d  %s\n", id, tokenizer.token_text(id).c_str());
  return {};
}

}  // namespace

void add_tokenize(CLI::App& app, Action& action) {
  const auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("tokenize", "Show the token ids of a text");
  command->add_option("-m,--model", flags->model, "Model: a path or a name (default: as for run)");
  CLI::Option* text = command->add_option("text", flags->text, "The text");
  CLI::Option* file = command->add_option("-f,--file", flags->file, "Read the text from a file; - is stdin");
  file->excludes(text);
  command->add_flag("--special", flags->special, "Take control tokens in the text for what they spell");
  command->add_flag("--bare", flags->bare, "Add no special tokens, such as a leading BOS");
  command->add_flag("--json", flags->json, "For machines: ids and tokens");
  command->callback([=, &action] {
    const bool given = text->count() != 0 || file->count() != 0;
    action = [flags, given]() -> Status {
      if (!given) return fail(ErrorCode::kInvalidArgument, "tokenize needs a text, or -f FILE");
      return run(*flags);
    };
  });
}

}  // namespace mlxf::cli
