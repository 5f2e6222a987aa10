//! What a registry wants to see, as it says in `WWW-Authenticate` (RFC 9110 §11.6.1).
//!
//! A header holds several challenges, and each several parameters, all separated by commas; so it is read piece by piece.
//! What is malformed is left out: then there is no challenge that is understood, and the request fails with that.

/// Longest header that is read, in bytes.
const MAX_HEADER: usize = 8192;

/// A way to prove who one is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// Name and password with every request.
    Basic,
    /// A token, which `realm` gives.
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Challenge {
    /// Reads the challenges in one header; unknown schemes are left out.
    pub(crate) fn parse(header: &str) -> Vec<Self> {
        let mut rest = if header.len() > MAX_HEADER { "" } else { header };
        let mut schemes: Vec<(String, Vec<(String, String)>)> = Vec::new();
        loop {
            rest = rest.trim_start_matches([' ', '\t', ',']);
            let Some((word, after)) = token(rest) else { break };
            let after_space = after.trim_start_matches([' ', '\t']);
            if let Some(value) = after_space.strip_prefix('=') {
                // A parameter of the scheme before it; `=` at the end of a token68 reads as an empty one, unharmed.
                let (value, after) = parameter(value.trim_start_matches([' ', '\t']));
                if let Some((_, parameters)) = schemes.last_mut() {
                    parameters.push((word.to_ascii_lowercase(), value));
                }
                rest = after;
            } else {
                schemes.push((word.to_ascii_lowercase(), Vec::new()));
                rest = after_space;
            }
        }
        schemes.into_iter().filter_map(|(scheme, parameters)| Self::new(&scheme, parameters)).collect()
    }

    fn new(scheme: &str, parameters: Vec<(String, String)>) -> Option<Self> {
        let mut find = {
            let mut parameters = parameters;
            move |name: &str| {
                let at = parameters.iter().position(|(key, _)| key == name)?;
                Some(parameters.swap_remove(at).1).filter(|value| !value.is_empty())
            }
        };
        match scheme {
            "basic" => Some(Self::Basic),
            "bearer" => {
                Some(Self::Bearer { realm: find("realm")?, service: find("service"), scope: find("scope") })
            }
            _ => None,
        }
    }
}

/// Takes a token (RFC 9110 §5.6.2) from the beginning of a text.
fn token(text: &str) -> Option<(&str, &str)> {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/".contains(c);
    let end = text.find(|c| !is_token(c)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// Takes a token or a quoted string from the beginning of a text.
fn parameter(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        return token(text)
            .map_or((String::new(), text.get(1..).unwrap_or("")), |(value, rest)| (value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    // It never ends: nothing of it is taken.
    (String::new(), "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        }
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        for (header, expected) in [
            (
                r#"Bearer realm="https://auth.example/token",service="r.example",scope="repository:a/b:pull,push""#,
                vec![bearer(
                    "https://auth.example/token",
                    Some("r.example"),
                    Some("repository:a/b:pull,push"),
                )],
            ),
            (r#"Basic realm="basic-realm""#, vec![Challenge::Basic]),
            ("basic", vec![Challenge::Basic]),
            (
                r#"Negotiate, BEARER Realm = "https://a/" , error="insufficient_scope", Basic realm="x""#,
                vec![bearer("https://a/", None, None), Challenge::Basic],
            ),
            (r#"Bearer realm=https"#, vec![bearer("https", None, None)]),
            (r#"Bearer realm="a\"b\\c",service="""#, vec![bearer(r#"a"b\c"#, None, None)]),
            (r#"Bearer service="x""#, vec![]),
            (r#"Bearer realm="never ends"#, vec![]),
            (r#"realm="x""#, vec![]),
            ("Bearer realm", vec![]),
            ("", vec![]),
            (",,, ==\"", vec![]),
        ] {
            assert_eq!(Challenge::parse(header), expected, "{header}");
        }
        assert_eq!(Challenge::parse(&format!("Basic {}", "a".repeat(MAX_HEADER))), []);
    }

    proptest::proptest! {
        #[test]
        fn no_header_is_too_odd(header in r#"([A-Za-z]{1,6}|[ ,="\\é]|realm|bearer){0,40}"#) {
            let _challenges = Challenge::parse(&header);
        }
    }
}
