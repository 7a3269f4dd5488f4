// mcp: the Model Context Protocol over stdin and stdout, for programs that start their tool servers themselves.
//
// A message is a line of JSON; nothing else is ever written to stdout. The main thread reads lines; one thread, `mcp`,
// handles them, runs the calls and writes. The end of stdin ends the program, and with it what is under way.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "base/metrics.h"
#include "base/mutex.h"
#include "cli/commands.h"
#include "cli/served_model.h"
#include "mcp/protocol.h"
#include "server/mcp_call.h"

namespace mlxf::cli {
namespace {

constexpr size_t kWaitingMax = 64;  // Pieces of work, before the next line is read.

// Work for one thread, in order. Thread-safe.
class WorkQueue {
 public:
  void post(std::function<void()> work) MLXF_EXCLUDES(mutex_) {
    {
      const MutexLock lock(mutex_);
      if (closed_) return;
      work_.push_back(std::move(work));
    }
    changed_.notify_all();
  }
  // As post(), once there is not too much to do already.
  void post_in_turn(std::function<void()> work) MLXF_EXCLUDES(mutex_) {
    {
      const MutexLock lock(mutex_);
      while (!closed_ && work_.size() >= kWaitingMax) changed_.wait(mutex_);
    }
    post(std::move(work));
  }
  // What was posted before is still done.
  void close() MLXF_EXCLUDES(mutex_) {
    {
      const MutexLock lock(mutex_);
      closed_ = true;
    }
    changed_.notify_all();
  }
  // Until close().
  void run() MLXF_EXCLUDES(mutex_) {
    while (true) {
      std::function<void()> work;
      {
        const MutexLock lock(mutex_);
        while (!closed_ && work_.empty()) changed_.wait(mutex_);
        if (work_.empty()) return;
        work = std::move(work_.front());
        work_.pop_front();
      }
      changed_.notify_all();
      work();
    }
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::deque<std::function<void()>> work_ MLXF_GUARDED_BY(mutex_);
  bool closed_ MLXF_GUARDED_BY(mutex_) = false;
};

// The conversation with the program that started this one. The `mcp` thread's, but for read_lines().
class Conversation {
 public:
  Conversation(server::ModelHost& host, WorkQueue& queue) : host_(host), queue_(queue) {}

  void take(const std::string& line) {
    mcp::Received received = mcp::receive(line, version_, nullptr);
    if (!received.batch) return handle(std::move(received.outcomes.front()), write);
    const auto gathered =
        std::make_shared<mcp::BatchAnswer>(received.outcomes.size());  // Shared by its calls.
    for (mcp::Outcome& outcome : received.outcomes)
      handle(std::move(outcome), [gathered](const std::string& answer) {
        gathered->add(answer);
        if (gathered->done()) write(gathered->message());
      });
  }
  void refuse_long_line() { write(mcp::parse_error("a message is longer than 32 MiB")); }
  void cancel_all() {
    for (const auto& [number, running] : calls_) running.call->cancel();
    calls_.clear();
  }

 private:
  // Takes the message that answers; empty: there is none.
  using Answer = std::function<void(const std::string& message)>;
  struct Running {
    std::shared_ptr<server::McpCall> call;  // Shared with work that is posted for it.
    Answer answer;
    std::shared_ptr<bool> answered;  // Shared with the call, whose entry stays for a moment after its answer.
  };

  void handle(mcp::Outcome outcome, const Answer& answer) {
    if (const auto* said = std::get_if<mcp::Said>(&outcome)) {
      answer(said->message);
    } else if (const auto* unwanted = std::get_if<mcp::Cancel>(&outcome)) {
      cancel(unwanted->id);
      answer("");
    } else {
      start(std::get<mcp::ToolCall>(std::move(outcome)), answer);
    }
  }
  void start(mcp::ToolCall tool_call, const Answer& answer) {
    const uint64_t number = ++count_;
    server::McpCaller caller;
    caller.post = [this](std::function<void()> work) { queue_.post(std::move(work)); };
    const auto answered = std::make_shared<bool>(false);
    caller.send = [this, number, answer, answered](const std::string& message, bool last) {
      if (!last) return write(message);
      *answered = true;
      answer(message);
      queue_.post([this, number] { calls_.erase(number); });  // Not from within the call itself.
    };
    const auto call = std::make_shared<server::McpCall>(server::McpContext{host_, version_, started_, open_},
                                                        std::move(tool_call), std::move(caller),
                                                        "mcp-" + std::to_string(number));
    calls_.emplace(number, Running{call, answer, answered});
    call->start();
  }
  void cancel(const Json& id) {
    for (auto at = calls_.begin(); at != calls_.end();) {
      if (*at->second.answered || at->second.call->id() != id) {
        ++at;
        continue;
      }
      const Running unwanted = std::move(at->second);
      at = calls_.erase(at);
      unwanted.call->cancel();
      unwanted.answer("");
    }
  }
  static void write(const std::string& message) {
    if (message.empty()) return;
    std::fwrite(message.data(), 1, message.size(), stdout);
    std::fputc('\n', stdout);
    std::fflush(stdout);
  }

  server::ModelHost& host_;
  WorkQueue& queue_;
  const std::string version_ = MLXF_VERSION;
  const int64_t started_ =
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
          .count();
  std::atomic<uint32_t> open_{0};
  uint64_t count_ = 0;
  std::map<uint64_t, Running> calls_;
};

// Until the end of stdin. A line that is too long is read over, so that it costs no memory.
void read_lines(Conversation& conversation, WorkQueue& queue) {
  std::string line;
  bool too_long = false;
  for (int c = std::getchar(); c != EOF; c = std::getchar()) {
    if (c != '\n') {
      if (line.size() >= mcp::kMessageBytesMax) {
        too_long = true;
        line.clear();
        line.shrink_to_fit();
      }
      if (!too_long) line.push_back(static_cast<char>(c));
      continue;
    }
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (too_long) {
      queue.post_in_turn([&conversation] { conversation.refuse_long_line(); });
    } else if (!line.empty()) {
      queue.post_in_turn([&conversation, line] { conversation.take(line); });
    }
    line.clear();
    too_long = false;
  }
}

Status speak_mcp(const std::shared_ptr<ServedModelFlags>& flags, bool preload) {
  ASSIGN_OR_RETURN(server::ModelHostOptions served, served_model(flags));
  Metrics metrics;
  WorkQueue queue;
  server::ModelHost host(std::move(served), metrics);
  if (preload) RETURN_IF_ERROR(host.load());
  Conversation conversation(host, queue);
  std::thread worker([&queue] { queue.run(); });
  read_lines(conversation, queue);
  stop_in_time([&] {
    queue.post([&conversation] { conversation.cancel_all(); });
    queue.close();
    worker.join();
    host.stop();
  });
  return {};
}

}  // namespace

void add_mcp(CLI::App& app, Action& action) {
  const auto flags = std::make_shared<ServedModelFlags>();
  const auto preload = std::make_shared<bool>(false);
  CLI::App* command = app.add_subcommand(
      "mcp",
      "Offer the model as tools over stdin and stdout (Model Context Protocol); serve does so at /mcp");
  flags->add_to(*command);
  command->add_flag("--preload", *preload, "Load the model at once, not with the first generation");
  command->callback(
      [flags, preload, &action] { action = [flags, preload] { return speak_mcp(flags, *preload); }; });
}

}  // namespace mlxf::cli
