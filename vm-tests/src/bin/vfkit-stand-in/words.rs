//! How vfkit takes the value of an option apart: words between commas, each a key with or without a value.
//!
//! Called for `--device`, `--bootloader` and `--timesync`. It knows no key; whoever calls refuses those it does not know.

use anyhow::bail;

/// A word: `key` or `key=value`. A key without a value has an empty one, as in vfkit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) key: String,
    pub(crate) value: String,
}

impl Pair {
    fn of(word: &str) -> Self {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        Self { key: key.to_owned(), value: value.to_owned() }
    }

    /// Checks that the key stands alone, as keys that switch something do.
    ///
    /// # Errors
    /// When it has a value.
    pub(crate) fn alone(&self, device: &str) -> anyhow::Result<()> {
        if !self.value.is_empty() {
            bail!("`{}` of {device} takes no value and was given {:?}", self.key, self.value);
        }
        Ok(())
    }
}

/// Reads words as pairs; empty words count for nothing.
pub(crate) fn pairs<'a>(words: impl IntoIterator<Item = &'a str>) -> Vec<Pair> {
    words.into_iter().filter(|word| !word.is_empty()).map(Pair::of).collect()
}

/// Splits at commas outside double quotes, as `--bootloader` does. A word that begins and ends with a quote loses its
/// quotes; any other keeps them. `--device` knows no quotes at all: there every comma splits.
///
/// # Errors
/// When a quote is not closed.
pub(crate) fn split_quoted(text: &str) -> anyhow::Result<Vec<String>> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    for c in text.chars() {
        match c {
            ',' if !quoted => words.push(unquoted(&std::mem::take(&mut word)).to_owned()),
            '"' => {
                quoted = !quoted;
                word.push(c);
            }
            _ => word.push(c),
        }
    }
    if quoted {
        bail!("a double quote is not closed in {text:?}");
    }
    let last = unquoted(&word);
    if !words.is_empty() || !last.is_empty() {
        words.push(last.to_owned());
    }
    Ok(words)
}

/// Takes the quotes off a text that begins and ends with one: all of them at both ends, as vfkit does.
pub(crate) fn unquoted(text: &str) -> &str {
    if text.starts_with('"') && text.ends_with('"') { text.trim_matches('"') } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<String> {
        split_quoted(text).unwrap()
    }

    #[test]
    fn commas_split_except_between_quotes() {
        assert_eq!(split("linux,kernel=/k,initrd=/i"), ["linux", "kernel=/k", "initrd=/i"]);
        assert_eq!(
            split(r#"linux,cmdline="console=hvc0 a=1,2 b",kernel=/k"#),
            ["linux", r#"cmdline="console=hvc0 a=1,2 b""#, "kernel=/k"]
        );
        assert_eq!(split(r#""kernel=/a,b",x"#), ["kernel=/a,b", "x"]);
        assert_eq!(split("a,,b,"), ["a", "", "b", ""]);
        assert_eq!(split(""), Vec::<String>::new());
    }

    #[test]
    fn a_quote_that_is_not_closed_is_refused() {
        for text in [r#"""#, r#"linux,cmdline="a,b"#, r#"a"b"c""#] {
            let error = split_quoted(text).unwrap_err().to_string();
            assert!(error.contains("not closed"), "{error}");
        }
    }

    #[test]
    fn quotes_come_off_in_pairs_only() {
        assert_eq!(unquoted(r#""a b""#), "a b");
        assert_eq!(unquoted(r#""""a"""#), "a");
        assert_eq!(unquoted(r#"a"b""#), r#"a"b""#);
        assert_eq!(unquoted(r#"""#), "");
    }

    #[test]
    fn a_word_is_a_key_and_what_follows_the_first_sign() {
        let found = pairs(["nat", "", "path=/a=b", "x="]);
        let shown: Vec<_> = found.iter().map(|pair| (pair.key.as_str(), pair.value.as_str())).collect();
        assert_eq!(shown, [("nat", ""), ("path", "/a=b"), ("x", "")]);
        assert!(found[0].alone("virtio-net").is_ok());
        assert!(found[1].alone("virtio-net").is_err());
    }
}
