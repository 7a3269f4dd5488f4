//! Chat templates: Jinja with the settings and additions under which the ecosystem renders them, and a budget.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior};
use serde_json::{Map, Value as Json};

use crate::{bounds, guard, print, strftime, tojson, Code, Failure};

/// Fuel per render: one unit pays for one instruction or for 64 bytes that the template makes. The constant part
/// is some 60 MB of text, or a second of loops; the other part lets work grow with the conversation.
const FUEL_BASE: u64 = 1_000_000;
const FUEL_PER_INPUT_BYTE: u64 = 16;
/// Longest source: the longest templates in use have 40 KB. Bounds how deep one expression nests (see stack.rs).
const SOURCE_BYTES_MAX: usize = 128 << 10;
/// Calls within calls. Each level takes some kilobytes of the caller's stack.
const RECURSION_MAX: usize = 128;

pub struct Template {
    environment: Environment<'static>,
    source: String,
}

fn whole_chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

fn failure_of(error: Error) -> Failure {
    let code = match error.kind() {
        ErrorKind::OutOfFuel => Code::Budget,
        ErrorKind::SyntaxError => Code::Corrupt,
        ErrorKind::UnknownFilter
        | ErrorKind::UnknownFunction
        | ErrorKind::UnknownMethod
        | ErrorKind::UnknownTest
        | ErrorKind::TemplateNotFound => Code::Unsupported,
        _ => Code::Invalid,
    };
    Failure::new(code, whole_chain(&error))
}

impl Template {
    pub fn parse(source: &str) -> Result<Self, Failure> {
        if source.len() > SOURCE_BYTES_MAX {
            return Err(Failure::new(Code::Budget, format!("the template has {} bytes; at most {SOURCE_BYTES_MAX} are compiled", source.len())));
        }
        let mut environment = Environment::new();
        environment.set_syntax(
            SyntaxConfig::builder()
                .trim_blocks(true)
                .lstrip_blocks(true)
                .keep_trailing_newline(false)
                .build()
                .map_err(failure_of)?,
        );
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_recursion_limit(RECURSION_MAX);
        environment.set_unknown_method_callback(bounds::call_method);
        environment.set_formatter(print::formatter);
        environment.add_filter("string", print::string);
        environment.add_filter("tojson", tojson::tojson);
        environment.add_filter(bounds::KEEP_FILTER, bounds::keep);
        // The engine takes none for an empty list; Python does not, and templates ask before they count.
        environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, format!("the template refuses: {message}")))
        });
        environment
            .add_template_owned("chat", bounds::prepare(source)?)
            .map_err(failure_of)?;
        Ok(Template { environment, source: source.to_string() })
    }

    /// The text with the mark that guards the strings of `variables`.
    pub fn render(&self, trusted: &[u8], variables: &[u8], now_seconds: i64) -> Result<(String, char), Failure> {
        let parse = |bytes: &[u8], what: &str| -> Result<Map<String, Json>, Failure> {
            serde_json::from_slice(bytes).map_err(|e| Failure::new(Code::Invalid, format!("{what}: {e}")))
        };
        let trusted_members = parse(trusted, "the trusted variables")?;
        let members = parse(variables, "the variables")?;
        let whole = Json::Object(members);
        let mark = guard::choose_mark(|c| {
            self.source.contains(c)
                || trusted_members.values().any(|value| guard::json_contains(value, c))
                || guard::json_contains(&whole, c)
        })
        .ok_or_else(|| Failure::new(Code::Invalid, "the messages use every private character there is"))?;
        let Json::Object(members) = whole else { unreachable!() };
        let mut context = guard::mark_variables(members, mark);
        for (key, value) in trusted_members {
            context.insert(key, value);
        }
        // A clone shares the compiled template; the clock and the fuel belong to this render.
        let mut environment = self.environment.clone();
        let input_bytes = (trusted.len() + variables.len()) as u64;
        environment.set_fuel(Some(FUEL_BASE + FUEL_PER_INPUT_BYTE.saturating_mul(input_bytes)));
        environment.add_function("strftime_now", move |pattern: String| strftime::format(&pattern, now_seconds));
        let template = environment.get_template("chat").map_err(failure_of)?;
        let context: Value = serde_json::from_value(Json::Object(context))
            .map_err(|e| Failure::new(Code::Invalid, format!("the variables: {e}")))?;
        let text = template.render(context).map_err(failure_of)?;
        Ok((text, mark))
    }
}
