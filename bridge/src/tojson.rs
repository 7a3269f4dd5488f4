//! The tojson filter with the text of Python's json.dumps(value, ensure_ascii=False, ...), which is what chat
//! templates are written for: ", " and ": " as separators, no HTML escapes, keys in their order.

use minijinja::value::{Kwargs, Value};
use minijinja::{Error, ErrorKind};
use serde_json::Value as Json;

use crate::guard;

/// Deeper indents than this are not layout but an attempt to fill memory.
const INDENT_MAX: u64 = 32;

struct Style {
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    ensure_ascii: bool,
    sort_keys: bool,
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("tojson: {}", message.into()))
}

fn write_string(text: &str, ensure_ascii: bool, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || (ensure_ascii && (c as u32) > 0x7E && !guard::may_be_mark(c)) => {
                let mut units = [0u16; 2];
                for unit in c.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Python's repr of a float: the shortest digits that read back, with an exponent outside 1e-4 to 1e16.
pub fn python_float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity".into() } else { "-Infinity".into() };
    }
    let magnitude = value.abs();
    if value != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        let text = format!("{value:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((text.as_str(), "0"));
        let (sign, number) = match exponent.strip_prefix('-') {
            Some(number) => ('-', number),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{number:0>2}");
    }
    let text = format!("{value}");
    if text.contains('.') { text } else { text + ".0" }
}

fn newline(depth: usize, style: &Style, out: &mut String) {
    if let Some(indent) = &style.indent {
        out.push('\n');
        for _ in 0..depth {
            out.push_str(indent);
        }
    }
}

fn write_value(value: &Json, depth: usize, style: &Style, out: &mut String) {
    match value {
        Json::Null => out.push_str("null"),
        Json::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Json::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => out.push_str(&python_float(float)),
            _ => out.push_str(&number.to_string()),
        },
        Json::String(text) => write_string(text, style.ensure_ascii, out),
        Json::Array(items) if items.is_empty() => out.push_str("[]"),
        Json::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push_str(&style.item_separator);
                }
                newline(depth + 1, style, out);
                write_value(item, depth + 1, style, out);
            }
            newline(depth, style, out);
            out.push(']');
        }
        Json::Object(members) if members.is_empty() => out.push_str("{}"),
        Json::Object(members) => {
            let mut ordered: Vec<_> = members.iter().collect();
            if style.sort_keys {
                ordered.sort_by(|a, b| a.0.cmp(b.0));
            }
            out.push('{');
            for (i, (key, item)) in ordered.into_iter().enumerate() {
                if i > 0 {
                    out.push_str(&style.item_separator);
                }
                newline(depth + 1, style, out);
                write_string(key, style.ensure_ascii, out);
                out.push_str(&style.key_separator);
                write_value(item, depth + 1, style, out);
            }
            newline(depth, style, out);
            out.push('}');
        }
    }
}

pub fn tojson(value: Value, positional_indent: Option<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    if value.is_undefined() {
        return Err(invalid("the value is undefined"));
    }
    let given = match kwargs.get::<Option<Value>>("indent")? {
        Some(value) => Some(value),
        None => positional_indent,
    };
    let indent = match given {
        None => None,
        Some(value) if value.is_none() => None,
        Some(value) => match (value.as_str(), u64::try_from(value.clone())) {
            (Some(text), _) if text.len() as u64 <= INDENT_MAX => Some(text.to_string()),
            (_, Ok(width)) if width <= INDENT_MAX => Some(" ".repeat(width as usize)),
            _ => return Err(invalid(format!("indent is not a number up to {INDENT_MAX}"))),
        },
    };
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let (item_separator, key_separator) = match separators.as_deref() {
        None => (if indent.is_some() { "," } else { ", " }.to_string(), ": ".to_string()),
        Some([item, key]) if item.len() + key.len() <= INDENT_MAX as usize => (item.clone(), key.clone()),
        Some(_) => return Err(invalid("separators is not a pair of short strings")),
    };
    let style = Style {
        indent,
        item_separator,
        key_separator,
        ensure_ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    let json = serde_json::to_value(&value).map_err(|e| invalid(e.to_string()))?;
    let mut out = String::new();
    write_value(&json, 0, &style, &mut out);
    Ok(Value::from(out))
}
