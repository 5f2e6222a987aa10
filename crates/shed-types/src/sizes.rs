//! Sizes of a shed's machine, each with its allowed range.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Says that a size lies outside its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be between {min} and {max}{unit}; got {got}")]
pub struct SizeError {
    what: &'static str,
    unit: &'static str,
    min: u32,
    max: u32,
    got: i64,
}

macro_rules! size_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $unit:literal, $min:literal..=$max:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "i64", into = "u32")]
        pub struct $name(u32);

        impl $name {
            /// The smallest allowed value.
            pub const MIN: u32 = $min;
            /// The largest allowed value.
            pub const MAX: u32 = $max;

            /// Returns the number.
            #[must_use]
            pub const fn get(self) -> u32 {
                self.0
            }
        }

        impl TryFrom<i64> for $name {
            type Error = SizeError;

            fn try_from(value: i64) -> Result<Self, SizeError> {
                match u32::try_from(value) {
                    Ok(v) if (Self::MIN..=Self::MAX).contains(&v) => Ok(Self(v)),
                    Ok(_) | Err(_) => {
                        Err(SizeError { what: $what, unit: $unit, min: $min, max: $max, got: value })
                    }
                }
            }
        }

        impl From<$name> for u32 {
            fn from(value: $name) -> u32 {
                value.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

size_type!(
    /// Number of virtual CPUs of a shed (spec K.1: 1 to 32).
    CpuCount, "cpus", "", 1..=32
);
size_type!(
    /// Memory of a shed in MiB, called `memory_mb` on the wire (spec K.1: 128 to 262144).
    MemoryMb, "memory_mb", " MB", 128..=262_144
);
size_type!(
    /// Size of a shed's own disk in GiB, called `disk_gb` in the config (spec K.1: 1 to 1024).
    DiskGb, "disk_gb", " GB", 1..=1024
);

impl DiskGb {
    /// Returns the size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        (self.0 as u64) << 30
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_a_range_belong_to_it_and_what_lies_beyond_does_not() {
        assert_eq!(CpuCount::try_from(1).unwrap().get(), 1);
        assert_eq!(CpuCount::try_from(32).unwrap().get(), 32);
        for bad in [0, -1, 33, 1000, i64::MIN, i64::MAX] {
            assert!(CpuCount::try_from(bad).is_err(), "{bad}");
        }
        for bad in [0, 1, 127, 262_145, 1_000_000_000] {
            assert!(MemoryMb::try_from(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_error_names_the_field_the_range_and_the_value() {
        let text = MemoryMb::try_from(1).unwrap_err().to_string();
        assert_eq!(text, "memory_mb must be between 128 and 262144 MB; got 1");
    }
}
