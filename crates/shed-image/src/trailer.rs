//! What an image's file says of itself, after the end of its file system.
//!
//! A file system need not fill its disk, so a note behind it harms nothing, and it travels with the file: through
//! renames, links and copies, where a file beside it could come to speak of another image. Conversion writes it, the
//! server reads it when a shed starts, prune to know which blobs are needed, push and save to find the image again. An
//! ext4 without one is an image like any other, of which nothing more is known.
//!
//! Layout, from the end of the file: 8 bytes magic, 4 bytes length of the JSON, 4 bytes zero (all little-endian), before
//! them the JSON, before that zeros down to a multiple of 4096 bytes.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Seek as _, SeekFrom, Write as _},
    os::unix::fs::FileExt as _,
};

use camino::Utf8Path;
use serde::{Deserialize, Serialize};
use shed_types::Digest;

const MAGIC: [u8; 8] = *b"SHEDIMG1";

/// Length of what stands behind the JSON, in bytes.
const FOOT: usize = 16;

/// Longest JSON that is written or read, in bytes; registries take manifests of at most 4 MiB, configs are like them.
const MAX_JSON: usize = 4 << 20;

/// The file keeps a multiple of this length, in bytes: the blocks of its file system.
const BLOCK: u64 = 4096;

/// What an image's file says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Trailer {
    /// The manifest it was made from; its blobs may be in the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Digest>,
    /// How its programs are to be run.
    #[serde(default)]
    pub config: RunConfig,
    /// Its labels, `io.shed.base-version` among them for images that extend Shed's base.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// How an image's programs are to be run: the part of an OCI config of that name (OCI image specification, "Image
/// configuration", `config`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RunConfig {
    /// `user`, `uid`, `user:group` or `uid:gid`; empty means nobody in particular.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Variables, `NAME=value`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// The program and its first arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// Further arguments, or the program where there is no entrypoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// Working directory, absolute; empty means none in particular.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
}

impl Trailer {
    /// Adds the trailer to the end of a file that has none.
    ///
    /// # Errors
    /// When the system refuses, or the trailer is longer than anybody reads.
    pub fn append(&self, file: &mut File) -> io::Result<()> {
        let json = serde_json::to_vec(self).map_err(io::Error::other)?;
        if json.len() > MAX_JSON {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the image's config is longer than 4 MiB",
            ));
        }
        let end = file.seek(SeekFrom::End(0))?;
        let whole = (end + (json.len() + FOOT) as u64).next_multiple_of(BLOCK);
        let length = u32::try_from(json.len()).expect("it is at most 4 MiB");
        file.set_len(whole)?;
        let _start = file.seek(SeekFrom::Start(whole - (json.len() + FOOT) as u64))?;
        file.write_all(&json)?;
        file.write_all(&MAGIC)?;
        file.write_all(&length.to_le_bytes())?;
        file.write_all(&[0; 4])
    }

    /// Reads the trailer of an image's file; `None` when it has none.
    ///
    /// # Errors
    /// When the file cannot be read, or has a trailer that makes no sense.
    pub fn read(path: &Utf8Path) -> io::Result<Option<Self>> {
        let file = File::open(path)?;
        let end = file.metadata()?.len();
        let Some(foot_at) = end.checked_sub(FOOT as u64) else { return Ok(None) };
        let mut foot = [0; FOOT];
        file.read_exact_at(&mut foot, foot_at)?;
        let (magic, rest) = foot.split_at(MAGIC.len());
        if magic != MAGIC {
            return Ok(None);
        }
        let length = u32::from_le_bytes(rest[..4].try_into().expect("four bytes are four bytes"));
        let damaged = |reason| io::Error::new(io::ErrorKind::InvalidData, reason);
        let at = foot_at.checked_sub(u64::from(length));
        let at =
            at.filter(|_| length as usize <= MAX_JSON).ok_or_else(|| damaged("its trailer is damaged"))?;
        let mut json = vec![0; length as usize];
        file.read_exact_at(&mut json, at)?;
        serde_json::from_slice(&json).map(Some).map_err(|_| damaged("its trailer is damaged"))
    }
}

#[cfg(test)]
mod tests {
    use camino::Utf8PathBuf;
    use proptest::prelude::*;

    use super::*;

    fn file(content: &[u8]) -> (tempfile::NamedTempFile, Utf8PathBuf) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        let path = Utf8PathBuf::from_path_buf(file.path().to_owned()).unwrap();
        (file, path)
    }

    #[test]
    fn a_trailer_comes_back_and_the_file_stays_one_of_whole_blocks() {
        let (mut file, path) = file(&[1; 8192]);
        assert_eq!(Trailer::read(&path).unwrap(), None);
        let trailer = Trailer {
            manifest: Some(crate::DigestHasher::sha256_of(b"x")),
            config: RunConfig { env: vec!["A=b".repeat(3000)], ..RunConfig::default() },
            labels: [("a".to_owned(), "b".to_owned())].into(),
        };
        trailer.append(file.as_file_mut()).unwrap();
        assert_eq!(Trailer::read(&path).unwrap(), Some(trailer));
        let content = std::fs::read(&path).unwrap();
        assert_eq!(content.len() as u64 % BLOCK, 0);
        assert_eq!(content[..8192], [1; 8192]);
    }

    proptest! {
        #[test]
        fn no_end_of_a_file_is_read_beyond_itself(body in prop::collection::vec(any::<u8>(), 0..100), length: u32) {
            let mut content = body;
            content.extend(MAGIC);
            content.extend(length.to_le_bytes());
            content.extend([0; 4]);
            let (_file, path) = file(&content);
            prop_assert!(!matches!(Trailer::read(&path), Ok(None)));
            let (_file, path) = file(&content[..content.len() - 1]);
            prop_assert_eq!(Trailer::read(&path).unwrap(), None);
        }
    }
}
