// LineReader: the user's next line, with editing and history where stdin is a terminal (libedit), plainly elsewhere.
//
// One at a time, one thread: libedit keeps one state per process. The history is saved in the user's state folder
// ($XDG_STATE_HOME or ~/.local/state, file mlx-flash/history, readable by the user alone), at most 1000 lines; without
// such a folder it lasts as long as the program.
#pragma once

#include <optional>
#include <string>

namespace mlxf::cli {

class LineReader {
 public:
  LineReader();
  ~LineReader();
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  // Without the newline; nothing at the end of input.
  [[nodiscard]] std::optional<std::string> read(const char* prompt);
  [[nodiscard]] bool is_terminal() const { return terminal_; }

 private:
  bool terminal_;
  std::string history_path_;
};

}  // namespace mlxf::cli
