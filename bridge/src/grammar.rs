//! Grammars for answers: JSON schemas, regular expressions and Lark grammars, by the llguidance crate.
//!
//! `Grammars` is what all grammars of one tokenizer share: a trie of its tokens' bytes. Special tokens are in those
//! composed grammars alone that name them, gaps in none; a token that ends a text is allowed exactly where the grammar
//! may end. Tokens are matched by their bytes, whatever the tokenizer would have made of the same text.

use std::sync::{Arc, Mutex, PoisonError};

use llguidance::api::{GrammarWithLexer, StopReason, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, INVALID_TOKEN};
use llguidance::{ParserFactory, TokenParser};
use serde::Deserialize;
use serde_json::{json, Map, Value as Json};

use crate::one_of::as_any_of;
use crate::stack::on_own_stack;
use crate::tokenizer::{Table, CONTROL, GAP, SPECIAL};
use crate::{measured, Code, Failure};

const GRAMMAR_BYTES_MAX: usize = 256 << 10;
/// Of one that was made of a shorter one.
const MADE_BYTES_MAX: usize = 4 << 20;
/// The trie's nodes count their parents in ten bits. Longer tokens, which are runs of blanks, are in no grammar.
const TOKEN_BYTES_MAX: usize = 1000;
/// A kilobyte or two each. The crate's own limit would let one grammar take half a gigabyte.
const LEXER_STATES_MAX: usize = 32 << 10;
/// Below the crate's own limits: many optional parts in a row take time that grows with the square of their number, and
/// other answers wait while the next token of one is matched.
const GRAMMAR_SYMBOLS_MAX: usize = 20_000;
const STEP_ITEMS_MAX: usize = 20_000;
/// Between JSON's own tokens: a blank, or a line end and an indentation. Without a bound, blanks could go on for ever.
const JSON_BLANKS: &str = r"[ \t]|\r?\n[ \t]{0,40}";
/// Parts of a refused schema that are tried to find the one at fault.
const FAULT_TRIES_MAX: usize = 64;

const ERROR_CHARS_MAX: usize = 500;
const REGEX_SHOWN_MAX: usize = 60;

pub enum Kind {
    JsonSchema,
    Regex,
    Lark,
    Composed,
    Gbnf,
}

/// A Lark grammar with the schemas that it refers to as `@name` and the special tokens that are in it.
#[derive(Deserialize)]
struct Composed {
    lark: String,
    schemas: Vec<Named>,
    tokens: Vec<u32>,
}

/// Lark that was made of a GBNF grammar, with the tokens that it names.
#[derive(Deserialize)]
struct Made {
    lark: String,
    tokens: Vec<u32>,
    /// Any others may stand in it too, special ones among them.
    other_tokens: bool,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    /// What it describes, for messages.
    of: String,
    schema: Json,
    /// Keywords that cannot be kept are left out.
    lenient: bool,
}

pub struct Grammars {
    factory: ParserFactory,
    allowed: Arc<Allowed>,
    others: Vec<u32>, // All tokens but those that end a text.
}

/// Bits of tokens, 32 to a word.
struct Allowed {
    text: Vec<u32>, // May be in a grammar.
    ends: Vec<u32>,
}

fn set(words: &mut [u32], token: u32) {
    words[token as usize / 32] |= 1 << (token % 32);
}

/// llguidance's errors go on with a dump of its state, and may quote a whole grammar.
fn describe(error: &impl std::fmt::Display) -> String {
    let text = format!("{error}");
    let text = text.split("\n<").next().unwrap_or_default().trim();
    if text.chars().count() <= ERROR_CHARS_MAX {
        return text.to_string();
    }
    text.chars().take(ERROR_CHARS_MAX).chain("…".chars()).collect()
}

impl Grammars {
    pub fn new(table: &Table, ends: &[u32]) -> Result<Self, Failure> {
        let count = table.flags.len();
        if let Some(end) = ends.iter().find(|end| **end as usize >= count) {
            return Err(Failure::new(Code::Invalid, format!("end token {end} is not in the vocabulary of {count}")));
        }
        let mut text = vec![0; count.div_ceil(32)];
        let mut others = text.clone();
        let mut words = Vec::with_capacity(count);
        for id in 0..count {
            let bytes = &table.bytes[table.offsets[id] as usize..table.offsets[id + 1] as usize];
            // 0xFF is the crate's mark of special tokens, and never part of a text.
            let usable = table.flags[id] & (SPECIAL | CONTROL | GAP) == 0
                && !ends.contains(&(id as u32))
                && !bytes.is_empty()
                && bytes.len() <= TOKEN_BYTES_MAX
                && !bytes.contains(&TokTrie::SPECIAL_TOKEN_MARKER);
            if table.flags[id] & GAP == 0 && !ends.contains(&(id as u32)) && !bytes.is_empty() {
                set(&mut others, id as u32);
            }
            words.push(if usable { bytes.to_vec() } else { Vec::new() });
            if usable {
                set(&mut text, id as u32);
            }
        }
        let info = TokRxInfo::new(count as u32, ends.first().copied().unwrap_or(INVALID_TOKEN));
        let mut trie = TokTrie::from(&info, &words);
        if ends.len() > 1 {
            trie = trie.with_eos_tokens(ends);
        }
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices)
            .map_err(|e| Failure::new(Code::Internal, describe(&e)))?;
        factory.quiet();
        let limits = factory.limits_mut();
        limits.verbose_errors = false;
        limits.max_lexer_states = LEXER_STATES_MAX;
        limits.max_grammar_size = GRAMMAR_SYMBOLS_MAX;
        limits.step_max_items = STEP_ITEMS_MAX;
        Ok(Grammars { factory, allowed: Arc::new(Allowed { text, ends: ends.to_vec() }), others })
    }

    fn parser(&self, grammar: TopLevelGrammar) -> Result<TokenParser, String> {
        let parser = self.factory.create_parser(grammar).map_err(|e| describe(&e))?;
        Ok(parser)
    }

    fn schema_parser(&self, schema: &Json, lenient: bool, loose: &mut Vec<String>) -> Result<TokenParser, String> {
        self.parser(TopLevelGrammar::from_json_schema(with_options(schema, lenient, loose)?))
    }

    /// Goes down from a refused schema to the smallest part that is refused with the same words.
    fn find_fault(&self, root: &Json, lenient: bool, message: &str) -> String {
        let mut path = "$".to_string();
        let mut at = root.clone();
        let mut tries = 0;
        'deeper: loop {
            for (name, mut part) in parts_of(&at) {
                tries += 1;
                if tries > FAULT_TRIES_MAX {
                    return path;
                }
                // What it refers to.
                if let (Json::Object(members), Json::Object(whole)) = (&mut part, root) {
                    for key in ["$defs", "definitions", "$schema"] {
                        if let Some(value) = whole.get(key) {
                            members.entry(key).or_insert_with(|| value.clone());
                        }
                    }
                }
                if self.schema_parser(&part, lenient, &mut Vec::new()).is_err_and(|other| other == message) {
                    path.push_str(&name);
                    at = part;
                    continue 'deeper;
                }
            }
            return path;
        }
    }

    fn compile_schema(&self, text: &str, notes: &mut Vec<String>) -> Result<TokenParser, Failure> {
        let schema: Json = serde_json::from_str(text)
            .map_err(|e| Failure::new(Code::Invalid, format!("the JSON schema is not JSON: {e}")))?;
        let mut loose = Vec::new();
        let parser = self.schema_parser(&schema, false, &mut loose).map_err(|message| {
            let path = self.find_fault(&schema, false, &message);
            Failure::new(Code::Invalid, format!("the JSON schema cannot be used: {message} (at {path})"))
        })?;
        notes.extend(loose.iter().map(|path| note_of("the JSON schema", path)));
        Ok(parser)
    }

    fn compile_composed(
        &self,
        text: &str,
        tokens: &mut Vec<u32>,
        notes: &mut Vec<String>,
    ) -> Result<TokenParser, Failure> {
        let composed: Composed = serde_json::from_str(text)
            .map_err(|e| Failure::new(Code::Internal, format!("the composed grammar is not what it must be: {e}")))?;
        let count = self.allowed.text.len() * 32;
        if let Some(token) = composed.tokens.iter().find(|token| **token as usize >= count) {
            return Err(Failure::new(Code::Internal, format!("token {token} is not in the vocabulary")));
        }
        let at_fault = |named: &Named, message: &str| {
            let path = self.find_fault(&named.schema, named.lenient, message);
            Failure::new(Code::Invalid, format!("{} cannot be used: {message} (at {path})", named.of))
        };
        let mut grammars = vec![GrammarWithLexer::from_lark(composed.lark)];
        for named in &composed.schemas {
            let mut loose = Vec::new();
            let schema =
                with_options(&named.schema, named.lenient, &mut loose).map_err(|message| at_fault(named, &message))?;
            if !named.lenient {
                notes.extend(loose.iter().map(|path| note_of(&named.of, path)));
            }
            let grammar = GrammarWithLexer::from_json_schema(schema);
            grammars.push(GrammarWithLexer { name: Some(named.name.clone()), ..grammar });
        }
        *tokens = composed.tokens;
        self.parser(TopLevelGrammar { grammars, max_tokens: None }).map_err(|message| {
            for named in &composed.schemas {
                if let Err(message) = self.schema_parser(&named.schema, named.lenient, &mut Vec::new()) {
                    return at_fault(named, &message);
                }
            }
            Failure::new(Code::Invalid, format!("the calls cannot be held to a grammar: {message}"))
        })
    }

    pub fn compile(&self, kind: Kind, text: &str) -> Result<Grammar, Failure> {
        let most = if matches!(kind, Kind::Gbnf) { MADE_BYTES_MAX } else { GRAMMAR_BYTES_MAX };
        if text.len() > most {
            let message = format!("the grammar has {} bytes; at most {most} are read", text.len());
            return Err(Failure::new(Code::Invalid, message));
        }
        let (mut tokens, mut notes, mut other_tokens) = (Vec::new(), Vec::new(), false);
        let compile = || match kind {
            Kind::JsonSchema => self.compile_schema(text, &mut notes),
            Kind::Regex => self
                .parser(TopLevelGrammar::from_regex(whole_regex(text)))
                .map_err(|message| Failure::new(Code::Invalid, regex_fault(text, &message))),
            Kind::Lark => self.parser(TopLevelGrammar::from_lark(text.to_string())).map_err(|message| {
                Failure::new(Code::Invalid, format!("the Lark grammar cannot be used: {message}"))
            }),
            Kind::Gbnf => {
                let made: Made = serde_json::from_str(text).map_err(|e| {
                    Failure::new(Code::Internal, format!("the translated grammar is not what it must be: {e}"))
                })?;
                (tokens, other_tokens) = (made.tokens, made.other_tokens);
                self.parser(TopLevelGrammar::from_lark(made.lark)).map_err(|message| {
                    Failure::new(Code::Invalid, format!("the GBNF grammar cannot be used: {message}"))
                })
            }
            Kind::Composed => self.compile_composed(text, &mut tokens, &mut notes),
        };
        let (parser, bytes) = on_own_stack(|| {
            let (parser, bytes) = measured(compile);
            Ok((parser?, bytes))
        })?;
        let mut allowed = self.allowed.clone();
        if !tokens.is_empty() || other_tokens {
            let mut text = if other_tokens { self.others.clone() } else { allowed.text.clone() };
            tokens.iter().for_each(|token| set(&mut text, *token));
            allowed = Arc::new(Allowed { text, ends: allowed.ends.clone() });
        }
        let grammar = Grammar { parser: Mutex::new(parser), allowed, bytes, notes: notes.join("\n") };
        // Such as rules, or a schema's references, that only lead to each other.
        if let Err(failure) = grammar.matcher().allowed() {
            let message = format!("no answer fits the grammar: {}", failure.message);
            return Err(Failure::new(Code::Invalid, message));
        }
        Ok(grammar)
    }
}

fn note_of(what: &str, path: &str) -> String {
    format!("what fits several parts of {path} in {what} is not ruled out: they overlap")
}

/// The schema with what it does not say itself, without `oneOf`. `loose` gets the paths of those that are no more than
/// `anyOf` now.
fn with_options(schema: &Json, lenient: bool, loose: &mut Vec<String>) -> Result<Json, String> {
    let (rewritten, mut overlapping) = as_any_of(schema);
    loose.append(&mut overlapping);
    let mut schema = match rewritten {
        Json::Object(members) => members,
        Json::Bool(true) => Map::new(),
        Json::Bool(false) => return Err("the schema is false: nothing fits it".into()),
        _ => return Err("a schema is an object, true or false".into()),
    };
    // The crate reads its own options there: they would change what an answer can be.
    if schema.contains_key("x-guidance") {
        return Err("x-guidance is not supported".into());
    }
    schema.insert("x-guidance".into(), json!({ "whitespace_pattern": JSON_BLANKS, "lenient": lenient }));
    Ok(Json::Object(schema))
}

/// An answer matches as a whole, so anchors at its ends say nothing more.
fn whole_regex(text: &str) -> &str {
    let text = text.strip_prefix('^').unwrap_or(text);
    match text.strip_suffix('$') {
        Some(rest) if rest.bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 0 => rest,
        _ => text,
    }
}

/// One line about a refused expression. `message` is llguidance's, in which the expression is part of a grammar.
fn regex_fault(text: &str, message: &str) -> String {
    let pattern = whole_regex(text);
    let (why, at) = match regex_syntax::Parser::new().parse(pattern) {
        Err(regex_syntax::Error::Parse(e)) => (e.kind().to_string(), Some(e.span().start.offset)),
        Err(regex_syntax::Error::Translate(e)) => (e.kind().to_string(), Some(e.span().start.offset)),
        _ => (message.lines().next().unwrap_or_default().trim().to_string(), None),
    };
    let mut shown: String = text.chars().take(REGEX_SHOWN_MAX).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    let shown = shown.replace('\r', "\\r").replace('\n', "\\n");
    let place = at.map_or(String::new(), |at| {
        let before = usize::from(text.starts_with('^')) + pattern[..at].chars().count();
        format!("at character {}: ", before + 1)
    });
    format!("the regular expression '{shown}' cannot be used: {place}{}", why.replace('\n', " "))
}

/// The schemas directly within a schema, each with the path that leads to it.
fn parts_of(schema: &Json) -> Vec<(String, Json)> {
    let mut parts = Vec::new();
    let Json::Object(members) = schema else { return parts };
    for (key, value) in members {
        match (key.as_str(), value) {
            ("properties" | "patternProperties" | "$defs" | "definitions", Json::Object(named)) => {
                parts.extend(named.iter().map(|(name, part)| (format!(".{key}.{name}"), part.clone())));
            }
            ("anyOf" | "oneOf" | "allOf" | "prefixItems" | "items", Json::Array(list)) => {
                parts.extend(list.iter().enumerate().map(|(i, part)| (format!(".{key}[{i}]"), part.clone())));
            }
            ("items" | "additionalProperties" | "additionalItems", Json::Object(_)) => {
                parts.push((format!(".{key}"), value.clone()));
            }
            _ => {}
        }
    }
    parts
}

/// Compiled, and at its beginning.
pub struct Grammar {
    parser: Mutex<TokenParser>, // Only cloned.
    allowed: Arc<Allowed>,
    pub bytes: usize,
    /// What it does not keep of what it was made of, a line each.
    pub notes: String,
}

impl Grammar {
    pub fn matcher(&self) -> Matcher {
        let parser = self.parser.lock().unwrap_or_else(PoisonError::into_inner).deep_clone();
        let words = vec![0; self.allowed.text.len()];
        Matcher { inner: llguidance::Matcher::new(Ok(parser)), allowed: self.allowed.clone(), words }
    }
}

pub struct Matcher {
    inner: llguidance::Matcher,
    allowed: Arc<Allowed>,
    words: Vec<u32>,
}

/// What a grammar needs too many steps or states for is its maker's to change. The crate's matcher keeps no reason with
/// an error, so its words must tell.
fn failure_of(reason: StopReason, message: &str) -> Failure {
    let words = ["lexer error", "parser error", "Parser Error", "Current row has"];
    let too_complex = matches!(reason, StopReason::LexerTooComplex | StopReason::ParserTooComplex)
        || words.iter().any(|words| message.contains(words));
    if too_complex {
        return Failure::new(Code::Invalid, format!("the grammar is too complex to go on: {message}"));
    }
    Failure::new(Code::Internal, format!("the grammar cannot go on: {message}"))
}

impl Matcher {
    fn failure(&self, error: &impl std::fmt::Display) -> Failure {
        failure_of(self.inner.stop_reason(), &describe(error))
    }

    /// Nothing can follow.
    pub fn must_end(&self) -> bool {
        !self.inner.is_error() && self.inner.is_stopped()
    }

    /// The tokens that may come next, and whether the text may end here.
    pub fn allowed(&mut self) -> Result<(&[u32], bool), Failure> {
        let mut may_end = self.must_end();
        self.words.fill(0);
        if !may_end {
            may_end = self.inner.is_accepting().map_err(|e| self.failure(&e))?;
            match self.inner.compute_mask() {
                Ok(mask) => {
                    for (word, (mask, text)) in self.words.iter_mut().zip(mask.as_slice().iter().zip(&self.allowed.text)) {
                        *word = mask & text;
                    }
                }
                Err(e) if !may_end => return Err(self.failure(&e)),
                Err(_) => {}
            }
        }
        if may_end {
            for end in &self.allowed.ends {
                set(&mut self.words, *end);
            }
        }
        Ok((&self.words, may_end))
    }

    /// REQUIRES: `token` was allowed, and is no end.
    pub fn accept(&mut self, token: u32) -> Result<(), Failure> {
        self.inner.consume_token(token).map_err(|e| self.failure(&e))
    }
}
