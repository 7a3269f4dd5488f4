// chat: a conversation in the terminal. Answers are streamed; Ctrl-C ends an answer, not the conversation.
//
// The whole conversation is rendered by the model's own template for every turn; what its beginning shares with the
// last turn is still in the cache, so a turn costs its new tokens. When the context is full the oldest turns after the
// system message are left out, and the user is told.
#include <cstdio>
#include <memory>

#include "base/json.h"
#include "cli/commands.h"
#include "cli/line_reader.h"
#include "engine/session.h"
#include "platform/process.h"
#include "text/chat_template.h"

namespace mlxf::cli {
namespace {

struct Flags {
  ModelFlags model;
  SamplingFlags sampling;
  std::string system;
  uint32_t tokens = 0;
  uint32_t context = 0;
};

constexpr uint32_t kDefaultContext = 8192;
// Room kept for an answer when old turns have to go.
constexpr uint32_t kAnswerRoom = 512;

constexpr const char* kHelp =
    "/help     this list\n"
    "/clear    forget the conversation\n"
    "/status   model, context and speed so far\n"
    "/quit     leave (also Ctrl-D)\n"
    "\"\"\"       begins a message of several lines, which ends with another \"\"\"\n"
    "Ctrl-C    ends the answer being written\n";

class Chat {
 public:
  Chat(engine::Engine& engine, const text::Tokenizer& tokenizer, text::ChatTemplate chat_template,
       decode::SamplingParams sampling, const Flags& flags, uint32_t context)
      : engine_(engine),
        tokenizer_(tokenizer),
        template_(std::move(chat_template)),
        sampling_(std::move(sampling)),
        flags_(flags),
        session_(engine, &tokenizer, context) {
    clear();
  }

  Status loop();

 private:
  void clear() {
    messages_ = Json::array();
    if (!flags_.system.empty()) messages_.push_back({{"role", "system"}, {"content", flags_.system}});
    session_.clear();
  }
  void print_status() const;
  [[nodiscard]] std::optional<std::string> read_message();
  [[nodiscard]] Result<std::vector<TokenId>> prompt();
  [[nodiscard]] Status answer(const std::string& message);

  engine::Engine& engine_;
  const text::Tokenizer& tokenizer_;
  text::ChatTemplate template_;
  decode::SamplingParams sampling_;
  const Flags& flags_;
  engine::Session session_;
  LineReader reader_;
  Json messages_;
  uint64_t answered_tokens_ = 0;
  double answered_seconds_ = 0.0;
};

void Chat::print_status() const {
  std::printf("model %s; %u of %u tokens of context; %zu messages; %.1f tok/s; memory %.2f GB\n",
              engine_.manifest().path.c_str(), session_.length(), session_.context_max(), messages_.size(),
              answered_seconds_ > 0.0 ? static_cast<double>(answered_tokens_) / answered_seconds_ : 0.0,
              static_cast<double>(platform::own_memory_bytes()) / 1e9);
}

// A line, or several between triple quotes.
std::optional<std::string> Chat::read_message() {
  std::optional<std::string> line = reader_.read("> ");
  constexpr std::string_view kQuotes = "\"\"\"";
  if (!line || line->rfind(kQuotes, 0) != 0) return line;
  std::string message = line->substr(kQuotes.size());
  while (message.find(kQuotes) == std::string::npos) {
    line = reader_.read(". ");
    if (!line) return std::nullopt;
    message += "\n" + *line;
  }
  message.erase(message.find(kQuotes));
  return message;
}

// The conversation as token ids, its oldest turns left out where it does not fit.
Result<std::vector<TokenId>> Chat::prompt() {
  bool told = false;
  while (true) {
    ASSIGN_OR_RETURN(const text::RenderedPrompt rendered, template_.render(messages_));
    ASSIGN_OR_RETURN(std::vector<TokenId> ids, text::encode_prompt(tokenizer_, rendered));
    const uint32_t room = std::min(kAnswerRoom, session_.context_max() / 4);
    const size_t first = flags_.system.empty() ? 0 : 1;
    if (ids.size() + room <= session_.context_max() || messages_.size() <= first + 1) return ids;
    if (!told)
      std::fprintf(stderr, "(the context is full: leaving out the oldest messages; -c sets its size)\n");
    told = true;
    // A user's message and its answer go together.
    messages_.erase(first);
    if (messages_.size() > first + 1) messages_.erase(first);
  }
}

Status Chat::answer(const std::string& message) {
  messages_.push_back({{"role", "user"}, {"content", message}});
  engine::GenerateRequest request;
  auto ids = prompt();
  if (!ids) {
    messages_.erase(messages_.size() - 1);
    return tl::unexpected<Error>(ids.error());
  }
  request.prompt = std::move(*ids);
  request.sampling = sampling_;
  request.max_tokens = flags_.tokens;
  clear_interrupt();
  const auto result = session_.generate(request, [](const engine::GeneratedToken& token) {
    std::fputs(token.text.c_str(), stdout);
    std::fflush(stdout);
    return !interrupted();
  });
  std::printf("\n");
  if (!result) {
    messages_.erase(messages_.size() - 1);
    return tl::unexpected<Error>(result.error());
  }
  if (result->finish == engine::FinishReason::kLength)
    std::fprintf(stderr, "(the answer was cut off at %zu tokens)\n", result->tokens.size());
  messages_.push_back({{"role", "assistant"}, {"content", result->text}});
  answered_tokens_ += result->tokens.empty() ? 0 : result->tokens.size() - 1;
  answered_seconds_ += result->generate_seconds;
  return {};
}

Status Chat::loop() {
  if (reader_.is_terminal()) std::printf("%s  (/help for help)\n", engine_.manifest().path.c_str());
  while (const auto message = read_message()) {
    if (message->empty()) continue;
    if (*message == "/quit" || *message == "/exit" || *message == "/bye") break;
    if (*message == "/help") {
      std::fputs(kHelp, stdout);
    } else if (*message == "/clear") {
      clear();
      std::printf("forgotten\n");
    } else if (*message == "/status") {
      print_status();
    } else if (message->front() == '/' && message->find(' ') == std::string::npos) {
      std::fprintf(stderr, "unknown command %s; /help lists them\n", message->c_str());
    } else if (const Status status = answer(*message); !status) {
      std::fprintf(stderr, "mlx-flash: %s\n", status.error().message.c_str());
    }
  }
  return {};
}

Status run(const Flags& flags) {
  engine::EngineOptions options;
  options.with_tokenizer = true;
  options.context_tokens = flags.context != 0 ? flags.context : kDefaultContext / 4;
  ASSIGN_OR_RETURN(const auto engine, flags.model.open(options));
  const text::Tokenizer& tokenizer = engine->tokenizer();
  auto chat_template = text::load_chat_template(engine->manifest());
  if (!chat_template)
    return tl::unexpected<Error>(
        chat_template.error().within("this model cannot chat; `mlx-flash run` continues a text with it"));
  ASSIGN_OR_RETURN(decode::SamplingParams sampling, flags.sampling.resolve(engine->manifest()));
  const uint32_t most = engine->model().spec().context_max;
  uint32_t context = flags.context != 0 ? flags.context : kDefaultContext;
  if (most != 0 && flags.context == 0) context = std::min(context, most);
  Chat chat(*engine, tokenizer, std::move(*chat_template), std::move(sampling), flags, context);
  RETURN_IF_ERROR(chat.loop());
  return flags.model.finish(*engine);
}

}  // namespace

void add_chat(CLI::App& app, Action& action) {
  const auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("chat", "Talk with a model in the terminal");
  flags->model.add_to(*command, ModelFlags::Default::kBundled);
  flags->model.add_save_heat(*command);
  command->add_option("--system", flags->system, "System message");
  command->add_option("-n,--tokens", flags->tokens, "Most tokens of one answer (0: until its end)")
      ->check(CLI::Range(0, 1 << 24));
  command
      ->add_option("-c,--context", flags->context, "Tokens of context (default: 8192, or what the model has)")
      ->check(CLI::Range(64, 1 << 24));
  flags->sampling.add_to(*command);
  command->callback([flags, &action] { action = [flags] { return run(*flags); }; });
}

}  // namespace mlxf::cli
