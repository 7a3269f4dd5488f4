#include "text/turn_rules.h"

#include <gtest/gtest.h>

namespace mlxf::text {
namespace {

TurnRules rules_of(std::string_view source) {
  return find_turn_rules(parse_chat_template(source, "<s>", "</s>").value());
}

TEST(TurnRules, AreThoseThatTheTemplateFollows) {
  const TurnRules all = rules_of("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}");
  EXPECT_TRUE(all.system_first && all.system_later && all.users_in_a_row);
  // As Qwen 3.5's: a system message stands first or nowhere.
  const TurnRules first = rules_of(R"({% for m in messages %}{% if m.role == "system" and not loop.first %}
      {{ raise_exception("no") }}{% endif %}{{ m.content }}{% endfor %})");
  EXPECT_TRUE(first.system_first && !first.system_later && first.users_in_a_row);
  // As gpt-oss's: later ones are left out without a word.
  const TurnRules silent =
      rules_of(R"({% if messages[0].role == "system" %}{{ messages[0].content }}{% endif %}
      {% for m in messages if m.role == "user" %}{{ m.content }}{% endfor %})");
  EXPECT_TRUE(silent.system_first && !silent.system_later && silent.users_in_a_row);
  // As Gemma 2's: no system, and strictly in turn.
  const TurnRules strict = rules_of(R"({% for m in messages %}{% if m.role == "system" or
      (m.role == "user") != (loop.index0 % 2 == 0) %}{{ raise_exception("no") }}{% endif %}{{ m.content }}
      {% endfor %})");
  EXPECT_FALSE(strict.system_first || strict.system_later || strict.users_in_a_row);
  // As Gemma 3's: it counts turns, in which a later system message stands for an assistant's.
  const TurnRules counting = rules_of(R"({% if messages[0].role == "system" %}{{ messages[0].content }}
      {% set loop_messages = messages[1:] %}{% else %}{% set loop_messages = messages %}{% endif %}
      {% for m in loop_messages %}{% if (m.role == "user") != (loop.index0 % 2 == 0) %}
      {{ raise_exception("no") }}{% endif %}{{ m.content }}{% endfor %})");
  EXPECT_TRUE(counting.system_first && !counting.system_later && !counting.users_in_a_row);
  // As DeepSeek's: all of them first.
  const TurnRules hoisting =
      rules_of(R"({% for m in messages if m.role == "system" %}{{ m.content }}{% endfor %}
      {% for m in messages if m.role != "system" %}{{ m.content }}{% endfor %})");
  EXPECT_TRUE(hoisting.system_first && hoisting.system_later && hoisting.users_in_a_row);
}

}  // namespace
}  // namespace mlxf::text
