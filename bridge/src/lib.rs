//! The C ABI of `include/mlxf_bridge.h`. This file holds every `unsafe` block; the other modules are safe Rust.

mod bounds;
mod grammar;
mod guard;
mod one_of;
mod print;
mod stack;
mod strftime;
mod template;
mod tojson;
mod tokenizer;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    static TAKEN: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, and how many bytes each thread has taken and not given back: what a compiled grammar holds
/// can be told in no other way.
struct Counting;

fn count(bytes: isize) {
    let _ = TAKEN.try_with(|taken| taken.set(taken.get() + bytes));
}

// Safety: all of it is the system allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        System.alloc(layout)
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        System.alloc_zeroed(layout)
    }
    unsafe fn dealloc(&self, data: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        System.dealloc(data, layout)
    }
    unsafe fn realloc(&self, data: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        System.realloc(data, layout, size)
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// What `work` makes, and the bytes that it took on this thread and still holds.
pub fn measured<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = TAKEN.with(Cell::get);
    let made = work();
    (made, (TAKEN.with(Cell::get) - before).max(0) as usize)
}

/// Why a call failed; the discriminants are those of `mlxf_bridge_code`.
#[derive(Clone, Copy)]
pub enum Code {
    Invalid = 1,
    Corrupt = 2,
    Unsupported = 3,
    Budget = 4,
    Internal = 5,
}

pub struct Failure {
    pub code: Code,
    pub message: String,
}

impl Failure {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Failure { code, message: message.into() }
    }
}

#[repr(C)]
pub struct Bytes {
    data: *mut u8,
    size: usize,
}

impl Bytes {
    fn from_vec(bytes: Vec<u8>) -> Self {
        if bytes.is_empty() {
            return Bytes { data: std::ptr::null_mut(), size: 0 };
        }
        let boxed = bytes.into_boxed_slice();
        let size = boxed.len();
        Bytes { data: Box::into_raw(boxed) as *mut u8, size }
    }
}

#[repr(C)]
pub struct Vocabulary {
    bytes: *const u8,
    offsets: *const u32,
    flags: *const u8,
    count: usize,
    strips_leading_space: i32,
}

unsafe fn slice<'a>(data: *const u8, size: usize) -> &'a [u8] {
    if data.is_null() || size == 0 {
        &[]
    } else {
        std::slice::from_raw_parts(data, size)
    }
}

fn utf8<'a>(bytes: &'a [u8], what: &str) -> Result<&'a str, Failure> {
    std::str::from_utf8(bytes).map_err(|e| {
        Failure::new(Code::Invalid, format!("{what} is not UTF-8 from byte {}", e.valid_up_to()))
    })
}

fn describe_panic(payload: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        text.to_string()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "unknown panic".to_string()
    }
}

/// Panics become failures that the caller reports: nothing of them goes to stderr, where they would look like crashes.
fn keep_panics_quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| std::panic::set_hook(Box::new(|_| {})));
}

/// Runs `work`, turns panics into failures and stores the outcome.
unsafe fn guarded<T>(
    error: *mut Bytes,
    work: impl FnOnce() -> Result<T, Failure>,
    store: impl FnOnce(T),
) -> i32 {
    keep_panics_quiet();
    let failure = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => {
            store(value);
            return 0;
        }
        Ok(Err(failure)) => failure,
        Err(payload) => Failure::new(Code::Internal, describe_panic(payload.as_ref())),
    };
    if !error.is_null() {
        *error = Bytes::from_vec(failure.message.into_bytes());
    }
    failure.code as i32
}

/// # Safety
/// `bytes` came from this library and has not been freed.
#[no_mangle]
pub unsafe extern "C" fn mlxf_bytes_free(bytes: Bytes) {
    if !bytes.data.is_null() {
        drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(bytes.data, bytes.size)));
    }
}

/// # Safety
/// The pointers are valid for their sizes; `out` and `error` are writable.
#[no_mangle]
pub unsafe extern "C" fn mlxf_tokenizer_create(
    json: *const u8,
    json_size: usize,
    template_source: *const u8,
    template_size: usize,
    out: *mut *mut tokenizer::Tokenizer,
    error: *mut Bytes,
) -> i32 {
    let json = slice(json, json_size);
    let source = slice(template_source, template_size);
    guarded(
        error,
        || {
            // The crate panics on some contents that its own writer never makes, such as half a surrogate pair.
            let parse = || tokenizer::Tokenizer::parse(json, &String::from_utf8_lossy(source));
            catch_unwind(AssertUnwindSafe(parse)).unwrap_or_else(|panic| {
                let cause = describe_panic(panic.as_ref());
                Err(Failure::new(Code::Corrupt, format!("the tokenizer's JSON cannot be used: {cause}")))
            })
        },
        |value| *out = Box::into_raw(Box::new(value)),
    )
}

/// # Safety
/// `handle` came from `mlxf_tokenizer_create` and is not used again.
#[no_mangle]
pub unsafe extern "C" fn mlxf_tokenizer_destroy(handle: *mut tokenizer::Tokenizer) {
    if !handle.is_null() {
        let _ = catch_unwind(AssertUnwindSafe(|| drop(Box::from_raw(handle))));
    }
}

/// # Safety
/// `handle` is live; the result is valid while it lives.
#[no_mangle]
pub unsafe extern "C" fn mlxf_tokenizer_vocabulary(handle: *const tokenizer::Tokenizer) -> Vocabulary {
    let table = &(*handle).table;
    Vocabulary {
        bytes: table.bytes.as_ptr(),
        offsets: table.offsets.as_ptr(),
        flags: table.flags.as_ptr(),
        count: table.flags.len(),
        strips_leading_space: table.strips_leading_space as i32,
    }
}

/// # Safety
/// `handle` is live; the pointers are valid for their sizes; `ids` and `error` are writable.
#[no_mangle]
pub unsafe extern "C" fn mlxf_tokenizer_encode(
    handle: *const tokenizer::Tokenizer,
    text: *const u8,
    text_size: usize,
    add_special: i32,
    parse_special: i32,
    ids: *mut Bytes,
    error: *mut Bytes,
) -> i32 {
    let text = slice(text, text_size);
    guarded(
        error,
        || (*handle).encode(utf8(text, "the text")?, add_special != 0, parse_special != 0),
        |value| {
            let bytes: Vec<u8> = value.iter().flat_map(|id| id.to_ne_bytes()).collect();
            *ids = Bytes::from_vec(bytes)
        },
    )
}

/// # Safety
/// `handle` is live.
#[no_mangle]
pub unsafe extern "C" fn mlxf_tokenizer_spelling(handle: *const tokenizer::Tokenizer, id: u32) -> Bytes {
    catch_unwind(AssertUnwindSafe(|| (*handle).spelling(id)))
        .map(|text| Bytes::from_vec(text.unwrap_or_default().into_bytes()))
        .unwrap_or_else(|_| Bytes::from_vec(Vec::new()))
}

/// # Safety
/// `handle` is live; `text` is valid for its size.
#[no_mangle]
pub unsafe extern "C" fn mlxf_tokenizer_find(
    handle: *const tokenizer::Tokenizer,
    text: *const u8,
    text_size: usize,
) -> i64 {
    let text = slice(text, text_size);
    catch_unwind(AssertUnwindSafe(|| {
        std::str::from_utf8(text).ok().and_then(|text| (*handle).find(text)).map_or(-1, i64::from)
    }))
    .unwrap_or(-1)
}

/// # Safety
/// The pointers are valid for their sizes; `out` and `error` are writable.
#[no_mangle]
pub unsafe extern "C" fn mlxf_template_create(
    source: *const u8,
    source_size: usize,
    out: *mut *mut template::Template,
    error: *mut Bytes,
) -> i32 {
    let source = slice(source, source_size);
    guarded(
        error,
        || {
            let source = utf8(source, "the chat template")?;
            stack::on_own_stack(|| template::Template::parse(source))
        },
        |value| *out = Box::into_raw(Box::new(value)),
    )
}

/// # Safety
/// `handle` came from `mlxf_template_create` and is not used again.
#[no_mangle]
pub unsafe extern "C" fn mlxf_template_destroy(handle: *mut template::Template) {
    if !handle.is_null() {
        let _ = catch_unwind(AssertUnwindSafe(|| drop(Box::from_raw(handle))));
    }
}

/// # Safety
/// `handle` is live; the pointers are valid for their sizes; `output`, `mark` and `error` are writable.
#[no_mangle]
pub unsafe extern "C" fn mlxf_template_render(
    handle: *const template::Template,
    trusted: *const u8,
    trusted_size: usize,
    variables: *const u8,
    variables_size: usize,
    now_seconds: i64,
    output: *mut Bytes,
    mark: *mut u32,
    error: *mut Bytes,
) -> i32 {
    let trusted = slice(trusted, trusted_size);
    let variables = slice(variables, variables_size);
    let handle = &*handle;
    guarded(
        error,
        || stack::on_own_stack(|| handle.render(trusted, variables, now_seconds)),
        |(text, used_mark)| {
            *output = Bytes::from_vec(text.into_bytes());
            *mark = used_mark as u32;
        },
    )
}

/// # Safety
/// `tokenizer` is live; `ends` is valid for its count; `out` and `error` are writable.
#[no_mangle]
pub unsafe extern "C" fn mlxf_grammars_create(
    tokenizer: *const tokenizer::Tokenizer,
    ends: *const u32,
    end_count: usize,
    out: *mut *mut grammar::Grammars,
    error: *mut Bytes,
) -> i32 {
    let ends = if end_count == 0 { &[] } else { std::slice::from_raw_parts(ends, end_count) };
    guarded(
        error,
        || grammar::Grammars::new(&(*tokenizer).table, ends),
        |value| *out = Box::into_raw(Box::new(value)),
    )
}

/// # Safety
/// `handle` came from `mlxf_grammars_create` and is not used again.
#[no_mangle]
pub unsafe extern "C" fn mlxf_grammars_destroy(handle: *mut grammar::Grammars) {
    if !handle.is_null() {
        let _ = catch_unwind(AssertUnwindSafe(|| drop(Box::from_raw(handle))));
    }
}

/// # Safety
/// `handle` is live; `text` is valid for its size; `out` and `error` are writable.
#[no_mangle]
pub unsafe extern "C" fn mlxf_grammar_compile(
    handle: *const grammar::Grammars,
    kind: i32,
    text: *const u8,
    text_size: usize,
    out: *mut *mut grammar::Grammar,
    error: *mut Bytes,
) -> i32 {
    let text = slice(text, text_size);
    let handle = &*handle;
    guarded(
        error,
        || {
            let kind = match kind {
                0 => grammar::Kind::JsonSchema,
                1 => grammar::Kind::Regex,
                2 => grammar::Kind::Lark,
                3 => grammar::Kind::Composed,
                4 => grammar::Kind::Gbnf,
                other => return Err(Failure::new(Code::Internal, format!("no kind of grammar is {other}"))),
            };
            handle.compile(kind, utf8(text, "the grammar")?)
        },
        |value| *out = Box::into_raw(Box::new(value)),
    )
}

/// # Safety
/// `handle` is live.
#[no_mangle]
pub unsafe extern "C" fn mlxf_grammar_bytes(handle: *const grammar::Grammar) -> u64 {
    (*handle).bytes as u64
}

/// # Safety
/// `handle` is live; `out` is writable.
#[no_mangle]
pub unsafe extern "C" fn mlxf_grammar_notes(handle: *const grammar::Grammar, out: *mut Bytes) {
    *out = Bytes::from_vec((*handle).notes.clone().into_bytes());
}

/// # Safety
/// `handle` came from `mlxf_grammar_compile` and is not used again.
#[no_mangle]
pub unsafe extern "C" fn mlxf_grammar_destroy(handle: *mut grammar::Grammar) {
    if !handle.is_null() {
        let _ = catch_unwind(AssertUnwindSafe(|| drop(Box::from_raw(handle))));
    }
}

/// # Safety
/// `handle` is live; `out` and `error` are writable.
#[no_mangle]
pub unsafe extern "C" fn mlxf_matcher_create(
    handle: *const grammar::Grammar,
    out: *mut *mut grammar::Matcher,
    error: *mut Bytes,
) -> i32 {
    let handle = &*handle;
    guarded(error, || Ok(handle.matcher()), |value| *out = Box::into_raw(Box::new(value)))
}

/// # Safety
/// `handle` came from `mlxf_matcher_create` and is not used again.
#[no_mangle]
pub unsafe extern "C" fn mlxf_matcher_destroy(handle: *mut grammar::Matcher) {
    if !handle.is_null() {
        let _ = catch_unwind(AssertUnwindSafe(|| drop(Box::from_raw(handle))));
    }
}

/// # Safety
/// `handle` is live and used by no other thread; the outputs are writable.
#[no_mangle]
pub unsafe extern "C" fn mlxf_matcher_allowed(
    handle: *mut grammar::Matcher,
    words: *mut *const u32,
    word_count: *mut usize,
    may_end: *mut i32,
    error: *mut Bytes,
) -> i32 {
    guarded(
        error,
        || (*handle).allowed(),
        |(allowed, end)| {
            *words = allowed.as_ptr();
            *word_count = allowed.len();
            *may_end = end as i32;
        },
    )
}

/// # Safety
/// `handle` is live and used by no other thread; the outputs are writable.
#[no_mangle]
pub unsafe extern "C" fn mlxf_matcher_accept(
    handle: *mut grammar::Matcher,
    token: u32,
    must_end: *mut i32,
    error: *mut Bytes,
) -> i32 {
    guarded(
        error,
        || {
            (*handle).accept(token)?;
            Ok((*handle).must_end())
        },
        |ends| *must_end = ends as i32,
    )
}
