//! Reads server-sent events (HTML standard, section 9.2) from bytes that come in any pieces. Pure: no I/O.
//!
//! Comments, `id` and `retry` are skipped: Shed's streams are not resumed. An event over [`MAX_EVENT`] ends the
//! stream, so a server that never ends a line cannot fill the memory.

use std::collections::VecDeque;

/// Largest event in bytes, names and line ends included. The largest real one is a shed object with its timeline.
pub const MAX_EVENT: usize = 1 << 20;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SseEvent {
    /// Its name; `message` when the stream gives none.
    pub name: String,
    /// Its `data` lines, joined by line feeds.
    pub data: String,
}

/// Says why bytes are not an event stream. Nothing more can be read from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    #[error("an event is longer than {MAX_EVENT} bytes")]
    TooLong,
    #[error("an event is not UTF-8")]
    NotUtf8,
}

/// Collects bytes and gives out whole events.
#[derive(Debug, Default)]
pub struct SseParser {
    /// The line that has begun.
    line: Vec<u8>,
    /// Whether the last byte was a CR, whose LF, if it comes, belongs to the same line end.
    after_cr: bool,
    /// Whether a line has ended yet; before that, a byte order mark is skipped.
    past_first_line: bool,
    name: String,
    data: Option<String>,
    /// Bytes of the event that has begun, all its lines together.
    size: usize,
    ready: VecDeque<SseEvent>,
}

impl SseParser {
    /// Takes the next bytes of the stream.
    ///
    /// # Errors
    /// When they are not an event stream that may be read. Events before the error can still be taken.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), SseError> {
        for &byte in bytes {
            let line_feed_of_crlf = byte == b'\n' && self.after_cr;
            self.after_cr = byte == b'\r';
            if line_feed_of_crlf {
                continue;
            }
            self.size += 1;
            if self.size > MAX_EVENT {
                return Err(SseError::TooLong);
            }
            if matches!(byte, b'\r' | b'\n') {
                self.end_line()?;
            } else {
                self.line.push(byte);
            }
        }
        Ok(())
    }

    /// Returns the next whole event.
    pub fn next_event(&mut self) -> Option<SseEvent> {
        self.ready.pop_front()
    }

    fn end_line(&mut self) -> Result<(), SseError> {
        let line = std::mem::take(&mut self.line);
        let mut line = std::str::from_utf8(&line).map_err(|_| SseError::NotUtf8)?;
        if !std::mem::replace(&mut self.past_first_line, true) {
            line = line.strip_prefix('\u{feff}').unwrap_or(line);
        }
        if line.is_empty() {
            self.end_event();
            return Ok(());
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            // A comment outside an event is a sign of life; many of them are not one long event.
            "" if self.data.is_none() && self.name.is_empty() => self.size = 0,
            _ => {}
        }
        Ok(())
    }

    fn end_event(&mut self) {
        self.size = 0;
        let name = std::mem::take(&mut self.name);
        // The standard drops an event without data.
        if let Some(data) = self.data.take() {
            let name = if name.is_empty() { "message".to_owned() } else { name };
            self.ready.push_back(SseEvent { name, data });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(pieces: &[&[u8]]) -> Result<Vec<(String, String)>, SseError> {
        let mut parser = SseParser::default();
        for piece in pieces {
            parser.push(piece)?;
        }
        Ok(std::iter::from_fn(|| parser.next_event()).map(|event| (event.name, event.data)).collect())
    }

    fn event(name: &str, data: &str) -> (String, String) {
        (name.to_owned(), data.to_owned())
    }

    #[test]
    fn events_have_a_name_and_the_lines_of_their_data() {
        let text = "event: progress\ndata: {\"a\":1}\n\ndata:x\ndata: y\ndata\n\nevent: empty\n\n: hello\n\nid: 1\nretry: 5\ndata:  z\n\n";
        let expected = [event("progress", "{\"a\":1}"), event("message", "x\ny\n"), event("message", " z")];
        assert_eq!(parse(&[text.as_bytes()]).unwrap(), expected);
    }

    #[test]
    fn line_ends_may_be_lf_crlf_or_cr() {
        for end in ["\n", "\r\n", "\r"] {
            let text = format!("\u{feff}event: e{end}data: d{end}data: f{end}{end}");
            assert_eq!(parse(&[text.as_bytes()]).unwrap(), [event("e", "d\nf")], "{end:?}");
        }
        assert_eq!(
            parse(&[b"data: a\r", b"\n\r", b"\ndata: b\r\n\r\n"]).unwrap(),
            [event("message", "a"), event("message", "b")]
        );
    }

    #[test]
    fn an_event_that_never_ends_is_refused_and_endless_comments_are_not() {
        let mut parser = SseParser::default();
        let line = [b'x'; 1 << 16];
        let error = (0..17).find_map(|_| parser.push(&line).err());
        assert_eq!(error, Some(SseError::TooLong));

        let mut parser = SseParser::default();
        let lines = b": still here\n".repeat(1 << 12);
        assert!((0..40).all(|_| parser.push(&lines).is_ok()));

        let mut parser = SseParser::default();
        let lines = b"data: 1234567890\n".repeat(1 << 12);
        assert_eq!((0..40).find_map(|_| parser.push(&lines).err()), Some(SseError::TooLong));
    }

    #[test]
    fn an_unfinished_event_is_not_given_out() {
        assert_eq!(parse(&[b"event: complete\ndata: {}\n"]).unwrap(), []);
    }

    proptest! {
        #[test]
        fn events_survive_any_cut_of_the_stream(
            events in prop::collection::vec(("[a-z]{1,8}", "[^\r\n\u{0}]{0,40}(\n[^\r\n]{0,20}){0,2}"), 0..6),
            end in prop::sample::select(vec!["\n", "\r\n", "\r"]),
            cut in 1usize..20,
        ) {
            let mut wire = String::new();
            for (name, data) in &events {
                wire += &format!(": note{end}event: {name}{end}");
                for line in data.split('\n') {
                    wire += &format!("data: {line}{end}");
                }
                wire += end;
            }
            let pieces: Vec<&[u8]> = wire.as_bytes().chunks(cut).collect();
            prop_assert_eq!(parse(&pieces).unwrap(), events);
        }

        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _unused = parse(&[&bytes]);
        }
    }
}
