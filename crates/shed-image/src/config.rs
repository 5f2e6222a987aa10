//! The config of an image, read as tolerantly as it can be: pull, import and conversion ask it the same things, so that
//! nothing is downloaded which is refused afterwards.
//!
//! What it does not say of its machine fits every host. It has to name what each layer unpacks to; without layers it
//! need not say that there are none.

use serde::{Deserialize, Deserializer};

use crate::Platform;

/// The config of an image.
#[derive(Debug, Clone, Default)]
pub struct ImageConfig {
    /// The machine that it is for; empty where it does not say.
    pub platform: Platform,
    /// Digests of what its layers unpack to, as they are written.
    pub diff_ids: Vec<String>,
    /// What runs in it.
    pub(crate) run: Option<oci_spec::image::Config>,
}

/// As it is written. Go's tools write `null` for lists and objects that are empty.
#[derive(Deserialize)]
struct Written {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
    rootfs: Option<RootFs>,
    config: Option<oci_spec::image::Config>,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Option<Vec<String>>,
}

impl<'de> Deserialize<'de> for ImageConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A list would be read as an object whose fields are in order.
        let object = serde_json::Map::deserialize(deserializer)?;
        let written = Written::deserialize(object).map_err(serde::de::Error::custom)?;
        let Written { os, architecture, variant, rootfs, config } = written;
        let [os, architecture, variant] = [os, architecture, variant].map(Option::unwrap_or_default);
        Ok(Self {
            platform: Platform { os, architecture, variant },
            diff_ids: rootfs.and_then(|rootfs| rootfs.diff_ids).unwrap_or_default(),
            run: config,
        })
    }
}

impl ImageConfig {
    /// Reads a config.
    ///
    /// # Errors
    /// When it is no config of an image.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// Tells whether the image is for a platform; what either of them does not say fits.
    #[must_use]
    pub fn is_for(&self, wanted: &Platform) -> bool {
        let same = |ours: &str, theirs: &str| ours.is_empty() || theirs.is_empty() || ours == theirs;
        let Platform { os, architecture, variant } = &self.platform;
        same(os, &wanted.os) && same(architecture, &wanted.architecture) && same(variant, &wanted.variant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_config_does_not_say_fits_and_what_it_says_counts() {
        let host = Platform::of_host();
        for text in [
            "{}",
            r#"{"os":"","architecture":null,"rootfs":null,"config":null}"#,
            r#"{"os":"linux","rootfs":{"diff_ids":null}}"#,
            r#"{"rootfs":{}}"#,
        ] {
            let config = ImageConfig::parse(text.as_bytes()).unwrap();
            assert!(config.is_for(&host) && config.diff_ids.is_empty(), "{text}");
        }
        for text in [r#"{"os":"windows"}"#, r#"{"architecture":"s390x"}"#] {
            assert!(!ImageConfig::parse(text.as_bytes()).unwrap().is_for(&host), "{text}");
        }
        for text in ["[]", "", "3", r#"{"os":3}"#, r#"{"rootfs":{"diff_ids":"x"}}"#, r#"["linux"]"#] {
            assert!(ImageConfig::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
