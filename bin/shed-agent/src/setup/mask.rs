//! Keeps the password of a URL out of everything that is shown or kept.

/// What stands in its place.
const MASK: &str = "***";

/// A user name of a web URL that has this many characters is taken for a token, as forges want them there.
const TOKEN: usize = 20;

/// Replaces secrets in a stream of bytes, also where they are cut in two.
#[derive(Debug, Default)]
pub(super) struct Masker {
    /// Longest first, so that one that begins another does not leave the rest of it.
    secrets: Vec<Vec<u8>>,
    /// The end of what came so far, when it may be the beginning of a secret.
    held: Vec<u8>,
}

impl Masker {
    /// Makes one for the secrets of a URL.
    pub(super) fn of_url(url: &str) -> Self {
        let mut secrets: Vec<Vec<u8>> = Vec::new();
        for part in secret_parts(url) {
            secrets.push(part.as_bytes().to_vec());
            secrets.push(percent_decoded(part));
        }
        secrets.retain(|secret| !secret.is_empty());
        secrets.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        secrets.dedup();
        Self { secrets, held: Vec::new() }
    }

    /// Takes the next bytes; returns what can be shown by now.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> Vec<u8> {
        if self.secrets.is_empty() {
            return bytes.to_vec();
        }
        self.held.extend_from_slice(bytes);
        // A longer one may still come whole, so it is waited for before a shorter one is looked at.
        self.show(|rest, secret| secret.len() > rest.len() && secret.starts_with(rest))
    }

    /// Ends the stream; returns what was held back.
    pub(super) fn end(&mut self) -> Vec<u8> {
        self.show(|_, _| false)
    }

    /// Masks what is held, up to where `may_come` says that a secret may be incomplete.
    fn show(&mut self, may_come: impl Fn(&[u8], &[u8]) -> bool) -> Vec<u8> {
        let all = std::mem::take(&mut self.held);
        let mut shown = Vec::with_capacity(all.len());
        let mut rest = &all[..];
        while let Some(&first) = rest.first() {
            if self.secrets.iter().any(|secret| may_come(rest, secret)) {
                break;
            }
            match self.secrets.iter().find(|secret| rest.starts_with(secret)) {
                Some(secret) => {
                    shown.extend_from_slice(MASK.as_bytes());
                    rest = &rest[secret.len()..];
                }
                None => {
                    shown.push(first);
                    rest = &rest[1..];
                }
            }
        }
        self.held = rest.to_vec();
        shown
    }
}

/// Returns the URL without its secrets.
pub(super) fn masked_url(url: &str) -> String {
    let Some((before, user_info, after)) = split(url) else { return url.to_owned() };
    let is_web = is_web(url);
    let shown = match user_info.split_once(':') {
        Some((user, password)) if !password.is_empty() => {
            format!("{}:{MASK}", if is_web && user.len() >= TOKEN { MASK } else { user })
        }
        Some(_) | None if is_web => MASK.to_owned(),
        Some(_) | None => user_info.to_owned(),
    };
    format!("{before}{shown}@{after}")
}

/// The parts of the URL that nobody may see.
fn secret_parts(url: &str) -> Vec<&str> {
    let Some((_, user_info, _)) = split(url) else { return Vec::new() };
    match user_info.split_once(':') {
        Some((user, password)) if !password.is_empty() => {
            if is_web(url) && user.len() >= TOKEN {
                vec![user, password]
            } else {
                vec![password]
            }
        }
        // A web server knows no users without passwords: this is a token.
        Some((user, _)) if is_web(url) => vec![user],
        None if is_web(url) => vec![user_info],
        Some(_) | None => Vec::new(),
    }
}

fn is_web(url: &str) -> bool {
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("http")
}

/// What stands before the user's part, that part, and what stands behind its `@`.
fn split(url: &str) -> Option<(&str, &str, &str)> {
    let begin = url.find("://")? + 3;
    let rest = &url[begin..];
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    let at = authority.rfind('@')?;
    Some((&url[..begin], &authority[..at], &rest[at + 1..]))
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let digit =
        |byte: Option<&u8>| char::from(*byte?).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match (byte, digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(high << 4 | low);
                at += 3;
            }
            _ => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn masked(mut masker: Masker, text: &str) -> String {
        let mut shown = masker.pass(text.as_bytes());
        shown.extend(masker.end());
        String::from_utf8(shown).unwrap()
    }

    #[test]
    fn urls_are_shown_without_their_passwords() {
        let long = "t".repeat(TOKEN);
        for (url, shown) in [
            ("https://host/a", "https://host/a"),
            ("https://me:pw@host/a", "https://me:***@host/a"),
            ("https://me:p@w@host/a@b", "https://me:***@host/a@b"),
            ("HTTP://me:p%40w@host", "HTTP://me:***@host"),
            ("https://token@host/a", "https://***@host/a"),
            ("https://token:@host/a", "https://***@host/a"),
            (&format!("https://{long}:x-oauth-basic@host/a"), "https://***:***@host/a"),
            ("ssh://git@host:22/a", "ssh://git@host:22/a"),
            ("ssh://git:pw@host/a", "ssh://git:***@host/a"),
            ("git@host:a/b", "git@host:a/b"),
            ("https://host/a?x=b:c@d", "https://host/a?x=b:c@d"),
            ("", ""),
        ] {
            assert_eq!(masked_url(url), shown, "{url}");
        }
    }

    #[test]
    fn both_spellings_of_a_password_are_masked() {
        let masker = Masker::of_url("https://me:p%40w%C3%A9@host/a");
        assert_eq!(
            masked(masker, "fatal: https://me:p%40w%C3%A9@host/a, p@wé, p@w"),
            "fatal: https://me:***@host/a, ***, p@w"
        );
        assert_eq!(masked(Masker::of_url("ssh://git@host/a"), "git@host"), "git@host");
    }

    proptest! {
        #[test]
        fn however_it_is_cut_no_password_is_shown(
            before in "[ab]{0,6}", after in "[ab]{0,6}", password in "[ab]{1,4}[xy]{1,3}", cuts in proptest::collection::vec(1_usize..5, 1..12),
        ) {
            let mut masker = Masker::of_url(&format!("https://me:{password}@host/"));
            let whole = format!("{before}{password}{after}{password}");
            let (mut shown, mut rest) = (Vec::new(), whole.as_bytes());
            for cut in cuts {
                let (piece, behind) = rest.split_at(cut.min(rest.len()));
                shown.extend(masker.pass(piece));
                rest = behind;
            }
            shown.extend(masker.pass(rest));
            shown.extend(masker.end());
            let shown = String::from_utf8(shown).unwrap();
            prop_assert!(!shown.contains(&password), "{}", shown);
            prop_assert_eq!(shown, whole.replace(&password, MASK));
        }

        #[test]
        fn without_a_password_every_byte_passes(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut masker = Masker::of_url("ssh://git@host/a");
            let mut shown = masker.pass(&bytes);
            shown.extend(masker.end());
            prop_assert_eq!(shown, bytes);
        }
    }
}
