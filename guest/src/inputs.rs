//! Decides whether something must be built again: a digest over everything that went into it, kept beside the result.
//!
//! Each builder feeds its inputs, asks `Stamp::is_current`, and writes the stamp last. So a build that dies anywhere is
//! done again, and so is one whose result was deleted or cut short.

use std::{collections::BTreeMap, fs, io, os::unix::fs::PermissionsExt as _};

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::outdir::{OutDir, write_whole};

/// A digest under construction. Every part has a label, so that moving bytes between parts changes it.
#[derive(Debug, Clone)]
pub(crate) struct Inputs(Sha256);

impl Inputs {
    /// Begins the digest of a step. `format` is a number which the step raises when it makes something else of the same
    /// inputs.
    pub(crate) fn new(step: &str, format: u32) -> Self {
        let mut inputs = Self(Sha256::new());
        inputs.text("step", step);
        inputs.text("format", &format.to_string());
        inputs
    }

    /// Adds a text.
    pub(crate) fn text(&mut self, label: &str, text: &str) {
        self.part(label, text.as_bytes());
    }

    /// Adds a file's content.
    pub(crate) fn file(&mut self, label: &str, path: &Utf8Path) -> Result<()> {
        let content = fs::read(path).with_context(|| format!("cannot read {path}"))?;
        self.part(label, &content);
        Ok(())
    }

    /// Adds all files below a directory with their names and whether they may be executed. A missing directory is empty.
    pub(crate) fn tree(&mut self, label: &str, dir: &Utf8Path) -> Result<()> {
        for path in files_below(dir)? {
            let whole = dir.join(&path);
            let metadata = fs::symlink_metadata(&whole).with_context(|| format!("cannot read {whole}"))?;
            self.text(label, path.as_str());
            if metadata.is_symlink() {
                self.text("link", whole.read_link_utf8()?.as_str());
            } else {
                self.text(
                    "executable",
                    if metadata.permissions().mode() & 0o111 == 0 { "no" } else { "yes" },
                );
                self.file("content", &whole)?;
            }
        }
        Ok(())
    }

    fn part(&mut self, label: &str, bytes: &[u8]) {
        for field in [label.as_bytes(), bytes] {
            self.0.update((field.len() as u64).to_le_bytes());
            self.0.update(field);
        }
    }

    /// Returns the digest as hexadecimal text.
    pub(crate) fn digest(self) -> String {
        hex::encode(self.0.finalize())
    }
}

/// Returns the files and links below `dir`, sorted, relative to it.
pub(crate) fn files_below(dir: &Utf8Path) -> Result<Vec<Utf8PathBuf>> {
    fn walk(top: &Utf8Path, dir: &Utf8Path, found: &mut Vec<Utf8PathBuf>) -> io::Result<()> {
        for entry in dir.read_dir_utf8()? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                walk(top, entry.path(), found)?;
            } else if let Ok(relative) = entry.path().strip_prefix(top) {
                found.push(relative.to_owned());
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    if dir.exists() {
        walk(dir, dir, &mut found).with_context(|| format!("cannot read the directory {dir}"))?;
    }
    found.sort();
    Ok(found)
}

/// What a finished step leaves in the cache.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    inputs: String,
    /// Results by their path relative to the output directory, with their length in bytes.
    outputs: BTreeMap<Utf8PathBuf, u64>,
}

/// The stamp of one step.
#[derive(Debug)]
pub(crate) struct Stamp<'a> {
    out: &'a OutDir,
    path: Utf8PathBuf,
}

impl<'a> Stamp<'a> {
    /// Returns the stamp of `step`.
    pub(crate) fn of(out: &'a OutDir, step: &str) -> Self {
        Self { path: out.cache().join(format!("{step}.stamp")), out }
    }

    /// Tells whether the results are there and were made from these inputs.
    pub(crate) fn is_current(&self, digest: &str) -> bool {
        let Ok(text) = fs::read(&self.path) else { return false };
        let Ok(record) = serde_json::from_slice::<Record>(&text) else { return false };
        record.inputs == digest
            && record.outputs.iter().all(|(path, len)| {
                fs::metadata(self.out.path().join(path)).is_ok_and(|metadata| metadata.len() == *len)
            })
    }

    /// Removes the stamp: from here on the results are in doubt.
    pub(crate) fn withdraw(&self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.path))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Records that the results are whole.
    pub(crate) fn write(&self, digest: String, outputs: &[Utf8PathBuf]) -> Result<()> {
        let outputs = outputs
            .iter()
            .map(|path| {
                let whole = self.out.path().join(path);
                let metadata = fs::metadata(&whole).with_context(|| format!("cannot read {whole}"))?;
                Ok((path.clone(), metadata.len()))
            })
            .collect::<Result<_>>()?;
        let text = serde_json::to_vec_pretty(&Record { inputs: digest, outputs })?;
        write_whole(&self.path, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temporary() -> (tempfile::TempDir, Utf8PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(dir.path().to_owned()).unwrap();
        (dir, path)
    }

    fn tree_digest(dir: &Utf8Path) -> String {
        let mut inputs = Inputs::new("test", 1);
        inputs.tree("recipe", dir).unwrap();
        inputs.digest()
    }

    #[test]
    fn a_tree_changes_with_names_content_and_the_executable_bit() {
        let (_guard, dir) = temporary();
        fs::create_dir(dir.join("sub")).unwrap();
        fs::write(dir.join("sub/a"), b"1").unwrap();
        let first = tree_digest(&dir);
        assert_eq!(first, tree_digest(&dir));

        fs::set_permissions(dir.join("sub/a"), fs::Permissions::from_mode(0o755)).unwrap();
        let executable = tree_digest(&dir);
        assert_ne!(first, executable);

        fs::write(dir.join("sub/a"), b"2").unwrap();
        let content = tree_digest(&dir);
        assert_ne!(executable, content);

        fs::rename(dir.join("sub/a"), dir.join("sub/b")).unwrap();
        assert_ne!(content, tree_digest(&dir));
    }

    #[test]
    fn bytes_cannot_move_between_parts() {
        let digest = |parts: &[(&str, &str)]| {
            let mut inputs = Inputs::new("test", 1);
            for (label, text) in parts {
                inputs.text(label, text);
            }
            inputs.digest()
        };
        assert_ne!(digest(&[("a", "bc")]), digest(&[("ab", "c")]));
        assert_ne!(digest(&[("a", "b"), ("c", "d")]), digest(&[("a", "bcd")]));
    }

    #[test]
    fn a_stamp_is_current_only_with_the_same_inputs_and_whole_results() {
        let (_guard, dir) = temporary();
        let out = OutDir::open(&dir).unwrap();
        let stamp = Stamp::of(&out, "kernel");
        assert!(!stamp.is_current("d1"));
        fs::write(dir.join("bzImage"), b"kernel").unwrap();
        stamp.write("d1".into(), &["bzImage".into()]).unwrap();
        assert!(stamp.is_current("d1") && !stamp.is_current("d2"));

        fs::write(dir.join("bzImage"), b"kern").unwrap();
        assert!(!stamp.is_current("d1"), "a shortened result must not count");
        fs::remove_file(dir.join("bzImage")).unwrap();
        assert!(!stamp.is_current("d1"));
        stamp.withdraw().unwrap();
        stamp.withdraw().unwrap();
    }
}
