//! The part of an ssh configuration that is ours: between two marks, written whole, with the entries in order.
//!
//! It begins the file, because ssh takes the first value it finds: behind a `Host *` of the user's our settings would not
//! hold. And it ends with a `Host *` of its own, because what a file has before its first `Host` is for all hosts, and
//! behind our entries would be for the last of them only. A block that the user has moved stays where it is.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::entry::Entry;

/// First line of the block (spec F.1).
const BEGIN: &str = "# --- BEGIN SHED MANAGED BLOCK ---";

/// Its last line.
const END: &str = "# --- END SHED MANAGED BLOCK ---";

/// Its second line.
const DO_NOT_EDIT: &str = "# Do not edit: `shed ssh-config --install` writes this block anew.";

/// Begins the line that says when it was written.
const UPDATED: &str = "# Last updated: ";

/// Gives what follows the block its meaning back.
const FOR_ALL: &str = "# What follows is for all hosts again.\nHost *\n";

/// Why the block cannot be told from the rest of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BlockError {
    #[error("line {line} begins a block of shed's, and no line ends it")]
    NoEnd { line: usize },
    #[error("line {line} ends a block of shed's, and no line before begins it")]
    NoBegin { line: usize },
    #[error("line {line} begins a block of shed's within or after another one")]
    Twice { line: usize },
}

/// A configuration, taken apart. The three parts one after the other are the file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Parts<'a> {
    pub(crate) before: &'a [u8],
    pub(crate) block: Option<&'a [u8]>,
    pub(crate) after: &'a [u8],
}

/// Takes a configuration apart.
///
/// # Errors
/// When the marks do not come once each and in order.
pub(crate) fn split(file: &[u8]) -> Result<Parts<'_>, BlockError> {
    // Where the block begins, with the number of that line, until its end is found; then from where to where it goes.
    let mut begin: Option<(usize, usize)> = None;
    let mut block: Option<std::ops::Range<usize>> = None;
    let mut offset = 0;
    for (number, line) in file.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let number = number + 1;
        let text = line.trim_ascii();
        if text == BEGIN.as_bytes() {
            if begin.is_some() || block.is_some() {
                return Err(BlockError::Twice { line: number });
            }
            begin = Some((offset, number));
        } else if text == END.as_bytes() {
            let (start, _) = begin.take().ok_or(BlockError::NoBegin { line: number })?;
            block = Some(start..offset + line.len());
        }
        offset += line.len();
    }
    if let Some((_, line)) = begin {
        return Err(BlockError::NoEnd { line });
    }
    Ok(match block {
        Some(range) => {
            Parts { before: &file[..range.start], after: &file[range.end..], block: Some(&file[range]) }
        }
        None => Parts { before: &[], block: None, after: file },
    })
}

/// The entries by their names.
pub(crate) type Entries = BTreeMap<String, Entry>;

/// Returns the entries of a block, as they are.
pub(crate) fn entries(block: &[u8]) -> Entries {
    let mut entries: Vec<Entry> = Vec::new();
    let mut is_within = false;
    for line in String::from_utf8_lossy(block).lines() {
        if let Some(entry) = Entry::begun_by(line) {
            entries.push(entry);
            is_within = true;
        } else if !line.starts_with([' ', '\t']) {
            is_within = false;
        } else if let (true, Some(entry)) = (is_within, entries.last_mut()) {
            entry.text.push_str(line);
            entry.text.push('\n');
        }
    }
    entries.into_iter().map(|entry| (entry.alias.clone(), entry)).collect()
}

/// What becomes of the file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It has all that is wanted, in the form that is wanted.
    Same,
    /// It must be written like this.
    Written(Vec<u8>),
}

/// Puts a block with these entries into a configuration, or none when there are no entries. Nothing outside the block
/// changes by a byte.
pub(crate) fn put(parts: &Parts<'_>, wanted: &Entries, now: Timestamp) -> Outcome {
    let Parts { before, block, after } = parts;
    if wanted.is_empty() {
        return match block {
            None => Outcome::Same,
            Some(_) => Outcome::Written([*before, *after].concat()),
        };
    }
    let line_end = line_end(block.unwrap_or(after));
    if let Some(block) = block {
        // The time alone is no change.
        let same =
            last_updated(block).is_some_and(|time| render(wanted, &time, line_end).as_bytes() == *block);
        if same {
            return Outcome::Same;
        }
    }
    let text = render(wanted, &format!("{now:.0}"), line_end);
    Outcome::Written([*before, text.as_bytes(), *after].concat())
}

fn render(entries: &Entries, updated: &str, line_end: &str) -> String {
    let mut text = format!("{BEGIN}\n{DO_NOT_EDIT}\n{UPDATED}{updated}\n\n");
    for entry in entries.values() {
        text.push_str(&entry.text);
        text.push('\n');
    }
    text.push_str(&format!("{FOR_ALL}{END}\n"));
    if line_end == "\n" { text } else { text.replace('\n', line_end) }
}

/// Returns the time that a block has.
fn last_updated(block: &[u8]) -> Option<String> {
    String::from_utf8_lossy(block).lines().find_map(|line| line.strip_prefix(UPDATED).map(str::to_owned))
}

/// Returns how the lines of a text end: as its first one does.
fn line_end(text: &[u8]) -> &'static str {
    let first = text.split_inclusive(|byte| *byte == b'\n').next().unwrap_or_default();
    if first.ends_with(b"\r\n") { "\r\n" } else { "\n" }
}

#[cfg(test)]
#[path = "block_tests.rs"]
mod tests;
