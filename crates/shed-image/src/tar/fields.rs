//! The numbers and texts in a header.

use super::RECORD;

/// A header whose checksum is right.
pub(super) struct Header<'a>(&'a [u8; RECORD]);

impl<'a> Header<'a> {
    /// Checks the sum, which is taken with its own field as blanks; old archives added bytes with their sign.
    pub(super) fn new(bytes: &'a [u8; RECORD]) -> Option<Self> {
        let others =
            || bytes.iter().enumerate().filter(|(i, _)| !(148..156).contains(i)).map(|(_, byte)| *byte);
        let unsigned: i64 = others().map(i64::from).sum::<i64>() + 8 * i64::from(b' ');
        let signed: i64 =
            others().map(|byte| i64::from(byte.cast_signed())).sum::<i64>() + 8 * i64::from(b' ');
        let sum = number(&bytes[148..156])?;
        (sum == unsigned || sum == signed).then_some(Self(bytes))
    }

    pub(super) const fn kind(&self) -> u8 {
        self.0[156]
    }

    /// Returns the name; only ustar has a place for its first part.
    pub(super) fn name(&self) -> Vec<u8> {
        let name = text(&self.0[..100]);
        let prefix = text(&self.0[345..500]);
        if &self.0[257..263] != b"ustar\0" || prefix.is_empty() {
            return name.to_vec();
        }
        [prefix, b"/", name].concat()
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(&self.0[157..257]).to_vec()
    }

    pub(super) fn mode(&self) -> Option<i64> {
        number(&self.0[100..108])
    }

    pub(super) fn uid(&self) -> Option<i64> {
        number(&self.0[108..116])
    }

    pub(super) fn gid(&self) -> Option<i64> {
        number(&self.0[116..124])
    }

    pub(super) fn size(&self) -> Option<u64> {
        number(&self.0[124..136]).and_then(|size| u64::try_from(size).ok())
    }

    pub(super) fn modified(&self) -> Option<i64> {
        number(&self.0[136..148])
    }

    /// Returns the numbers of a device; formats before ustar have none.
    pub(super) fn device(&self) -> Option<(i64, i64)> {
        Some((number(&self.0[329..337])?, number(&self.0[337..345])?))
    }

    /// Returns the first pieces of an old GNU sparse file, whether more follow, and its real length.
    pub(super) fn gnu_sparse(&self) -> Option<(&'a [u8], bool, u64)> {
        let length = number(&self.0[483..495]).and_then(|size| u64::try_from(size).ok())?;
        Some((&self.0[386..482], self.0[482] != 0, length))
    }
}

/// Reads a text that ends at a zero byte or with its field.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Reads octal digits, or the big-endian two's complement that GNU writes where they do not suffice.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let (&first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        // The second bit is the sign.
        let begin = i64::from(first & 0x7f) - if first & 0x40 != 0 { 0x80 } else { 0 };
        return rest.iter().try_fold(begin, |sum, byte| sum.checked_mul(256)?.checked_add(i64::from(*byte)));
    }
    let digits = field.split(|byte| *byte == 0).next()?.trim_ascii();
    digits.iter().try_fold(0_i64, |sum, byte| match byte {
        b'0'..=b'7' => sum.checked_mul(8)?.checked_add(i64::from(byte - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_two_forms() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0"), Some(0));
        assert_eq!(number(b"00009\0"), None);
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0x2d, 0xc6, 0xc0]), Some(3_000_000));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(number(&[0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
