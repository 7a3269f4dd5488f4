//! A stack that recursion over a stranger's template cannot use up.
//!
//! Parsing, comparing, printing and freeing a template's values recurse once per level of nesting, and a stack that
//! overflows ends the process: nothing can catch it. The levels are bounded (the source's length, and bounds.rs for
//! what loops build), so work runs on a thread of its own with a stack for all of them. Only pages that are touched
//! become memory; starting the thread takes some 30 microseconds.

use std::panic::resume_unwind;
use std::thread;

use crate::{Code, Failure};

/// Some 65,000 levels (two bytes of source each, SOURCE_BYTES_MAX) of the deepest frames seen, about 4 KiB.
const STACK_BYTES: usize = 256 << 20;

pub fn on_own_stack<T: Send>(work: impl FnOnce() -> Result<T, Failure> + Send) -> Result<T, Failure> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("template".into())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, work)
            .map_err(|e| Failure::new(Code::Budget, format!("no stack of {STACK_BYTES} bytes to render on: {e}")))?;
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}
