//! Prints an error with its causes, in the one way that all of Shed does.

use std::error::Error;

/// Returns an error and its causes on one line, joined by colons. Errors here never repeat their source in their own
/// text, so nothing is said twice; one that only passes its source on is skipped.
#[must_use]
pub fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut last = text.clone();
    let mut next = error.source();
    while let Some(source) = next {
        let part = source.to_string();
        if part != last {
            text.push_str(": ");
            text.push_str(&part);
        }
        last = part;
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn every_cause_is_named_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("could not write the record")]
        struct Inner(#[source] io::Error);
        #[derive(Debug, thiserror::Error)]
        #[error(transparent)]
        struct Outer(Inner);
        let error = Outer(Inner(io::Error::other("disk full")));
        assert_eq!(error_chain(&error), "could not write the record: disk full");
    }
}
