//! What the builder says: one line a step on stderr, with the time it took.

#![expect(clippy::print_stderr, reason = "this file is the builder's only voice")]

use std::time::Instant;

/// A step that has begun; `done` says how long it took.
#[derive(Debug)]
#[must_use = "a step ends with done()"]
pub(crate) struct Step {
    began: Instant,
    name: String,
}

impl Step {
    /// Says that `name` begins.
    pub(crate) fn begin(name: impl Into<String>) -> Self {
        let name = name.into();
        eprintln!("shed-guest: {name} …");
        Self { began: Instant::now(), name }
    }

    /// Says that the step is over, with its result in a few words.
    pub(crate) fn done(self, result: &str) {
        let Self { began, name } = self;
        eprintln!("shed-guest: {name}: {result} ({:.1} s)", began.elapsed().as_secs_f64());
    }
}

/// Says that `what` needs no work.
pub(crate) fn up_to_date(what: &str) {
    eprintln!("shed-guest: {what}: up to date");
}

/// Says something that is neither a step nor an error.
pub(crate) fn note(text: &str) {
    eprintln!("shed-guest: {text}");
}

/// Prints an answer, one a line, for whoever reads the program's output.
#[expect(clippy::print_stdout, reason = "answers go to stdout")]
pub(crate) fn answer(line: &str) {
    println!("{line}");
}

/// Prints an error with its causes, one a line.
pub(crate) fn error(error: &anyhow::Error) {
    eprintln!("shed-guest: error: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("  because: {cause}");
    }
}
