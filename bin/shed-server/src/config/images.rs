//! The sections of server.yaml on images from registries: `registries:` and `image_limits:`. Called by the check of the
//! whole file.

use std::collections::BTreeSet;

use serde_saphyr::Spanned;
use shed_image::ImageLimits;
use shed_registry::RegistrySettings;
use shed_types::ImageReference;

use super::{
    LoadConfigError, Surroundings,
    check::Source,
    file::{ImageLimitsFile, RegistriesFile},
};

/// Least that `max_size` may be, in bytes: less holds no system.
const MIN_SIZE: u64 = 1 << 20;

/// Most that `max_size` may be, in bytes: what ext4 holds with blocks of 4 KiB and 32-bit numbers (Linux, ext4 docs,
/// "Blocks").
const MAX_SIZE: u64 = 16 << 40;

/// Checks how registries are reached.
pub(super) fn registries(
    raw: RegistriesFile,
    source: Source<'_>,
    surroundings: &Surroundings,
) -> Result<RegistrySettings, LoadConfigError> {
    let insecure = hosts(raw.insecure.unwrap_or_default(), source, "registries.insecure")?;
    let allow = raw.allow.map(|allow| hosts(allow, source, "registries.allow")).transpose()?;
    let docker_config = source.path(raw.docker_config.as_ref(), "registries.docker_config", surroundings)?;
    Ok(RegistrySettings { insecure, allow, docker_config })
}

/// Checks registries, each written as it stands before the first slash of a reference.
fn hosts(
    raw: Vec<Spanned<String>>,
    source: Source<'_>,
    key: &str,
) -> Result<BTreeSet<String>, LoadConfigError> {
    let is_registry = |host: &str| {
        let reference = format!("{host}/x").parse::<ImageReference>();
        reference.is_ok_and(|reference| reference.registry() == host && reference.repository() == "x")
    };
    let checked = raw.into_iter().map(|host| {
        if is_registry(&host.value) {
            return Ok(host.value);
        }
        let problem = format!(
            "{:?} is no registry; write host:port as it stands in references, without http://",
            host.value
        );
        Err(source.bad(&host, key, problem))
    });
    checked.collect()
}

/// Checks what an image may take.
pub(super) fn limits(raw: &ImageLimitsFile, source: Source<'_>) -> Result<ImageLimits, LoadConfigError> {
    let mut limits = ImageLimits::default();
    if let Some(size) = &raw.max_size {
        limits.max_bytes =
            bytes(&size.value).filter(|bytes| (MIN_SIZE..=MAX_SIZE).contains(bytes)).ok_or_else(|| {
                let problem = format!("must be between 1M and 16T, like 64G; got {:?}", size.value);
                source.bad(size, "image_limits.max_size", problem)
            })?;
    }
    if let Some(files) = &raw.max_files {
        limits.max_entries = u64::try_from(files.value).ok().filter(|files| *files > 0).ok_or_else(|| {
            let problem = format!("must be at least 1; got {}", files.value);
            source.bad(files, "image_limits.max_files", problem)
        })?;
    }
    Ok(limits)
}

/// Reads a number of bytes: digits, and `K`, `M`, `G` or `T` for powers of 1024.
fn bytes(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        b'G' => (&text[..text.len() - 1], 30),
        b'T' => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    // Rust's own parser takes a sign.
    let digits = Some(digits).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Writes a number of bytes in the largest unit in which it is whole.
pub(super) fn size_text(bytes: u64) -> String {
    let units = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
    let unit = units.into_iter().find(|(shift, _)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    unit.map_or_else(|| bytes.to_string(), |(shift, unit)| format!("{}{unit}", bytes >> shift))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, expected) in [("64G", Some(64 << 30)), ("1000", Some(1000)), ("1T", Some(1 << 40))] {
            assert_eq!(bytes(text), expected, "{text}");
        }
        for text in ["", "G", "-1G", "+1G", "1.5G", "1GB", "64 G", "g", "99999999999T", "1\u{b5}"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(number: u64) {
            prop_assert_eq!(bytes(&size_text(number)), Some(number));
        }
    }
}
