//! Understands the export format of the journal (systemd's Journal Export Format), as a pure function of bytes.
//!
//! An entry is a run of fields and ends with an empty line. A field is `NAME=value` on one line, or, when the value is
//! binary or has line feeds, the name on a line, the value's length as 64 bits little-endian, the value, a line feed.
//! Bytes may come in pieces of any size. Values are cut, names that nobody wants are passed over.

use std::collections::VecDeque;

use shed_protocol::logs::MAX_MESSAGE;

/// The fields that are kept.
pub(super) const WANTED: [&str; 13] = [
    "__CURSOR",
    "__REALTIME_TIMESTAMP",
    "MESSAGE",
    "PRIORITY",
    "SYSLOG_IDENTIFIER",
    "UNIT",
    "UNIT_RESULT",
    "USER_UNIT",
    "_COMM",
    "_PID",
    "_SYSTEMD_UNIT",
    "_SYSTEMD_USER_UNIT",
    "_UID",
];

/// Longest name of a field; the journal's own limit is 64. A longer one is nothing that is wanted.
const MAX_NAME: usize = 64;

/// What is kept of a message in bytes. The last character may be cut in half and is replaced.
const MAX_TEXT: usize = MAX_MESSAGE;

/// What is kept of any other value, in bytes: names of units have up to 255, a cursor about 150.
const MAX_VALUE: usize = 512;

/// The wanted fields of one entry.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    fields: Vec<(&'static str, Vec<u8>)>,
}

impl Entry {
    /// Returns a field's value, in which what is no UTF-8 is replaced.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        let (_, value) = self.fields.iter().find(|(field, _)| *field == name)?;
        Some(String::from_utf8_lossy(value).into_owned())
    }

    /// Returns a field that is a number.
    pub(super) fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.text(name)?.trim().parse().ok()
    }
}

/// Turns bytes into entries.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    place: Place,
    entry: Entry,
}

/// Where in the format the next byte is.
#[derive(Debug)]
enum Place {
    /// In a name, or at the empty line that ends an entry.
    Name(Vec<u8>),
    /// In a value that ends with the line.
    Line(Value),
    /// In the length of a binary value.
    Length { value: Value, bytes: Vec<u8> },
    /// In a binary value, with this many bytes to come and a line feed after them.
    Binary { value: Value, left: u64 },
    /// Before that line feed.
    AfterBinary,
}

impl Default for Place {
    fn default() -> Self {
        Self::Name(Vec::new())
    }
}

/// A value that is read; one that nobody wants has no name and keeps nothing.
#[derive(Debug)]
struct Value {
    name: Option<&'static str>,
    bytes: Vec<u8>,
}

impl Value {
    /// The first of several values of a field is the one that counts.
    fn begin(name: &[u8], entry: &Entry) -> Self {
        let wanted = WANTED.into_iter().find(|wanted| wanted.as_bytes() == name);
        let name = wanted.filter(|name| !entry.fields.iter().any(|(field, _)| field == name));
        Self { name, bytes: Vec::new() }
    }

    fn add(&mut self, bytes: &[u8]) {
        let most = match self.name {
            None => 0,
            Some("MESSAGE") => MAX_TEXT,
            Some(_) => MAX_VALUE,
        };
        let room = most.saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn end(self, entry: &mut Entry) {
        if let Some(name) = self.name {
            entry.fields.push((name, self.bytes));
        }
    }
}

impl Decoder {
    /// Takes the next bytes and appends the entries that end in them.
    pub(super) fn feed(&mut self, mut bytes: &[u8], entries: &mut VecDeque<Entry>) {
        while !bytes.is_empty() {
            let place = std::mem::take(&mut self.place);
            let (place, used) = self.step(place, bytes, entries);
            self.place = place;
            bytes = &bytes[used..];
        }
    }

    /// Takes at least one byte and returns where that leads, and how many it took.
    fn step(&mut self, place: Place, bytes: &[u8], entries: &mut VecDeque<Entry>) -> (Place, usize) {
        match place {
            Place::Name(mut name) => {
                let end = bytes.iter().position(|byte| matches!(byte, b'=' | b'\n'));
                let part = &bytes[..end.unwrap_or(bytes.len())];
                // One byte more than is allowed keeps a name that is too long from being taken for another.
                let room = (MAX_NAME + 1).saturating_sub(name.len());
                name.extend_from_slice(&part[..part.len().min(room)]);
                let Some(end) = end else { return (Place::Name(name), bytes.len()) };
                let place = if bytes[end] == b'=' {
                    Place::Line(Value::begin(&name, &self.entry))
                } else if name.is_empty() {
                    let entry = std::mem::take(&mut self.entry);
                    if !entry.fields.is_empty() {
                        entries.push_back(entry);
                    }
                    Place::default()
                } else {
                    Place::Length { value: Value::begin(&name, &self.entry), bytes: Vec::with_capacity(8) }
                };
                (place, end + 1)
            }
            Place::Line(mut value) => match bytes.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    value.add(&bytes[..end]);
                    value.end(&mut self.entry);
                    (Place::default(), end + 1)
                }
                None => {
                    value.add(bytes);
                    (Place::Line(value), bytes.len())
                }
            },
            Place::Length { value, bytes: mut length } => {
                let used = bytes.len().min(8 - length.len());
                length.extend_from_slice(&bytes[..used]);
                match <[u8; 8]>::try_from(length) {
                    Ok(length) => match u64::from_le_bytes(length) {
                        0 => {
                            value.end(&mut self.entry);
                            (Place::AfterBinary, used)
                        }
                        left => (Place::Binary { value, left }, used),
                    },
                    Err(bytes) => (Place::Length { value, bytes }, used),
                }
            }
            Place::Binary { mut value, left } => {
                let used = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                value.add(&bytes[..used]);
                let left = left - used as u64;
                if left > 0 {
                    return (Place::Binary { value, left }, used);
                }
                value.end(&mut self.entry);
                (Place::AfterBinary, used)
            }
            Place::AfterBinary => (Place::default(), 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn binary(name: &str, value: &[u8]) -> Vec<u8> {
        let length = u64::try_from(value.len()).unwrap().to_le_bytes();
        [name.as_bytes(), b"\n", &length, value, b"\n"].concat()
    }

    fn decode(pieces: &[&[u8]]) -> Vec<Entry> {
        let mut decoder = Decoder::default();
        let mut entries = VecDeque::new();
        for piece in pieces {
            decoder.feed(piece, &mut entries);
        }
        entries.into()
    }

    #[test]
    fn both_forms_of_values_are_read_and_unwanted_ones_passed_over() {
        let text = [
            b"__CURSOR=s=1;i=2\n__REALTIME_TIMESTAMP=1700000000000001\nFOO=bar\n".to_vec(),
            binary("MESSAGE", b"two\nlines\xff\0="),
            binary("BLOB", &[b'\n'; 100_000]),
            b"MESSAGE=later\n_PID= 42 \n\n".to_vec(),
            b"MESSAGE=\n\n\n".to_vec(),
            b"MESSAGE=not ended".to_vec(),
        ]
        .concat();
        let entries = decode(&[&text]);
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].text("__CURSOR").unwrap(), "s=1;i=2");
        assert_eq!(entries[0].text("MESSAGE").unwrap(), "two\nlines\u{fffd}\0=");
        assert_eq!(entries[0].number("_PID"), Some(42u32));
        assert_eq!(entries[0].text("FOO"), None);
        assert_eq!(entries[1].text("MESSAGE").unwrap(), "");
    }

    #[test]
    fn long_values_and_names_are_cut_and_cost_no_memory() {
        let long = vec![b'x'; 1 << 20];
        let text = [
            [b"MESSAGE=", &long[..], b"\n"].concat(),
            binary("UNIT", &long),
            [&long[..], b"=1\n"].concat(),
            b"\n".to_vec(),
        ];
        let entries = decode(&[&text.concat()]);
        assert_eq!(entries[0].text("MESSAGE").unwrap().len(), MAX_TEXT);
        assert_eq!(entries[0].text("UNIT").unwrap().len(), MAX_VALUE);
        // A length that no journal can have is believed and never allocated.
        let endless = [b"MESSAGE\n".as_slice(), &[0xff; 8], &long].concat();
        assert!(decode(&[&endless]).is_empty());
    }

    proptest! {
        #[test]
        fn fuzz_export(bytes in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'='), Just(b'M'), any::<u8>()], 0..400)) {
            decode(&[&bytes]);
        }

        #[test]
        fn pieces_of_any_size_give_the_same_entries(
            values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let mut text = Vec::new();
            for value in &values {
                text.extend(binary("MESSAGE", value));
                text.extend(b"PRIORITY=6\n\n");
            }
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len())).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts.into_iter().chain([text.len()]) {
                pieces.push(&text[from..cut]);
                from = cut;
            }
            let entries = decode(&pieces);
            prop_assert_eq!(&entries, &decode(&[&text]));
            prop_assert_eq!(entries.len(), values.len());
            for (entry, value) in entries.iter().zip(&values) {
                prop_assert_eq!(entry.text("MESSAGE").unwrap(), String::from_utf8_lossy(value).into_owned());
            }
        }
    }
}
