// ServedModelFlags: what the commands that serve a model have in common: which one, for how many requests at once, how
// long they may be; and how such a command ends.
//
// Belongs to the command line; one thread, but for the function that opens the model.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "cli/commands.h"
#include "server/model_host.h"

namespace mlxf::cli {

struct ServedModelFlags {
  ModelFlags model;
  std::string chat_template;
  uint32_t parallel = 4;
  uint32_t queue = 256;
  uint32_t max_context = 0;
  std::string keep_alive = "-1";
  uint32_t models_max = 3;
  bool no_switch_by_name = false;
  void add_to(CLI::App& command);
};

// Without -m the bundled model, which a line on stderr says. A model that is not there, or is none, is found here,
// before anybody asks for it. The functions in it that find and open models keep `flags`. --chat-template is for the
// first model alone.
[[nodiscard]] Result<server::ModelHostOptions> served_model(const std::shared_ptr<ServedModelFlags>& flags);

// Runs `stop`; a load under way, or a read that hangs, cannot be given up half-way, so what is not over in a second and
// a half ends with the process. `wait_on`, when there is one, is asked again and again after that: true gives it more
// time.
void stop_in_time(const std::function<void()>& stop, const std::function<bool()>& wait_on = {});

}  // namespace mlxf::cli
