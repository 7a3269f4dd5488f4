//! A tokenizer.json as two tokenizers over one shared model: one that parses all added tokens in a text, one that
//! leaves control tokens as the text they are; and a table of the bytes that every token decodes to.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value as Json;
use tokenizers::models::{ModelWrapper, TrainerWrapper};
use tokenizers::{
    AddedToken, DecoderWrapper, Model, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Token,
    TokenizerImpl,
};

use crate::{Code, Failure};

/// Ids above this are taken for a damaged file: the largest vocabularies known have 300,000 tokens.
const IDS_MAX: u32 = 1 << 24;
/// Longest token spelling that is believed.
const SPELLING_BYTES_MAX: usize = 1 << 16;

pub const SPECIAL: u8 = 1;
pub const CONTROL: u8 = 2;
pub const GAP: u8 = 4;

/// The model behind both tokenizers; vocabulary and merges are tens of megabytes, so they share it.
#[derive(Clone)]
struct SharedModel {
    model: Arc<ModelWrapper>,
    /// Ids that text must not become, with their spellings: a unigram's pieces include the control tokens, and a
    /// BPE that takes whole words first may know a word that is one.
    forbidden: Arc<HashMap<u32, String>>,
}

/// Rounds of cutting in `SharedModel::tokenize`. Each breaks every forbidden token that the last one found; only
/// tokens hidden by an overlapping one need a second.
const CUT_ROUNDS_MAX: usize = 64;

impl SharedModel {
    fn tokenize_pieces(&self, sequence: &str, cuts: &[usize]) -> tokenizers::Result<Vec<Token>> {
        let mut tokens = Vec::new();
        let mut begin = 0;
        for end in cuts.iter().copied().chain([sequence.len()]) {
            for mut token in self.model.tokenize(&sequence[begin..end])? {
                token.offsets = (token.offsets.0 + begin, token.offsets.1 + begin);
                tokens.push(token);
            }
            begin = end;
        }
        Ok(tokens)
    }

    /// Where to cut a text behind the first character of each forbidden token in `tokens`. Such a token without a
    /// second character, as the one for unknown characters can be, is the text itself and stays.
    fn cuts(&self, sequence: &str, tokens: &[Token]) -> Vec<usize> {
        let spelled = |token: &&Token| {
            let (begin, end) = token.offsets;
            self.forbidden.get(&token.id).is_some_and(|text| sequence.get(begin..end) == Some(text.as_str()))
        };
        let behind_first = |token: &Token| {
            let first = sequence[token.offsets.0..].chars().next().map_or(0, char::len_utf8);
            Some(token.offsets.0 + first).filter(|cut| *cut < token.offsets.1)
        };
        tokens.iter().filter(spelled).filter_map(behind_first).collect()
    }
}

impl Model for SharedModel {
    type Trainer = TrainerWrapper;

    fn tokenize(&self, sequence: &str) -> tokenizers::Result<Vec<Token>> {
        let mut tokens = self.model.tokenize(sequence)?;
        if self.forbidden.is_empty() {
            return Ok(tokens);
        }
        let mut cuts = Vec::new();
        for _ in 0..CUT_ROUNDS_MAX {
            let more = self.cuts(sequence, &tokens);
            if more.is_empty() {
                return Ok(tokens);
            }
            cuts.extend(more);
            cuts.sort_unstable();
            tokens = self.tokenize_pieces(sequence, &cuts)?;
        }
        Err("the text spells control tokens within control tokens".into())
    }
    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.model.token_to_id(token)
    }
    fn id_to_token(&self, id: u32) -> Option<String> {
        self.model.id_to_token(id)
    }
    fn get_vocab(&self) -> HashMap<String, u32> {
        self.model.get_vocab()
    }
    fn get_vocab_size(&self) -> usize {
        self.model.get_vocab_size()
    }
    fn save(&self, folder: &Path, prefix: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        self.model.save(folder, prefix)
    }
    fn get_trainer(&self) -> TrainerWrapper {
        self.model.get_trainer()
    }
}

impl<'de> Deserialize<'de> for SharedModel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let model = Arc::new(ModelWrapper::deserialize(deserializer)?);
        Ok(SharedModel { model, forbidden: Arc::default() })
    }
}

impl Serialize for SharedModel {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.model.serialize(serializer)
    }
}

type Inner =
    TokenizerImpl<SharedModel, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// What token i adds to decoded text: `bytes[offsets[i]..offsets[i + 1]]`.
pub struct Table {
    pub bytes: Vec<u8>,
    pub offsets: Vec<u32>,
    pub flags: Vec<u8>,
    pub strips_leading_space: bool,
}

pub struct Tokenizer {
    parsing: Inner,  // Matches every added token.
    literal: Inner,  // Leaves control tokens alone.
    pub table: Table,
}

#[derive(Deserialize)]
struct ListedToken {
    id: u32,
    content: String,
}

#[derive(Deserialize)]
struct Listing {
    #[serde(default)]
    added_tokens: Vec<ListedToken>,
}

impl Tokenizer {
    pub fn parse(json: &[u8], template_source: &str) -> Result<Self, Failure> {
        // This crate's thread pool must not start: the process has its own, sized and bound by the engine.
        tokenizers::utils::parallelism::set_parallelism(false);
        let corrupt = |e: serde_json::Error| Failure::new(Code::Corrupt, e.to_string());
        let listing: Listing = serde_json::from_slice(json).map_err(corrupt)?;
        let mut parsing: Inner = serde_json::from_slice(json).map_err(corrupt)?;
        parsing.with_padding(None);
        parsing
            .with_truncation(None)
            .map_err(|e| Failure::new(Code::Corrupt, e.to_string()))?;
        for token in &listing.added_tokens {
            let actual = parsing.token_to_id(&token.content);
            if !token.content.is_empty() && actual != Some(token.id) {
                return Err(Failure::new(
                    Code::Corrupt,
                    format!("added token {:?} claims id {} but the vocabulary gives {actual:?}", token.content, token.id),
                ));
            }
        }
        let literal = without_control_tokens(&parsing, template_source)?;
        let table = build_table(&parsing, &literal)?;
        check_post_processor(&parsing, &table)?;
        Ok(Tokenizer { parsing, literal, table })
    }

    pub fn encode(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<u32>, Failure> {
        let tokenizer = if parse_special { &self.parsing } else { &self.literal };
        tokenizer
            .encode_fast(text, add_special)
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|e| Failure::new(Code::Invalid, e.to_string()))
    }

    pub fn spelling(&self, id: u32) -> Option<String> {
        spelling(&self.parsing, id)
    }

    pub fn find(&self, text: &str) -> Option<u32> {
        self.parsing.token_to_id(text)
    }
}

fn spelling(tokenizer: &Inner, id: u32) -> Option<String> {
    tokenizer
        .get_added_vocabulary()
        .get_added_tokens_decoder()
        .get(&id)
        .map(|token| token.content.clone())
        .or_else(|| tokenizer.get_model().id_to_token(id))
}

/// Several models do not mark their role markers as special ("<｜User｜>", "<tool_response>"), so that decoding
/// keeps them; in a user's text they are control tokens all the same. What counts: the flag, the form <|…|>, or
/// brackets around something that the chat template mentions. Gemma's HTML tags are none of these.
fn is_control(token: &AddedToken, template_source: &str) -> bool {
    let text = token.content.as_str();
    let fenced = |open: &str, close: &str| {
        text.len() > open.len() + close.len() && text.starts_with(open) && text.ends_with(close)
    };
    token.special
        || fenced("<|", "|>")
        || fenced("<｜", "｜>")
        || ((fenced("<", ">") || fenced("[", "]") || fenced("]", "[")) && template_source.contains(text))
}

fn without_control_tokens(parsing: &Inner, template_source: &str) -> Result<Inner, Failure> {
    let mut literal = parsing.clone();
    let mut control: Vec<(u32, AddedToken)> = parsing
        .get_added_vocabulary()
        .get_added_tokens_decoder()
        .iter()
        .filter(|(_, token)| is_control(token, template_source))
        .map(|(id, token)| (*id, AddedToken { special: true, ..token.clone() }))
        .collect();
    control.sort_by_key(|(id, _)| *id);
    let forbidden: HashMap<u32, String> = control
        .iter()
        .filter(|(id, token)| parsing.get_model().token_to_id(&token.content) == Some(*id))
        .map(|(id, token)| (*id, token.content.clone()))
        .collect();
    literal.with_model(SharedModel { model: parsing.get_model().model.clone(), forbidden: Arc::new(forbidden) });
    literal
        .add_special_tokens(control.into_iter().map(|(_, token)| token).collect::<Vec<_>>())
        .map_err(|e| Failure::new(Code::Corrupt, e.to_string()))?;
    literal.set_encode_special_tokens(true);
    Ok(literal)
}

/// The steps of a decoder, in the order in which they see one token's spelling.
enum Step {
    ByteLevel,
    ByteFallback,
    Replace { from: String, to: String },
}

struct DecoderPlan {
    steps: Vec<Step>,
    strips_leading_space: bool,
}

fn unsupported_decoder(what: &str) -> Failure {
    Failure::new(
        Code::Unsupported,
        format!("decoder {what}; known: ByteLevel, ByteFallback, Replace, Fuse, Strip, Metaspace, Sequence"),
    )
}

fn plan_step(decoder: &Json, plan: &mut DecoderPlan, depth: usize) -> Result<(), Failure> {
    let kind = decoder["type"].as_str().unwrap_or("");
    match kind {
        "Sequence" if depth < 8 => {
            for inner in decoder["decoders"].as_array().into_iter().flatten() {
                plan_step(inner, plan, depth + 1)?;
            }
        }
        "ByteLevel" => plan.steps.push(Step::ByteLevel),
        "ByteFallback" => plan.steps.push(Step::ByteFallback),
        "Fuse" => {}
        "Replace" => match (decoder["pattern"]["String"].as_str(), decoder["content"].as_str()) {
            (Some(from), Some(to)) if !from.is_empty() => {
                plan.steps.push(Step::Replace { from: from.to_string(), to: to.to_string() })
            }
            _ => return Err(unsupported_decoder("Replace with a regular expression")),
        },
        "Strip" => match (decoder["content"].as_str(), decoder["start"].as_u64(), decoder["stop"].as_u64()) {
            (Some(" "), Some(1), Some(0)) => plan.strips_leading_space = true,
            (_, Some(0), Some(0)) => {}
            _ => return Err(unsupported_decoder("Strip of anything but one leading space")),
        },
        "Metaspace" => {
            let mark = decoder["replacement"].as_str().unwrap_or("▁").to_string();
            plan.steps.push(Step::Replace { from: mark, to: " ".to_string() });
            if decoder["prepend_scheme"].as_str() != Some("never") {
                plan.strips_leading_space = true;
            }
        }
        other => return Err(unsupported_decoder(&format!("{other:?}"))),
    }
    Ok(())
}

fn plan_decoder(tokenizer: &Inner) -> Result<DecoderPlan, Failure> {
    let mut plan = DecoderPlan { steps: Vec::new(), strips_leading_space: false };
    let decoder = tokenizer.get_decoder().ok_or_else(|| unsupported_decoder("absent"))?;
    let json = serde_json::to_value(decoder).map_err(|e| Failure::new(Code::Corrupt, e.to_string()))?;
    plan_step(&json, &mut plan, 0)?;
    Ok(plan)
}

/// The byte that GPT-2's alphabet writes as `c`: printable Latin-1 stands for itself, the other 68 bytes are
/// U+0100 and up in order.
fn byte_of(c: char) -> Option<u8> {
    let code = c as u32;
    match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => Some(code as u8),
        0x100..=0x120 => Some((code - 0x100) as u8),
        0x121..=0x142 => Some((code - 0x121 + 0x7F) as u8),
        0x143 => Some(0xAD),
        _ => None,
    }
}

fn fallback_byte(spelling: &str) -> Option<u8> {
    let digits = spelling.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

fn decoded_bytes(spelling: String, steps: &[Step]) -> Vec<u8> {
    let mut text = spelling;
    for step in steps {
        match step {
            Step::Replace { from, to } => {
                if text.contains(from.as_str()) {
                    text = text.replace(from.as_str(), to);
                }
            }
            Step::ByteFallback => {
                if let Some(byte) = fallback_byte(&text) {
                    return vec![byte];
                }
            }
            Step::ByteLevel => {
                if let Some(bytes) = text.chars().map(byte_of).collect::<Option<Vec<u8>>>() {
                    return bytes;
                }
            }
        }
    }
    text.into_bytes()
}

fn build_table(parsing: &Inner, literal: &Inner) -> Result<Table, Failure> {
    let plan = plan_decoder(parsing)?;
    let added = parsing.get_added_vocabulary();
    let mut spellings: Vec<(u32, String)> =
        parsing.get_model().get_vocab().into_iter().map(|(text, id)| (id, text)).collect();
    for id in added.get_added_tokens_decoder().keys() {
        // The form that the decoder inverts, which is not the content where a normaliser rewrote it.
        spellings.push((*id, added.simple_id_to_token(*id).unwrap_or_default()));
    }
    // Stable: an added token comes after the model's own entry of the same id and wins.
    spellings.sort_by_key(|(id, _)| *id);
    let count = spellings.last().map_or(0, |(id, _)| *id as usize + 1);
    if count == 0 || count > IDS_MAX as usize {
        return Err(Failure::new(Code::Corrupt, format!("the vocabulary's largest id + 1 is {count}")));
    }
    let mut table = Table {
        bytes: Vec::new(),
        offsets: Vec::with_capacity(count + 1),
        flags: vec![GAP; count],
        strips_leading_space: plan.strips_leading_space,
    };
    let mut entries = spellings.into_iter().peekable();
    for id in 0..count as u32 {
        table.offsets.push(table.bytes.len() as u32);
        let mut chosen = None;
        while entries.peek().is_some_and(|(next, _)| *next == id) {
            chosen = entries.next();
        }
        let Some((_, text)) = chosen else { continue };
        if text.len() > SPELLING_BYTES_MAX || text.contains('\0') {
            return Err(Failure::new(
                Code::Corrupt,
                format!("token {id} is {} bytes long or holds a NUL", text.len()),
            ));
        }
        let special = added.get_added_tokens_decoder().get(&id).is_some_and(|token| token.special);
        let control =
            literal.get_added_vocabulary().get_added_tokens_decoder().get(&id).is_some_and(|t| t.special);
        table.flags[id as usize] = if special { SPECIAL } else { 0 } | if control { CONTROL } else { 0 };
        table.bytes.extend(decoded_bytes(text, &plan.steps));
        if table.bytes.len() > u32::MAX as usize {
            return Err(Failure::new(Code::Corrupt, "the vocabulary's text exceeds 4 GiB"));
        }
    }
    table.offsets.push(table.bytes.len() as u32);
    Ok(table)
}

/// Template post-processors carry ids of their own; one outside the vocabulary would reach the embedding table.
fn check_post_processor(tokenizer: &Inner, table: &Table) -> Result<(), Failure> {
    let encoding = tokenizer
        .encode_fast("", true)
        .map_err(|e| Failure::new(Code::Corrupt, format!("the post-processor fails: {e}")))?;
    match encoding.get_ids().iter().find(|id| **id as usize >= table.flags.len()) {
        Some(id) => Err(Failure::new(Code::Corrupt, format!("the post-processor adds id {id}, outside the vocabulary"))),
        None => Ok(()),
    }
}
