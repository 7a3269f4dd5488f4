// What most sources of the command line include from outside the project: see library.h.
#include <CLI/CLI.hpp>

#include "library.h"
