#include "base/json.h"

#include <type_traits>
#include <unordered_set>
#include <vector>

namespace mlxf {
namespace {

// Builds the value itself so that depth and duplicate keys are checked while parsing, before memory is spent.
template <typename Value>
class StrictBuilder : public nlohmann::json_sax<Value> {
 public:
  using number_integer_t = typename Value::number_integer_t;
  using number_unsigned_t = typename Value::number_unsigned_t;
  using number_float_t = typename Value::number_float_t;
  using string_t = typename Value::string_t;
  using binary_t = typename Value::binary_t;

  explicit StrictBuilder(int depth_max) : depth_max_(depth_max) {}

  bool null() override { return put(nullptr); }
  bool boolean(bool value) override { return put(value); }
  bool number_integer(number_integer_t value) override { return put(value); }
  bool number_unsigned(number_unsigned_t value) override { return put(value); }
  bool number_float(number_float_t value, const string_t&) override { return put(value); }
  bool string(string_t& value) override { return put(std::move(value)); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(Value::object()); }
  bool end_object() override { return close(); }
  bool start_array(std::size_t) override { return open(Value::array()); }
  bool end_array() override { return close(); }
  bool key(string_t& name) override {
    if (!is_new(name)) {
      message_ = "duplicate key \"" + name.substr(0, 80) + "\"";
      return false;
    }
    key_ = std::move(name);
    return true;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    // The library's text ends in "…: syntax error while parsing …"; its head repeats the position.
    const std::string text = error.what();
    const auto head = text.find(": ");
    message_ = "at byte " + std::to_string(position) + ": " +
               (head == std::string::npos ? text : text.substr(head + 2));
    return false;
  }

  Value root;
  [[nodiscard]] const std::string& message() const { return message_; }

 private:
  static constexpr bool kOrdered = std::is_same_v<Value, OrderedJson>;

  // An ordered object finds members by scanning them: a hostile one would cost the square of its size.
  bool is_new(const std::string& name) {
    if constexpr (kOrdered) {
      return names_.back().insert(name).second;
    } else {
      return !stack_.back()->contains(name);
    }
  }
  Value* add(Value value) {
    if (stack_.empty()) {
      root = std::move(value);
      return &root;
    }
    Value& parent = *stack_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    if constexpr (kOrdered) {
      return &parent.template get_ref<typename Value::object_t&>()
                  .emplace_back(key_, std::move(value))
                  .second;
    } else {
      return &(parent[key_] = std::move(value));
    }
  }
  bool put(Value value) {
    add(std::move(value));
    return true;
  }
  bool open(Value container) {
    if (static_cast<int>(stack_.size()) >= depth_max_) {
      message_ = "nested deeper than " + std::to_string(depth_max_);
      return false;
    }
    stack_.push_back(add(std::move(container)));
    if constexpr (kOrdered) names_.emplace_back();
    return true;
  }
  bool close() {
    stack_.pop_back();
    if constexpr (kOrdered) names_.pop_back();
    return true;
  }

  const int depth_max_;
  std::vector<Value*> stack_;  // Open containers; pointers stay valid because only the innermost one grows.
  std::vector<std::unordered_set<std::string>> names_;  // Of the members of the open containers, if ordered.
  std::string key_;
  std::string message_;
};

template <typename Value>
Result<Value> parse(std::string_view text, const JsonLimits& limits) {
  if (text.size() > limits.bytes_max)
    return fail(ErrorCode::kInvalidArgument, "JSON of " + std::to_string(text.size()) +
                                                 " bytes is over the limit of " +
                                                 std::to_string(limits.bytes_max));
  StrictBuilder<Value> builder(limits.depth_max);
  try {
    if (!Value::sax_parse(text.begin(), text.end(), &builder))
      return fail(ErrorCode::kCorrupt, "invalid JSON: " + builder.message());
  } catch (const std::exception& error) {
    return fail(ErrorCode::kCorrupt, std::string("invalid JSON: ") + error.what());
  }
  return std::move(builder.root);
}

}  // namespace

Result<Json> parse_json(std::string_view text, const JsonLimits& limits) { return parse<Json>(text, limits); }

Result<OrderedJson> parse_ordered_json(std::string_view text, const JsonLimits& limits) {
  return parse<OrderedJson>(text, limits);
}

const Json* find_member(const Json& object, std::string_view key) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

std::optional<int64_t> find_int(const Json& object, std::string_view key) {
  const Json* value = find_member(object, key);
  if (value == nullptr || !value->is_number_integer()) return std::nullopt;
  if (value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX))
    return std::nullopt;
  return value->get<int64_t>();
}

std::optional<double> find_number(const Json& object, std::string_view key) {
  const Json* value = find_member(object, key);
  if (value == nullptr || !value->is_number()) return std::nullopt;
  return value->get<double>();
}

std::optional<bool> find_bool(const Json& object, std::string_view key) {
  const Json* value = find_member(object, key);
  if (value == nullptr || !value->is_boolean()) return std::nullopt;
  return value->get<bool>();
}

std::optional<std::string> find_string(const Json& object, std::string_view key) {
  const Json* value = find_member(object, key);
  if (value == nullptr || !value->is_string()) return std::nullopt;
  return value->get<std::string>();
}

std::string dump_json(const Json& value, int indent) {
  return value.dump(indent, ' ', false, Json::error_handler_t::replace);
}

std::string dump_ordered_json(const OrderedJson& value) {
  return value.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

}  // namespace mlxf
