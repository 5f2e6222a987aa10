//! The records of a pax header (POSIX pax, "pax Extended Header").

/// Splits records, each `LENGTH KEY=VALUE\n`, the length counting all of it. `None` when they are damaged.
pub(super) fn records(mut bytes: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let blank = bytes.iter().take(20).position(|byte| *byte == b' ')?;
        let length: usize = unsigned(&bytes[..blank])?.try_into().ok()?;
        let record = bytes.get(blank + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        if equals == 0 {
            return None;
        }
        records.push((&record[..equals], &record[equals + 1..]));
        bytes = &bytes[length..];
    }
    Some(records)
}

/// Reads a decimal number without sign.
pub(super) fn unsigned(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |sum, byte| match byte {
        b'0'..=b'9' => sum.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })
}

/// Reads a time, `-12.5` say, as seconds rounded down and nanoseconds; more digits are cut off.
pub(super) fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |text| (true, text));
    let (whole, fraction) = match text.iter().position(|byte| *byte == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b""[..]),
    };
    let seconds = i64::try_from(unsigned(whole)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().map(|byte| u32::from(byte - b'0')).chain(std::iter::repeat(0)).take(9);
    let nanoseconds = digits.fold(0, |sum, digit| sum * 10 + digit);
    Some(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_split_by_their_length() {
        let bytes = b"12 path=a\nb\n8 x=\n=y\n5 k=\n";
        let expected: Vec<(&[u8], &[u8])> = vec![(b"path", b"a\nb"), (b"x", b"\n=y"), (b"k", b"")];
        assert_eq!(records(bytes).unwrap(), expected);
        for damaged in
            [&b"5 a=b\n"[..], b"7 a=b\n", b"x a=b\n", b"6 =bc\n", b"99999999999999999999 a=b\n", b"1 "]
        {
            assert_eq!(records(damaged), None, "{}", damaged.escape_ascii());
        }
    }

    #[test]
    fn times_are_rounded_down() {
        assert_eq!(time(b"12"), Some((12, 0)));
        assert_eq!(time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(time(b"12.0000000019"), Some((12, 1)));
        assert_eq!(time(b"-12.25"), Some((-13, 750_000_000)));
        assert_eq!(time(b"-0.5"), Some((-1, 500_000_000)));
        assert_eq!(time(b"-3"), Some((-3, 0)));
        for damaged in [&b""[..], b".5", b"1e3", b"--1", b"1.x", b"99999999999999999999"] {
            assert_eq!(time(damaged), None);
        }
    }
}
