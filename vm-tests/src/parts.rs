//! Where the programs and guest files under test are: `./x` builds them and says so in the environment.

use camino::{Utf8Path, Utf8PathBuf};

/// Names the directory with `shed` and `shed-server`.
pub(crate) const BIN_DIR: &str = "SHED_BIN_DIR";
/// Names the directory with kernel, initramfs and `base-rootfs.ext4`.
pub(crate) const GUEST_DIR: &str = "SHED_GUEST_DIR";
/// `skip` leaves out the tests that boot machines.
const VM_TESTS: &str = "SHED_VM_TESTS";

/// The programs and guest files under test.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Holds `shed` and `shed-server`.
    pub bin_dir: Utf8PathBuf,
    /// Holds kernel, initramfs and images.
    pub guest_dir: Utf8PathBuf,
}

impl Parts {
    /// Finds them; returns nothing when the user chose to skip these tests, and says so.
    ///
    /// # Panics
    /// When they are not there: a test that cannot run is a failed test.
    #[must_use]
    pub fn find() -> Option<Self> {
        if std::env::var(VM_TESTS).is_ok_and(|value| value == "skip") {
            skipped(&format!("{VM_TESTS}=skip"));
            return None;
        }
        match Self::try_find() {
            Ok(parts) => Some(parts),
            Err(problem) => panic!(
                "{problem}; these tests boot machines: run them with `./x test`, which builds what they need, \
                 or set {VM_TESTS}=skip to leave them out"
            ),
        }
    }

    /// Finds them, or says what is missing.
    ///
    /// # Errors
    /// With the variable that is not set, or the file that is not there.
    pub fn try_find() -> Result<Self, String> {
        let parts = Self { bin_dir: directory(BIN_DIR)?, guest_dir: directory(GUEST_DIR)? };
        for file in [parts.shed(), parts.shed_server(), parts.base_image()] {
            if !file.is_file() {
                return Err(format!("there is no {file}"));
            }
        }
        Ok(parts)
    }

    /// The client.
    #[must_use]
    pub fn shed(&self) -> Utf8PathBuf {
        self.bin_dir.join("shed")
    }

    /// The server.
    #[must_use]
    pub fn shed_server(&self) -> Utf8PathBuf {
        self.bin_dir.join("shed-server")
    }

    /// The image of every shed that asks for no other.
    #[must_use]
    pub fn base_image(&self) -> Utf8PathBuf {
        self.guest_dir.join("base-rootfs.ext4")
    }
}

/// Tells whoever reads the test's output why it did nothing.
#[expect(clippy::print_stderr, reason = "a skipped test says why")]
pub fn skipped(reason: &str) {
    eprintln!("SKIPPED: {reason}");
}

fn directory(variable: &str) -> Result<Utf8PathBuf, String> {
    let value = std::env::var(variable).map_err(|_| format!("{variable} is not set"))?;
    resolved(&value)
        .filter(|path| path.is_dir())
        .ok_or_else(|| format!("{variable}={value} is not a directory"))
}

/// A relative path counts from the current directory or, as cargo and nextest run tests elsewhere, from the
/// workspace's root.
pub(crate) fn resolved(path: &str) -> Option<Utf8PathBuf> {
    let root = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    [Utf8PathBuf::from(path), root.join(path)].into_iter().find_map(|path| path.canonicalize_utf8().ok())
}
