//! `oneOf` for a grammar, which knows choices of what may overlap alone.
//!
//! What fits exactly one part is what fits any of them where no value fits two. So each part is narrowed until it is
//! apart from the others: it forbids what another one requires, requires what another one forbids, leaves out types and
//! constants that another one takes. Every answer then fits one part and no other; values that can be told apart by
//! nothing of that kind are not written. Where no such way is found, the parts stay as they are, and the path of the
//! `oneOf` is told. Nothing here is wrong by being too careful: "apart" and "within" are said only where they are proven.

use std::cell::Cell;

use llguidance::derivre::{RegexAst, RegexBuilder};
use llguidance::regex_to_lark;
use serde_json::{json, Map, Value as Json};

type Object = Map<String, Json>;

/// Comparisons of two schemas, or of a schema and a value, in one schema.
const STEPS_MAX: usize = 50_000;
const DEPTH_MAX: usize = 24;
/// What comparing two patterns counts for: it builds their automaton.
const PATTERN_STEPS: usize = 1_000;
const PATTERN_STATES_MAX: u64 = 2_000;

const TYPES: [&str; 6] = ["null", "boolean", "number", "string", "array", "object"];
const ALL: u8 = 0x3F;
const NUMBER: u8 = 1 << 2;
const STRING: u8 = 1 << 3;
const ARRAY: u8 = 1 << 4;
const OBJECT: u8 = 1 << 5;

/// No text is of two of these. Of `uri`, see there.
const APART_FORMATS: [&str; 8] = ["date", "time", "date-time", "duration", "email", "ipv4", "uuid", "uri"];

const ANNOTATIONS: [&str; 16] = [
    "title", "description", "default", "examples", "$comment", "$id", "id", "$schema", "$anchor", "$defs",
    "definitions", "readOnly", "writeOnly", "deprecated", "contentMediaType", "contentEncoding",
];
const COMBINING: [&str; 9] =
    ["$ref", "anyOf", "oneOf", "allOf", "not", "if", "dependentSchemas", "dependentRequired", "dependencies"];

/// The schema without `oneOf`, and the paths of those whose parts could not be kept apart.
pub fn as_any_of(root: &Json) -> (Json, Vec<String>) {
    let rewriter = Rewriter { root, steps: Cell::new(0) };
    let mut loose = Vec::new();
    let schema = rewriter.rewritten(root, "$", &mut loose);
    (schema, loose)
}

#[derive(Clone, Copy, PartialEq)]
enum Fits {
    Yes,
    No,
    Unknown,
}

struct Rewriter<'a> {
    root: &'a Json,
    steps: Cell<usize>,
}

fn type_bit(name: &str) -> u8 {
    let name = if name == "integer" { "number" } else { name };
    TYPES.iter().position(|known| *known == name).map_or(0, |at| 1 << at)
}

fn type_of(value: &Json) -> u8 {
    type_bit(match value {
        Json::Null => "null",
        Json::Bool(_) => "boolean",
        Json::Number(_) => "number",
        Json::String(_) => "string",
        Json::Array(_) => "array",
        Json::Object(_) => "object",
    })
}

fn same(a: &Json, b: &Json) -> bool {
    match (a, b) {
        (Json::Number(_), Json::Number(_)) => a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}

/// The values that a schema lists.
fn listed(schema: &Object) -> Option<Vec<&Json>> {
    match (schema.get("const"), schema.get("enum")) {
        (Some(value), None) => Some(vec![value]),
        (None, Some(Json::Array(values))) => Some(values.iter().collect()),
        _ => None,
    }
}

/// What a schema says of the type by itself.
fn types(schema: &Object) -> u8 {
    let said = match schema.get("type") {
        Some(Json::String(name)) => type_bit(name),
        Some(Json::Array(names)) => names.iter().filter_map(Json::as_str).fold(0, |bits, name| bits | type_bit(name)),
        _ => ALL,
    };
    said & listed(schema).map_or(ALL, |values| values.iter().fold(0, |bits, value| bits | type_of(value)))
}

fn type_names(bits: u8) -> Json {
    TYPES.iter().enumerate().filter(|(at, _)| bits & 1 << at != 0).map(|(_, name)| json!(name)).collect()
}

fn count(schema: &Object, key: &str, otherwise: u64) -> u64 {
    schema.get(key).and_then(Json::as_u64).unwrap_or(otherwise)
}

fn required(schema: &Object) -> Vec<&str> {
    match schema.get("required") {
        Some(Json::Array(names)) => names.iter().filter_map(Json::as_str).collect(),
        _ => Vec::new(),
    }
}

/// What a member of this name must be; nothing where it is not told for sure.
fn member<'a>(schema: &'a Object, name: &str) -> Option<&'a Json> {
    let named = schema.get("properties").and_then(|properties| properties.get(name));
    if named.is_some() || schema.contains_key("patternProperties") {
        return named;
    }
    schema.get("additionalProperties")
}

/// The item at a place, likewise. Draft 4 to 2019 list items where 2020 has prefixItems.
fn item(schema: &Object, at: usize) -> Option<&Json> {
    let (list, rest) = match (schema.get("prefixItems"), schema.get("items")) {
        (_, Some(Json::Array(list))) => (Some(list), schema.get("additionalItems")),
        (Some(Json::Array(list)), rest) => (Some(list), rest),
        (_, rest) => (None, rest),
    };
    list.and_then(|list| list.get(at)).or(rest)
}

/// The least and the most that a number may be, and whether it may be that.
fn bounds(schema: &Object) -> ((f64, bool), (f64, bool)) {
    let number = |key: &str| schema.get(key).and_then(Json::as_f64);
    let open = |key: &str| schema.get(key) == Some(&Json::Bool(true)); // Draft 4.
    let mut least = (number("minimum").unwrap_or(f64::NEG_INFINITY), !open("exclusiveMinimum"));
    if let Some(value) = number("exclusiveMinimum").filter(|value| *value >= least.0) {
        least = (value, false);
    }
    let mut most = (number("maximum").unwrap_or(f64::INFINITY), !open("exclusiveMaximum"));
    if let Some(value) = number("exclusiveMaximum").filter(|value| *value <= most.0) {
        most = (value, false);
    }
    (least, most)
}

fn begins_behind(least: (f64, bool), most: (f64, bool)) -> bool {
    least.0 > most.0 || (least.0 == most.0 && !(least.1 && most.1))
}

fn formats_apart(a: &Object, b: &Object) -> bool {
    let (Some(Json::String(a)), Some(Json::String(b))) = (a.get("format"), b.get("format")) else { return false };
    let known = |name: &String| APART_FORMATS.contains(&name.as_str());
    // An address of mail without its quotes has no colon, but one with quotes may.
    let mail = |a: &String, b: &String| a == "uri" && b == "email";
    a != b && known(a) && known(b) && !mail(a, b) && !mail(b, a)
}

fn patterns_apart(a: &Object, b: &Object, steps: &Cell<usize>) -> bool {
    if !a.contains_key("pattern") && !b.contains_key("pattern") {
        return false;
    }
    let text = |schema: &Object| -> RegexAst {
        let most = schema.get("maxLength").map_or(String::new(), Json::to_string);
        let mut all = vec![RegexAst::Regex(format!("(?s:.{{{},{most}}})", count(schema, "minLength", 0)))];
        if let Some(Json::String(pattern)) = schema.get("pattern") {
            all.push(RegexAst::SearchRegex(regex_to_lark(pattern, "dw")));
        }
        if let Some(values) = listed(schema) {
            let texts = values.iter().filter_map(|value| value.as_str());
            all.push(RegexAst::Or(texts.map(|text| RegexAst::Literal(text.into())).collect()));
        }
        RegexAst::And(all)
    };
    steps.set(steps.get() + PATTERN_STEPS);
    if steps.get() > STEPS_MAX {
        return false;
    }
    let mut builder = RegexBuilder::new();
    let Ok(both) = builder.mk(&RegexAst::And(vec![text(a), text(b)])) else { return false };
    builder.to_regex_limited(both, PATTERN_STATES_MAX).is_ok_and(|mut regex| regex.always_empty())
}

/// What is said of values of one type alone.
fn keywords_of(bit: u8) -> &'static [&'static str] {
    match bit {
        NUMBER => &["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"],
        STRING => &["minLength", "maxLength", "pattern", "format"],
        ARRAY => &["items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems", "contains",
                   "unevaluatedItems"],
        OBJECT => &["properties", "patternProperties", "additionalProperties", "required", "minProperties",
                    "maxProperties", "propertyNames", "unevaluatedProperties"],
        _ => &[],
    }
}

/// A schema that says nothing of values of this type but the type itself.
fn takes_all_of(schema: &Object, bit: u8) -> bool {
    (bit != NUMBER || !says_integer(schema))
        && listed(schema).is_none()
        && !keywords_of(bit).iter().any(|key| schema.contains_key(*key))
}

fn says_integer(schema: &Object) -> bool {
    match schema.get("type") {
        Some(Json::String(name)) => name == "integer",
        Some(Json::Array(names)) => names.contains(&json!("integer")) && !names.contains(&json!("number")),
        _ => false,
    }
}

impl<'a> Rewriter<'a> {
    fn step(&self, depth: usize) -> bool {
        self.steps.set(self.steps.get() + 1);
        depth < DEPTH_MAX && self.steps.get() < STEPS_MAX
    }

    fn target(&self, schema: &Object) -> Option<&'a Json> {
        let Some(Json::String(reference)) = schema.get("$ref") else { return None };
        self.root.pointer(reference.strip_prefix('#')?)
    }

    /// What it refers to where it says nothing else.
    fn resolved<'b>(&'b self, schema: &'b Json) -> &'b Json {
        let mut at = schema;
        for _ in 0..DEPTH_MAX {
            let Json::Object(members) = at else { return at };
            if members.keys().any(|key| key != "$ref" && !ANNOTATIONS.contains(&key.as_str())) {
                return at;
            }
            match self.target(members) {
                Some(next) => at = next,
                None => return at,
            }
        }
        at
    }

    /// No value fits both.
    fn apart(&self, a: &Json, b: &Json, depth: usize) -> bool {
        if !self.step(depth) {
            return false;
        }
        if *a == Json::Bool(false) || *b == Json::Bool(false) {
            return true;
        }
        let (Json::Object(x), Json::Object(y)) = (a, b) else { return false };
        for (one, other) in [(x, b), (y, a)] {
            if self.target(one).is_some_and(|target| self.apart(target, other, depth + 1)) {
                return true;
            }
            if let Some(Json::Array(parts)) = one.get("allOf") {
                if parts.iter().any(|part| self.apart(part, other, depth + 1)) {
                    return true;
                }
            }
            for key in ["anyOf", "oneOf"] {
                if let Some(Json::Array(parts)) = one.get(key) {
                    if parts.iter().all(|part| self.apart(part, other, depth + 1)) {
                        return true;
                    }
                }
            }
            if let Some(values) = listed(one) {
                if values.iter().all(|value| self.fits(value, other, depth + 1) == Fits::No) {
                    return true;
                }
            }
        }
        let common = types(x) & types(y);
        (0..TYPES.len()).map(|at| 1 << at).filter(|bit| common & bit != 0).all(|bit| self.apart_in(bit, x, y, depth))
    }

    fn apart_in(&self, bit: u8, a: &Object, b: &Object, depth: usize) -> bool {
        let beyond = |least: &str, most: &str| {
            let never = |x: &Object, y: &Object| count(x, least, 0) > count(y, most, u64::MAX);
            never(a, b) || never(b, a) || never(a, a) || never(b, b)
        };
        match bit {
            NUMBER => {
                let ((least_a, most_a), (least_b, most_b)) = (bounds(a), bounds(b));
                begins_behind(least_a, most_b) || begins_behind(least_b, most_a)
            }
            STRING => beyond("minLength", "maxLength") || formats_apart(a, b) || patterns_apart(a, b, &self.steps),
            ARRAY => {
                let sure = count(a, "minItems", 0).max(count(b, "minItems", 0)).min(64) as usize;
                beyond("minItems", "maxItems") || (0..sure).any(|at| self.items_apart(a, b, at, depth))
            }
            OBJECT => {
                beyond("minProperties", "maxProperties")
                    || required(a).iter().chain(&required(b)).any(|name| self.members_apart(a, b, name, depth))
            }
            _ => false,
        }
    }

    fn items_apart(&self, a: &Object, b: &Object, at: usize, depth: usize) -> bool {
        let any = Json::Bool(true);
        self.apart(item(a, at).unwrap_or(&any), item(b, at).unwrap_or(&any), depth + 1)
    }

    fn members_apart(&self, a: &Object, b: &Object, name: &str, depth: usize) -> bool {
        let any = Json::Bool(true);
        self.apart(member(a, name).unwrap_or(&any), member(b, name).unwrap_or(&any), depth + 1)
    }

    fn fits(&self, value: &Json, schema: &Json, depth: usize) -> Fits {
        if !self.step(depth) {
            return Fits::Unknown;
        }
        let Json::Object(said) = schema else {
            return if *schema == Json::Bool(true) { Fits::Yes } else { Fits::No };
        };
        if types(said) & type_of(value) == 0 {
            return Fits::No;
        }
        if says_integer(said) && value.as_f64().is_some_and(|number| number.fract() != 0.0) {
            return Fits::No;
        }
        let mut sure = Fits::Yes;
        for (key, rule) in said {
            match self.keeps(value, key, rule, said, depth) {
                Fits::No => return Fits::No,
                Fits::Unknown => sure = Fits::Unknown,
                Fits::Yes => {}
            }
        }
        sure
    }

    /// Whether a value keeps one keyword.
    fn keeps(&self, value: &Json, key: &str, rule: &Json, schema: &Object, depth: usize) -> Fits {
        let sure = |kept: bool| if kept { Fits::Yes } else { Fits::No };
        let fits = |part: &Json| self.fits(value, part, depth + 1);
        let parts = || rule.as_array().map_or(Vec::new(), |parts| parts.iter().map(fits).collect::<Vec<_>>());
        let all = |kept: &[Fits]| {
            let worst = kept.iter().find(|one| **one == Fits::No);
            *worst.or_else(|| kept.iter().find(|one| **one == Fits::Unknown)).unwrap_or(&Fits::Yes)
        };
        match (key, value) {
            ("type", _) => Fits::Yes, // Was looked at.
            ("const", _) => sure(same(value, rule)),
            ("enum", _) => sure(rule.as_array().is_some_and(|values| values.iter().any(|one| same(one, value)))),
            ("$ref", _) => self.target(schema).map_or(Fits::Unknown, fits),
            ("allOf", _) => all(&parts()),
            ("anyOf" | "oneOf", _) => {
                let parts = parts();
                let unknown = parts.contains(&Fits::Unknown);
                match parts.iter().filter(|one| **one == Fits::Yes).count() {
                    0 if !unknown => Fits::No,
                    1 if !unknown => Fits::Yes,
                    many if many > 0 && key == "anyOf" => Fits::Yes,
                    many if many > 1 => Fits::No,
                    _ => Fits::Unknown,
                }
            }
            ("minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum", Json::Number(_)) => {
                let at = (value.as_f64().unwrap_or(f64::NAN), true);
                let (least, most) = bounds(schema);
                sure(!begins_behind(at, most) && !begins_behind(least, at))
            }
            ("minLength", Json::String(text)) => sure(text.chars().count() as u64 >= count(schema, key, 0)),
            ("maxLength", Json::String(text)) => sure(text.chars().count() as u64 <= count(schema, key, u64::MAX)),
            ("required", Json::Object(members)) => {
                sure(required(schema).iter().all(|name| members.contains_key(*name)))
            }
            ("properties" | "additionalProperties", Json::Object(members)) => {
                if schema.contains_key("patternProperties") {
                    return Fits::Unknown;
                }
                let any = Json::Bool(true);
                let fit = |(name, one): (&String, &Json)| {
                    self.fits(one, member(schema, name).unwrap_or(&any), depth + 1)
                };
                all(&members.iter().map(fit).collect::<Vec<_>>())
            }
            ("minItems", Json::Array(items)) => sure(items.len() as u64 >= count(schema, key, 0)),
            ("maxItems", Json::Array(items)) => sure(items.len() as u64 <= count(schema, key, u64::MAX)),
            ("items" | "prefixItems" | "additionalItems", Json::Array(items)) => {
                let any = Json::Bool(true);
                let fit = |(at, one)| self.fits(one, item(schema, at).unwrap_or(&any), depth + 1);
                all(&items.iter().enumerate().map(fit).collect::<Vec<_>>())
            }
            _ if ANNOTATIONS.contains(&key) => Fits::Yes,
            _ if COMBINING.contains(&key) => Fits::Unknown,
            _ if keywords_of(type_of(value)).contains(&key) => Fits::Unknown,
            _ => Fits::Yes, // Of another type, or of no meaning.
        }
    }

    /// Ways to be apart from `b` for what fits `a`, each of them a schema, that together leave out nothing but what
    /// this cannot express; none: all of `a` is within `b`. Nothing: no way was found.
    fn ways_apart(&self, a: &Json, b: &Json) -> Option<Vec<Json>> {
        let (Json::Object(x), Json::Object(y)) = (self.resolved(a), self.resolved(b)) else { return None };
        if COMBINING.iter().any(|key| x.contains_key(*key) || y.contains_key(*key)) {
            return None;
        }
        if let Some(values) = listed(x) {
            let mut left = Vec::new();
            for value in values {
                match self.fits(value, self.resolved(b), 0) {
                    Fits::Yes => {}
                    Fits::No => left.push(value.clone()),
                    Fits::Unknown => return None,
                }
            }
            return Some(if left.is_empty() { Vec::new() } else { vec![json!({ "enum": left })] });
        }
        let mut ways = Vec::new();
        let mut others = types(x) & !types(y);
        for bit in (0..TYPES.len()).map(|at| 1u8 << at).filter(|bit| types(x) & types(y) & bit != 0) {
            if self.apart_in(bit, x, y, 0) {
                others |= bit;
                continue;
            }
            let before = ways.len();
            self.ways_apart_in(bit, x, y, &mut ways);
            if ways.len() == before && !takes_all_of(y, bit) {
                return None;
            }
        }
        if others != 0 {
            ways.push(json!({ "type": type_names(others) }));
        }
        Some(ways)
    }

    fn ways_apart_in(&self, bit: u8, a: &Object, b: &Object, ways: &mut Vec<Json>) {
        let name = TYPES[bit.trailing_zeros() as usize];
        let mut outside = |least: &str, most: &str| {
            if let Some(value) = b.get(least).and_then(Json::as_u64).filter(|value| *value > count(a, least, 0)) {
                ways.push(json!({ "type": name, most: value - 1 }));
            }
            if let Some(value) = b.get(most).and_then(Json::as_u64).filter(|value| *value < count(a, most, u64::MAX)) {
                ways.push(json!({ "type": name, least: value + 1 }));
            }
        };
        match bit {
            STRING => outside("minLength", "maxLength"),
            NUMBER => {
                let ((least_a, most_a), (least, most)) = (bounds(a), bounds(b));
                let keyword = |taken: bool, open: &'static str, closed: &'static str| if taken { open } else { closed };
                if least.0.is_finite() && !begins_behind(least_a, (least.0, !least.1)) {
                    ways.push(json!({ "type": name, keyword(least.1, "exclusiveMaximum", "maximum"): least.0 }));
                }
                if most.0.is_finite() && !begins_behind((most.0, !most.1), most_a) {
                    ways.push(json!({ "type": name, keyword(most.1, "exclusiveMinimum", "minimum"): most.0 }));
                }
            }
            ARRAY => {
                outside("minItems", "maxItems");
                // With nothing in it a list fits both.
                if count(a, "minItems", 0) == 0 && self.items_apart(a, b, 0, 0) {
                    ways.push(json!({ "type": name, "minItems": 1 }));
                }
            }
            OBJECT => {
                let needed = required(a);
                for forbidden in required(b).iter().filter(|name| !needed.contains(name)) {
                    ways.push(json!({ "type": name, "properties": { *forbidden: false } }));
                }
                let Some(Json::Object(properties)) = a.get("properties") else { return };
                for own in properties.keys().filter(|own| !needed.contains(&own.as_str())) {
                    if *properties.get(own).unwrap_or(&Json::Null) != Json::Bool(false)
                        && self.members_apart(a, b, own, 0)
                    {
                        ways.push(json!({ "type": name, "required": [own] }));
                    }
                }
            }
            _ => {}
        }
    }

    /// The parts, each apart from all others; nothing where that cannot be had.
    fn kept_apart(&self, parts: &[Json]) -> Option<Vec<Vec<Json>>> {
        let mut out = Vec::new();
        for (i, part) in parts.iter().enumerate() {
            let mut rules = Vec::new();
            let mut within = false;
            for (j, other) in parts.iter().enumerate() {
                if i == j || self.apart(part, other, 0) {
                    continue;
                }
                let mut ways = self.ways_apart(part, other)?;
                within |= ways.is_empty();
                match ways.len() {
                    0 | 1 => rules.append(&mut ways),
                    _ => rules.push(json!({ "anyOf": ways })),
                }
            }
            out.push(if within { vec![Json::Bool(false)] } else { rules });
        }
        let some_left = out.iter().any(|rules| rules.first() != Some(&Json::Bool(false)));
        some_left.then_some(out)
    }

    fn rewritten(&self, schema: &Json, path: &str, loose: &mut Vec<String>) -> Json {
        let Json::Object(members) = schema else { return schema.clone() };
        let mut out = Object::new();
        for (key, value) in members {
            let below = format!("{path}.{key}");
            let mut list = |parts: &Vec<Json>| -> Vec<Json> {
                parts.iter().enumerate().map(|(i, part)| self.rewritten(part, &format!("{below}[{i}]"), loose)).collect()
            };
            match (key.as_str(), value) {
                ("properties" | "patternProperties" | "$defs" | "definitions", Json::Object(named)) => {
                    let named = named
                        .iter()
                        .map(|(name, part)| (name.clone(), self.rewritten(part, &format!("{below}.{name}"), loose)))
                        .collect::<Object>();
                    out.insert(key.clone(), Json::Object(named));
                }
                ("items" | "additionalItems" | "additionalProperties", Json::Object(_)) => {
                    let part = self.rewritten(value, &below, loose);
                    out.insert(key.clone(), part);
                }
                ("anyOf" | "allOf" | "prefixItems" | "items", Json::Array(parts)) => {
                    let parts = list(parts);
                    out.insert(key.clone(), Json::Array(parts));
                }
                ("oneOf", Json::Array(parts)) => {
                    let mut choices = list(parts);
                    match self.kept_apart(parts) {
                        Some(rules) => {
                            for (choice, rules) in choices.iter_mut().zip(rules) {
                                if !rules.is_empty() {
                                    let all = [vec![choice.take()], rules].concat();
                                    *choice = json!({ "allOf": all });
                                }
                            }
                        }
                        None => loose.push(below),
                    }
                    // Beside an anyOf of its own it stands in an allOf.
                    match (members.contains_key("anyOf"), members.contains_key("allOf")) {
                        (false, _) => out.insert("anyOf".into(), Json::Array(choices)),
                        (true, false) => out.insert("allOf".into(), json!([{ "anyOf": choices }])),
                        (true, true) => out.insert(key.clone(), value.clone()),
                    };
                }
                _ => {
                    out.insert(key.clone(), value.clone());
                }
            }
        }
        Json::Object(out)
    }
}
