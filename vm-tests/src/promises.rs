//! Many promises proved on one booted shed: each has a name, and one that is broken does not hide the next.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

/// Collects what was proved and what was not.
#[derive(Debug, Default)]
#[must_use = "call `finish`, or nothing was proved"]
pub struct Promises {
    broken: Vec<String>,
    kept: usize,
}

impl Promises {
    /// Begins with none.
    pub fn new() -> Self {
        Self::default()
    }

    /// Proves one. A panic in `proof` breaks it; the next ones are tried all the same.
    pub fn keep(&mut self, promise: &str, proof: impl FnOnce()) {
        let begun = Instant::now();
        match catch_unwind(AssertUnwindSafe(proof)) {
            Ok(()) => {
                self.kept += 1;
                say(&format!("kept   {:6} ms  {promise}", begun.elapsed().as_millis()));
            }
            Err(panic) => {
                let reason = text_of(&*panic);
                say(&format!("BROKEN {:6} ms  {promise}: {reason}", begun.elapsed().as_millis()));
                self.broken.push(format!("{promise}: {reason}"));
            }
        }
    }

    /// Ends the test.
    ///
    /// # Panics
    /// When a promise was broken; the message lists all that were.
    pub fn finish(self) {
        let (count, broken) = (self.broken.len(), self.broken.join("\n- "));
        assert!(self.broken.is_empty(), "{count} of {} promises broken:\n- {broken}", self.kept + count);
        assert!(self.kept > 0, "no promise was made");
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "it panicked with a value that is no text".to_owned())
}

#[expect(clippy::print_stderr, reason = "the test's own report")]
fn say(line: &str) {
    eprintln!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_promise_fails_the_test_but_not_the_next_promise() {
        let mut promises = Promises::new();
        let mut reached = false;
        promises.keep("two and two are five", || assert_eq!(2 + 2, 5));
        promises.keep("the next is tried", || reached = true);
        assert!(reached);
        let panic = catch_unwind(AssertUnwindSafe(|| promises.finish())).unwrap_err();
        assert!(text_of(&*panic).starts_with("1 of 2 promises broken:\n- two and two are five"));
    }

    #[test]
    fn proving_nothing_is_a_failure() {
        assert!(catch_unwind(|| Promises::new().finish()).is_err());
    }
}
