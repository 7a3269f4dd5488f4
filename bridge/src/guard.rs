//! Marks strings that come from outside so that they cannot spell a control token in rendered text.
//!
//! A mark character that occurs in no input follows each character that control tokens are built around. The mark
//! travels with the string through the template, also through concatenation, splitting, trimming and tojson. A
//! control token in the output without a mark inside was therefore begun by the template itself.
//!
//! Reasoning tags in an assistant's message stay unmarked: templates split earlier answers at them.

use serde_json::{Map, Value as Json};

/// Characters that begin control tokens, and the bars that stand second in most: a template may print "<" itself
/// before a string.
const GUARDED: [char; 6] = ['<', '[', ']', '|', '｜', '▁'];

const REASONING_TAGS: [&str; 10] = [
    "<think>", "</think>", "<thinking>", "</thinking>", "<thought>", "</thought>", "<seed:think>", "</seed:think>",
    "[THINK]", "[/THINK]",
];

const MARKS: std::ops::RangeInclusive<u32> = 0x10FF00..=0x10FFFD;

/// True for the characters that marks are chosen from. An escape that spelled one could not be taken out again.
pub fn may_be_mark(c: char) -> bool {
    MARKS.contains(&(c as u32))
}

/// A private-use character that none of `texts` contains. JSON escapes could spell any character, so the texts
/// must be decoded strings.
pub fn choose_mark(contains: impl Fn(char) -> bool) -> Option<char> {
    MARKS.rev().filter_map(char::from_u32).find(|c| !contains(*c))
}

pub fn json_contains(value: &Json, c: char) -> bool {
    match value {
        Json::String(text) => text.contains(c),
        Json::Array(items) => items.iter().any(|item| json_contains(item, c)),
        Json::Object(members) => members.iter().any(|(key, item)| key.contains(c) || json_contains(item, c)),
        _ => false,
    }
}

fn mark_text(text: &str, mark: char, keep_reasoning: bool) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for (position, c) in text.char_indices() {
        out.push(c);
        if GUARDED.contains(&c) {
            let kept = keep_reasoning && REASONING_TAGS.iter().any(|tag| text[position..].starts_with(tag));
            if !kept {
                out.push(mark);
            }
        }
    }
    out
}

fn mark_value(value: Json, mark: char, keep_reasoning: bool) -> Json {
    match value {
        Json::String(text) => Json::String(mark_text(&text, mark, keep_reasoning)),
        Json::Array(items) => {
            Json::Array(items.into_iter().map(|item| mark_value(item, mark, keep_reasoning)).collect())
        }
        Json::Object(members) => Json::Object(
            members
                .into_iter()
                .map(|(key, item)| (mark_text(&key, mark, false), mark_value(item, mark, keep_reasoning)))
                .collect(),
        ),
        other => other,
    }
}

/// Marks every string in `variables`, whose "messages" are told apart by role.
pub fn mark_variables(variables: Map<String, Json>, mark: char) -> Map<String, Json> {
    variables
        .into_iter()
        .map(|(key, value)| {
            let marked = match (key.as_str(), value) {
                ("messages", Json::Array(messages)) => Json::Array(
                    messages
                        .into_iter()
                        .map(|message| {
                            let keep = message.get("role").and_then(Json::as_str) == Some("assistant");
                            mark_value(message, mark, keep)
                        })
                        .collect(),
                ),
                (_, value) => mark_value(value, mark, false),
            };
            (key, marked)
        })
        .collect()
}
