// What most tests include from outside the project: see library.h.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <random>

#include "library.h"
