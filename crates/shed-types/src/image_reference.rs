//! The name of an image in a registry, like `ghcr.io/owner/tools:v1`.
//!
//! The config names images this way, and `.source` beside a cached image repeats what it was made from. Only the
//! grammar is known here: whether such an image exists is for a registry to say, and nothing here asks one.

use std::{fmt, net::Ipv6Addr, ops::Range, str::FromStr};

/// Longest name, registry and repository with the `/` between them, in bytes. The OCI distribution specification says
/// that many clients have this limit ("Pulling manifests").
const NAME_MAX: usize = 255;

/// Longest tag in bytes (OCI distribution specification, "Pulling manifests").
const TAG_MAX: usize = 128;

/// Registry of a reference that names none.
const DEFAULT_REGISTRY: &str = "docker.io";

/// Says why a text is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an image reference: {rule}")]
pub struct ParseReferenceError {
    text: String,
    rule: &'static str,
}

/// The name of an image in a registry: `[registry/]repository[:tag][@digest]`.
///
/// The grammar is that of the OCI distribution specification 1.1 ("Pulling manifests") for repository and tag, of the
/// OCI image specification ("Digests") for digests, and of `docker pull` for the registry, which the
/// first leaves open:
///
/// ```text
/// repository  [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*
/// tag         [a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}
/// digest      sha256:[a-f0-9]{64} or sha512:[a-f0-9]{128}
/// registry    a host name, an IPv4 or a bracketed IPv6 address, and `:port` if it has one
/// ```
///
/// What stands before the first `/` is a registry when it has a `.`, a `:` or an upper-case letter, or is `localhost`;
/// otherwise it belongs to the repository, and the registry is `docker.io`. A digest of another algorithm is
/// refused, because nobody could check it.
///
/// Two references are equal when they are written the same: `tools` and `docker.io/library/tools:latest` are not,
/// although they lead to the same image.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageReference {
    text: String,
    /// End of the registry; nothing when it is not written.
    registry: Option<usize>,
    repository: (usize, usize),
    tag: Option<(usize, usize)>,
    digest: Option<usize>,
}

impl ImageReference {
    /// Returns the reference as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns host and port of the registry; `docker.io` when none is written.
    #[must_use]
    pub fn registry(&self) -> &str {
        self.registry.map_or(DEFAULT_REGISTRY, |end| &self.text[..end])
    }

    /// Returns the repository as it was written.
    #[must_use]
    pub fn repository(&self) -> &str {
        let (start, end) = self.repository;
        &self.text[start..end]
    }

    /// Returns the tag, if one is written.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.map(|(start, end)| &self.text[start..end])
    }

    /// Returns the digest with its algorithm, if one is written.
    #[must_use]
    pub fn digest(&self) -> Option<&str> {
        self.digest.map(|start| &self.text[start..])
    }
}

impl FromStr for ImageReference {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map_err(|rule| ParseReferenceError { text: text.to_owned(), rule })
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

fn parse(text: &str) -> Result<ImageReference, &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    let (named, digest) = match text.split_once('@') {
        None => (text, None),
        Some((named, digest)) => {
            check_digest(digest)?;
            (named, Some(named.len() + 1))
        }
    };
    // A colon before the last slash belongs to the registry's port.
    let last_component = named.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match named[last_component..].rfind(':') {
        None => (named, None),
        Some(colon) => {
            let colon = last_component + colon;
            check_tag(&named[colon + 1..])?;
            (&named[..colon], Some((colon + 1, named.len())))
        }
    };
    if name.len() > NAME_MAX {
        return Err("its registry and repository together have at most 255 characters");
    }
    let registry = name.find('/').filter(|&slash| is_registry(&name[..slash]));
    if let Some(end) = registry {
        check_registry(&name[..end])?;
    }
    let repository: Range<usize> = registry.map_or(0, |end| end + 1)..name.len();
    if !name[repository.clone()].split('/').all(is_component) {
        return Err(
            "its repository has parts of lower-case letters and digits, joined by one `.`, one or two `_` or any number of `-`, with `/` between the parts",
        );
    }
    Ok(ImageReference {
        text: text.to_owned(),
        registry,
        repository: (repository.start, repository.end),
        tag,
        digest,
    })
}

/// Tells whether the first part of a name is a registry and not the first part of a repository.
fn is_registry(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn check_registry(registry: &str) -> Result<(), &'static str> {
    const RULE: &str = "its registry is a host name or an address, and a port from 1 to 65535 if it has one";
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or(RULE)?;
            let _address: Ipv6Addr = address.parse().map_err(|_| RULE)?;
            (None, if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or(RULE)?) })
        }
        None => match registry.split_once(':') {
            None => (Some(registry), None),
            Some((host, port)) => (Some(host), Some(port)),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.is_some_and(|host| !host.split('.').all(label)) {
        return Err(RULE);
    }
    // Digits only: Rust's own parser takes a sign.
    let is_port = |port: &str| {
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|number| number > 0)
    };
    if port.is_some_and(|port| !is_port(port)) {
        return Err(RULE);
    }
    Ok(())
}

/// Tells whether a text is one part of a repository: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn is_component(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut separator = String::new();
    let ends_are_words = text.bytes().next().is_some_and(is_word) && text.bytes().last().is_some_and(is_word);
    let joined_well = text.bytes().all(|b| {
        if is_word(b) {
            let fits =
                matches!(separator.as_str(), "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-');
            separator.clear();
            fits
        } else {
            separator.push(char::from(b));
            matches!(b, b'.' | b'_' | b'-')
        }
    });
    ends_are_words && joined_well
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let good = tag.len() <= TAG_MAX
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|b| is_word(b) || matches!(b, b'.' | b'-'));
    if good {
        Ok(())
    } else {
        Err("its tag has 1 to 128 letters, digits, `_`, `.` and `-`, and begins with none of the last two")
    }
}

fn check_digest(digest: &str) -> Result<(), &'static str> {
    let length = match digest.split_once(':') {
        Some(("sha256", hex)) => Some((hex, 64)),
        Some(("sha512", hex)) => Some((hex, 128)),
        Some(_) | None => None,
    };
    match length {
        Some((hex, length))
            if hex.len() == length && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) =>
        {
            Ok(())
        }
        Some(_) | None => {
            Err("its digest is `sha256:` with 64 or `sha512:` with 128 lower-case hexadecimal digits")
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Registry, repository, tag and digest.
    type Parts<'a> = (&'a str, &'a str, Option<&'a str>, Option<&'a str>);

    fn parts(text: &str) -> Option<Parts<'_>> {
        // Leaked for the test's convenience; there are few.
        let reference: &'static ImageReference = Box::leak(Box::new(text.parse().ok()?));
        Some((reference.registry(), reference.repository(), reference.tag(), reference.digest()))
    }

    #[test]
    fn references_come_apart_as_docker_takes_them_apart() {
        let hex = "0123456789abcdef".repeat(4);
        let digest = format!("sha256:{hex}");
        for (text, expected) in [
            ("ubuntu", ("docker.io", "ubuntu", None, None)),
            ("ubuntu:24.04", ("docker.io", "ubuntu", Some("24.04"), None)),
            ("owner/tools", ("docker.io", "owner/tools", None, None)),
            ("ghcr.io/owner/tools:v1", ("ghcr.io", "owner/tools", Some("v1"), None)),
            ("localhost/x", ("localhost", "x", None, None)),
            ("localhost:5000/x:y", ("localhost:5000", "x", Some("y"), None)),
            // Without a slash there is no registry, as `docker pull` has it.
            ("localhost:5000", ("docker.io", "localhost", Some("5000"), None)),
            ("Host/x", ("Host", "x", None, None)),
            ("10.0.0.1:5000/a/b", ("10.0.0.1:5000", "a/b", None, None)),
            ("[::1]:5000/a", ("[::1]:5000", "a", None, None)),
            ("[2001:db8::1]/a:t", ("[2001:db8::1]", "a", Some("t"), None)),
            ("a.b/c", ("a.b", "c", None, None)),
            ("a/b.c", ("docker.io", "a/b.c", None, None)),
            ("a__b/c---d_e.f", ("docker.io", "a__b/c---d_e.f", None, None)),
            (&format!("x@{digest}"), ("docker.io", "x", None, Some(digest.as_str()))),
            (&format!("r.io/x:t@{digest}"), ("r.io", "x", Some("t"), Some(digest.as_str()))),
        ] {
            assert_eq!(parts(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        let hex = "0123456789abcdef".repeat(4);
        let long_name = "a".repeat(256);
        let long_tag = format!("a:{}", "t".repeat(129));
        let bad_digests = [
            "x@".to_owned(),
            "x@sha256:".to_owned(),
            format!("x@sha256:{}", hex.to_uppercase()),
            format!("x@sha256:{hex}0"),
            format!("x@sha512:{hex}"),
            format!("x@md5:{hex}"),
            format!("x@sha256:{hex}@sha256:{hex}"),
            format!("@sha256:{hex}"),
        ];
        let others = [
            "",
            "/a",
            "~/a",
            "./a",
            "../a",
            "~",
            ".",
            "a/",
            "a//b",
            "A",
            "owner/Tools",
            "a..b",
            "a___b",
            "a._b",
            "a_",
            "-a",
            "a-",
            "a b",
            " a",
            "a\n",
            "a:",
            ":t",
            "a:.t",
            "a:-t",
            "a:t/b:",
            "a:b:c",
            "http://a/b",
            "a.io:0/b",
            "a.io:65536/b",
            "a.io:/b",
            "a.io:+1/b",
            "a.io:x/b",
            "-a.io/b",
            "a-.io/b",
            "a..io/b",
            "[::1/b",
            "[x]/b",
            "[::1]x/b",
            "ü/b",
            "a/ü",
            "a:ü",
            "a\0b",
            "ghcr.io/",
            "a?b",
            "a%2fb",
            "\\a",
            &long_name,
            &long_tag,
        ];
        for text in others.into_iter().chain(bad_digests.iter().map(String::as_str)) {
            let error = text.parse::<ImageReference>().expect_err(text);
            assert!(error.to_string().contains(" is not an image reference: it"), "{error}");
        }
        assert!("a".repeat(255).parse::<ImageReference>().is_ok());
    }

    const COMPONENT: &str = "[a-z0-9]{1,6}((\\.|_|__|-{1,4})[a-z0-9]{1,6}){0,3}";

    fn registry() -> impl Strategy<Value = String> {
        let host = "[a-z0-9]([a-z0-9-]{0,6}[a-z0-9])?(\\.[A-Za-z0-9]([a-z0-9-]{0,6}[a-z0-9])?){1,3}";
        let host = prop_oneof![
            host.prop_map(String::from),
            Just("localhost".to_owned()),
            any::<[u8; 4]>().prop_map(|ip| std::net::Ipv4Addr::from(ip).to_string()),
            any::<[u16; 8]>().prop_map(|ip| format!("[{}]", Ipv6Addr::from(ip))),
        ];
        (host, proptest::option::of(1..=u16::MAX)).prop_map(|(host, port)| match port {
            None => host,
            Some(port) => format!("{host}:{port}"),
        })
    }

    proptest! {
        #[test]
        fn every_reference_of_the_grammar_parses_into_its_parts(
            registry in proptest::option::of(registry()),
            repository in proptest::collection::vec(COMPONENT, 1..4),
            tag in proptest::option::of("[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}"),
            digest in proptest::option::of(prop_oneof!["sha256:[a-f0-9]{64}", "sha512:[a-f0-9]{128}"]),
        ) {
            // Without a registry, a first part with a dot would be one.
            let repository = repository.join("/");
            let first = repository.split_once('/').map_or("", |(first, _)| first);
            prop_assume!(registry.is_some() || (!first.contains('.') && first != "localhost"));
            let mut text = registry.iter().map(|host| format!("{host}/")).collect::<String>() + &repository;
            prop_assume!(text.len() <= NAME_MAX);
            text.extend(tag.iter().flat_map(|tag| [":", tag]));
            text.extend(digest.iter().flat_map(|digest| ["@", digest]));
            let parsed: ImageReference = text.parse().unwrap();
            prop_assert_eq!(parsed.as_str(), &text);
            prop_assert_eq!(parsed.registry(), registry.as_deref().unwrap_or(DEFAULT_REGISTRY));
            prop_assert_eq!(parsed.repository(), &repository);
            prop_assert_eq!(parsed.tag(), tag.as_deref());
            prop_assert_eq!(parsed.digest(), digest.as_deref());
        }

        #[test]
        fn whatever_parses_is_no_path_and_fits_on_a_line(text in "[a-zA-Z0-9./:@_~\\[\\] -]{0,40}|\\PC{0,40}") {
            if let Ok(reference) = text.parse::<ImageReference>() {
                prop_assert_eq!(reference.as_str(), &text);
                prop_assert!(!text.starts_with(['/', '~', '.', '-']));
                prop_assert!(text.bytes().all(|b| b.is_ascii_graphic()));
                prop_assert!(!reference.repository().is_empty() && !reference.registry().is_empty());
            }
        }
    }
}
