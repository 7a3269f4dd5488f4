//! How `{{ value }}` prints numbers: as Python does, also inside lists and mappings. The engine prints the rest.

use std::fmt::Write;

use minijinja::value::{Value, ValueKind};
use minijinja::{escape_formatter, Error, Output, State};

use crate::tojson::python_float;

/// Containers within containers that are looked into; deeper ones print as the engine prints them.
const DEPTH_MAX: usize = 64;

fn float_of(value: &Value) -> Option<f64> {
    if value.kind() == ValueKind::Number && !value.is_integer() {
        f64::try_from(value.clone()).ok()
    } else {
        None
    }
}

/// str(float), which is tojson's text but for what JSON has no word for.
fn python_text(value: f64) -> String {
    if value.is_nan() {
        "nan".into()
    } else if value.is_infinite() {
        if value > 0.0 { "inf".into() } else { "-inf".into() }
    } else {
        python_float(value)
    }
}

/// True for a container with a float that Python writes with an exponent.
fn holds_exponents(value: &Value, depth: usize) -> bool {
    if depth > DEPTH_MAX {
        return false;
    }
    match value.kind() {
        ValueKind::Number => float_of(value).is_some_and(|x| x != 0.0 && !(1e-4..1e16).contains(&x.abs())),
        ValueKind::Seq => value.try_iter().is_ok_and(|mut items| items.any(|item| holds_exponents(&item, depth + 1))),
        ValueKind::Map => value.try_iter().is_ok_and(|mut keys| {
            keys.any(|key| value.get_item(&key).is_ok_and(|item| holds_exponents(&item, depth + 1)))
        }),
        _ => false,
    }
}

fn write_repr(value: &Value, depth: usize, out: &mut String) {
    if let Some(float) = float_of(value) {
        out.push_str(&python_text(float));
        return;
    }
    if depth <= DEPTH_MAX {
        match (value.kind(), value.try_iter()) {
            (ValueKind::Seq, Ok(items)) => {
                out.push('[');
                for (i, item) in items.enumerate() {
                    out.push_str(if i > 0 { ", " } else { "" });
                    write_repr(&item, depth + 1, out);
                }
                out.push(']');
                return;
            }
            (ValueKind::Map, Ok(keys)) => {
                out.push('{');
                for (i, key) in keys.enumerate() {
                    out.push_str(if i > 0 { ", " } else { "" });
                    let _ = write!(out, "{key:?}: ");
                    write_repr(&value.get_item(&key).unwrap_or_default(), depth + 1, out);
                }
                out.push('}');
                return;
            }
            _ => {}
        }
    }
    let _ = write!(out, "{value:?}");
}

/// The text of a value that the engine would print otherwise than Python.
fn own_text(value: &Value) -> Option<String> {
    if let Some(float) = float_of(value) {
        return Some(python_text(float));
    }
    if matches!(value.kind(), ValueKind::Seq | ValueKind::Map) && holds_exponents(value, 0) {
        let mut text = String::new();
        write_repr(value, 0, &mut text);
        return Some(text);
    }
    None
}

/// The `string` filter.
pub fn string(value: Value) -> Value {
    if value.as_str().is_some() {
        return value;
    }
    Value::from(own_text(&value).unwrap_or_else(|| value.to_string()))
}

pub fn formatter(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    match own_text(value) {
        Some(text) => out.write_str(&text).map_err(Error::from),
        None => escape_formatter(out, state, value),
    }
}
