//! Bytes in JSON: standard base64 with padding (RFC 4648, section 4).

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

/// Longest value in bytes: the longest message of an SSH agent, which nothing here exceeds (spec J.3).
pub const MAX_BINARY: usize = 256 << 10;

/// Bytes, at most [`MAX_BINARY`].
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Binary(pub Vec<u8>);

impl fmt::Debug for Binary {
    /// Tells the length only: what is to be signed is not for logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Binary({} bytes)", self.0.len())
    }
}

impl Serialize for Binary {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Binary {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let text = String::deserialize(deserializer)?;
        if text.len() > MAX_BINARY.div_ceil(3) * 4 {
            return Err(D::Error::custom(format!("more than {MAX_BINARY} bytes")));
        }
        // Of what is wrong only the place is told: the text may be a secret.
        let bytes = STANDARD.decode(text).map_err(|error| D::Error::custom(format!("no base64: {error}")))?;
        if bytes.len() > MAX_BINARY {
            return Err(D::Error::custom(format!("more than {MAX_BINARY} bytes")));
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(bytes: Vec<u8>) {
            let text = serde_json::to_string(&Binary(bytes.clone())).unwrap();
            prop_assert_eq!(serde_json::from_str::<Binary>(&text).unwrap().0, bytes);
        }
    }

    #[test]
    fn what_is_no_base64_or_too_long_is_refused() {
        for bad in ["\"*\"", "\"AA\"", "\"AAA\"", "7", "null"] {
            assert!(serde_json::from_str::<Binary>(bad).is_err(), "{bad}");
        }
        let long = serde_json::to_string(&Binary(vec![0; MAX_BINARY + 1])).unwrap();
        assert!(serde_json::from_str::<Binary>(&long).unwrap_err().to_string().contains("more than"));
        let longest = serde_json::to_string(&Binary(vec![0; MAX_BINARY])).unwrap();
        assert_eq!(serde_json::from_str::<Binary>(&longest).unwrap().0.len(), MAX_BINARY);
    }
}
