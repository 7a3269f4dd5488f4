//! Bounds that the template engine's own fuel does not set: how deep a loop can nest values, and how large the text
//! of a string method grows.
//!
//! Loops keep values only in namespaces (`{% set ns.x = … %}`). Whatever is kept there passes through `keep`, which
//! refuses deep nesting and turns lazy sequences, whose chains could grow without showing, into lists.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

use crate::{Code, Failure};

/// Levels of lists and mappings in a value that a namespace keeps. Tool schemas have about ten.
const DEPTH_MAX: usize = 64;

pub const KEEP_FILTER: &str = "mlxf_keep";

fn out_of_budget(message: &str) -> Error {
    Error::new(ErrorKind::OutOfFuel, message.to_string())
}

/// The value that stands for `value`: Some where it had to be rebuilt.
fn settle(state: &State, value: &Value, depth: usize) -> Result<Option<Value>, Error> {
    let kind = value.kind();
    if !matches!(kind, ValueKind::Seq | ValueKind::Iterable | ValueKind::Map | ValueKind::Plain) {
        return Ok(None);
    }
    if depth >= DEPTH_MAX {
        return Err(out_of_budget("a namespace keeps values that are nested more than 64 deep"));
    }
    // Macros, loops and namespaces look like mappings, but hold more than they show.
    let type_name = value.as_object().map_or("", |object| object.type_name());
    if kind == ValueKind::Plain || type_name.contains("::vm::") || type_name.contains("Namespace") {
        return Err(Error::new(ErrorKind::InvalidOperation, "a namespace can keep data, but no function and no namespace"));
    }
    let mut rebuilt = kind == ValueKind::Iterable;
    if kind == ValueKind::Map {
        let mut members = Vec::new();
        for key in value.try_iter()? {
            state.consume_fuel(1)?;
            let member = value.get_item(&key)?;
            let settled = settle(state, &member, depth + 1)?;
            rebuilt |= settled.is_some();
            members.push((key, settled.unwrap_or(member)));
        }
        return Ok(rebuilt.then(|| Value::from_pairs(members)));
    }
    let mut items = Vec::new();
    for (i, item) in value.try_iter()?.enumerate() {
        if i % 16 == 0 {
            state.consume_fuel(1)?;
        }
        let settled = settle(state, &item, depth + 1)?;
        rebuilt |= settled.is_some();
        items.push(settled.unwrap_or(item));
    }
    Ok(rebuilt.then(|| Value::from(items)))
}

pub fn keep(state: &State, value: Value) -> Result<Value, Error> {
    Ok(settle(state, &value, 0)?.unwrap_or(value))
}

/// What a format string costs before its values: each field may be padded to 999
/// characters; larger widths, and widths that are fields themselves, are refused.
fn format_cost(text: &str) -> Result<u64, Error> {
    const FORMAT_WIDTH_DIGITS: usize = 3;
    let digits = text.as_bytes().split(|byte| !byte.is_ascii_digit()).map(<[u8]>::len).max().unwrap_or(0);
    let mut depth = 0i32;
    for byte in text.replace("{{", "").replace("}}", "").bytes() {
        depth += i32::from(byte == b'{') - i32::from(byte == b'}');
        if depth > 1 {
            return Err(out_of_budget("format: fields within fields"));
        }
    }
    if digits > FORMAT_WIDTH_DIGITS {
        return Err(out_of_budget("format: a number of more than three digits in a field"));
    }
    Ok(text.matches('{').count() as u64 * 16 + text.len() as u64 / 64)
}

/// Python's methods; what `replace`, `join` and `format` are about to write is paid for first.
pub fn call_method(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        match (method, args) {
            ("replace", [old, new, ..]) => {
                let (old, new) = (old.as_str().unwrap_or(""), new.as_str().unwrap_or(""));
                let matches = text.matches(old).count();
                state.consume_fuel((text.len() / 64).saturating_add(matches.saturating_mul(new.len()) / 64) as u64)?;
            }
            ("format", _) => state.consume_fuel(format_cost(text)?)?,
            ("join", [values]) => {
                for item in values.try_iter()? {
                    let length = text.len() + item.as_str().map_or(64, str::len);
                    state.consume_fuel(1 + length as u64 / 64)?;
                }
            }
            _ => {}
        }
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}

/// The end of a tag: where `close` begins outside string literals, from `begin` on.
fn find_close(source: &str, begin: usize, close: &str) -> Option<usize> {
    let bytes = source.as_bytes();
    let mut quote = None;
    let mut at = begin;
    while at < bytes.len() {
        match (quote, bytes[at]) {
            (Some(_), b'\\') => at += 1,
            (Some(open), byte) if byte == open => quote = None,
            (None, byte @ (b'"' | b'\'')) => quote = Some(byte),
            (None, _) if bytes[at..].starts_with(close.as_bytes()) => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

/// Unary operators in a row that are believed.
const UNARY_MAX: usize = 32;

/// True for a tag that negates something very often in a row: compiling that takes the square of its length.
fn negates_too_often(body: &str) -> bool {
    let mut quote = None;
    let mut row = 0;
    let mut word = String::new();
    for c in body.chars().chain([' ']) {
        if let Some(open) = quote {
            if c == open {
                quote = None;
            }
            continue;
        }
        if c.is_alphanumeric() || c == '_' {
            word.push(c);
            continue;
        }
        match word.as_str() {
            "" => {}
            "not" => row += 1,
            _ => row = 0,
        }
        word.clear();
        match c {
            '"' | '\'' => quote = Some(c),
            '-' | '+' => row += 1,
            '(' => {}
            c if c.is_whitespace() => {}
            _ => row = 0,
        }
        if row > UNARY_MAX {
            return true;
        }
    }
    false
}

/// `set ns.x = EXPRESSION` with the expression passed through `keep`; None for other statements.
fn kept_assignment(body: &str) -> Option<String> {
    let lead = body.len() - body.trim_start_matches(|c: char| c == '-' || c == '+' || c.is_whitespace()).len();
    let rest = body[lead..].strip_prefix("set")?;
    if !rest.starts_with(char::is_whitespace) {
        return None;
    }
    let equals = rest.find('=')?;
    let target = &rest[..equals];
    if !target.contains('.') || target.contains('|') {
        return None;
    }
    let expression = rest[equals + 1..].trim_end();
    let (expression, trail) = match expression.strip_suffix(['-', '+']) {
        Some(inner) => (inner, &expression[inner.len()..]),
        None => (expression, ""),
    };
    Some(format!("{}set{target}= ({expression})|{KEEP_FILTER} {trail}", &body[..lead]))
}

/// `{% generation %}` marks the assistant's text for training and prints nothing itself.
fn statement(body: &str) -> String {
    match body.trim_matches(|c: char| c == '-' || c == '+' || c.is_whitespace()) {
        "generation" => body.replace("generation", " if true "),
        "endgeneration" => body.replace("endgeneration", " endif "),
        _ => kept_assignment(body).unwrap_or_else(|| body.to_string()),
    }
}

/// The source as it is compiled: with what the two functions above make of its statements.
pub fn prepare(source: &str) -> Result<String, Failure> {
    let mut out = String::with_capacity(source.len() + source.len() / 8);
    let mut at = 0;
    while let Some(open) = source[at..].find('{').map(|offset| at + offset) {
        let begin = open + 2;
        out.push_str(&source[at..open]);
        let end = match source.as_bytes().get(open + 1) {
            Some(b'#') => source[begin..].find("#}").map(|offset| begin + offset),
            Some(b'{') => find_close(source, begin, "}}"),
            Some(b'%') => find_close(source, begin, "%}"),
            _ => {
                out.push('{');
                at = open + 1;
                continue;
            }
        };
        let Some(end) = end else {
            at = open;
            break;
        };
        let body = &source[begin..end];
        if !source[open..].starts_with("{#") && negates_too_often(body) {
            return Err(Failure::new(Code::Budget, format!("a tag with more than {UNARY_MAX} negations in a row")));
        }
        out.push_str(&source[open..begin]);
        at = end;
        if source[open..].starts_with("{%") {
            out.push_str(&statement(body));
            if body.trim_matches(|c: char| c == '-' || c == '+' || c.is_whitespace()) == "raw" {
                let raw_end = source[end..].find("endraw").map_or(source.len(), |offset| end + offset);
                out.push_str(&source[end..raw_end]);
                at = raw_end;
            }
        } else {
            out.push_str(body);
        }
    }
    out.push_str(&source[at..]);
    Ok(out)
}
