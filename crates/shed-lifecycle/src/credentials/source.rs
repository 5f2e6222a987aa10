//! A credential's files on the host: read to be sent, and written with what a guest sends. It blocks.
//!
//! What a guest says is checked here, and nowhere but here does it become a file: the name is a plain one that is synced, no
//! link is followed, nothing but a file is replaced, and all that a guest may add is bounded.

use std::{
    fs, io,
    io::{Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use camino::Utf8Path;
use sha2::{Digest as _, Sha256};
use shed_files::{Beneath, EntryPath, Excludes, ReachError, WriteError, is_temporary};
use shed_types::{CredentialName, error_chain};

use super::{Credential, policy::Content};

/// Longest file that is taken from a guest, in bytes (spec E.2).
pub(super) const MAX_FILE: u64 = 10 << 20;

/// Most bytes that are taken at once (spec E.2).
pub(super) const MAX_TOTAL: u64 = 50 << 20;

/// Most files and directories that are sent of a credential.
pub(super) const MAX_ITEMS: usize = 100_000;

/// Most bytes that are sent of a credential: a wrong source, like `/`, must not fill a shed.
pub(super) const MAX_BYTES: u64 = 1 << 30;

/// Most parts of the name of a file that is taken from a guest: each but the last is a directory that it may have made.
const MAX_PARTS: usize = 32;

/// A configured credential.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: CredentialName,
    pub(super) credential: Credential,
    pub(super) excludes: Excludes,
    /// Held while a file of the source is compared and replaced, so that of two guests one comes first.
    writing: Mutex<()>,
}

/// What a source is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
    /// There is none, or it is something else.
    Missing,
}

/// Why a file of a guest is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("its name leads elsewhere")]
    Name,
    #[error("it is more than {MAX_PARTS} directories deep")]
    Deep,
    #[error("its name has control characters or is not UTF-8")]
    Text,
    #[error("it is excluded")]
    Excluded,
    #[error("it was not asked for")]
    NotAsked,
    #[error("it is no file but {0}")]
    NoFile(&'static str),
    #[error("it is longer than {} MiB", MAX_FILE >> 20)]
    TooLong,
    #[error("on the host, {0}")]
    Host(&'static str),
    #[error("the shed has added more than its share since it started; restart it to have more taken")]
    Share,
}

/// A file that is on the host already.
#[derive(Debug, Clone, Copy)]
pub(super) struct Present {
    pub(super) content: Content,
    /// In seconds since 1970: archives tell no more of a guest's files.
    pub(super) modified: i64,
}

/// What a file of a guest became.
#[derive(Debug)]
pub(super) enum Landed {
    Written,
    Refused(Refusal),
}

/// An open source.
#[derive(Debug)]
pub(super) struct Source<'a> {
    entry: &'a Entry,
    root: Beneath,
    /// For a single file: its name on the host. Its name in guests is the target's.
    file: Option<PathBuf>,
}

impl Entry {
    pub(super) fn new(name: CredentialName, credential: Credential) -> Self {
        // The configuration was checked; a pattern that cannot be read leaves out nothing.
        let excludes = Excludes::parse(&credential.exclude).unwrap_or_default();
        Self { name, credential, excludes, writing: Mutex::default() }
    }

    /// Returns what the source is now.
    pub(super) fn kind(&self) -> Kind {
        match fs::metadata(&self.credential.source) {
            Ok(meta) if meta.is_dir() => Kind::Directory,
            Ok(meta) if meta.is_file() => Kind::File,
            Ok(_) | Err(_) => Kind::Missing,
        }
    }

    /// Returns the name that a single file has in guests; a target without one is no place for a file.
    pub(super) fn guest_name(&self) -> Option<&str> {
        self.credential.target.split().map(|(_, name)| name)
    }

    /// Opens the source.
    ///
    /// # Errors
    /// When it is not there, or cannot be opened.
    pub(super) fn open(&self) -> io::Result<Source<'_>> {
        let path = fs::canonicalize(&self.credential.source)?;
        if fs::metadata(&path)?.is_dir() {
            return Ok(Source { entry: self, root: Beneath::open(&path)?, file: None });
        }
        match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => {
                Ok(Source { entry: self, root: Beneath::open(parent)?, file: Some(name.into()) })
            }
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl Source<'_> {
    /// Returns the path on the host of a file that has this name in guests, if it is synced.
    fn path(&self, name: &str) -> Result<PathBuf, Refusal> {
        let plain = EntryPath::parse(name.as_bytes()).map_err(|_| Refusal::Name)?;
        let path = plain.as_path();
        if path.as_os_str().is_empty() || path.as_os_str() != name {
            return Err(Refusal::Name);
        }
        if name.chars().any(char::is_control) {
            return Err(Refusal::Text);
        }
        if path.iter().any(|part| is_temporary(part.as_encoded_bytes()))
            || self.entry.excludes.leave_out(path)
        {
            return Err(Refusal::Excluded);
        }
        match &self.file {
            None => Ok(path.to_owned()),
            Some(file) if self.entry.guest_name() == Some(name) => Ok(file.clone()),
            Some(_) => Err(Refusal::NotAsked),
        }
    }

    /// Opens a file to be sent, by its name in guests. One that is not synced, or no file, is none.
    pub(super) fn file(&self, name: &str) -> Option<(fs::File, fs::Metadata)> {
        self.root.file(&self.path(name).ok()?).ok()
    }

    /// Returns the content of a file, by its name in guests.
    #[cfg(test)]
    pub(super) fn content(&self, name: &str) -> Option<Content> {
        let (mut file, _) = self.file(name)?;
        content_of(&mut file).ok()
    }

    /// Returns the names that the files have in guests.
    pub(super) fn names(&self) -> Vec<String> {
        if self.file.is_some() {
            return self.entry.guest_name().map(str::to_owned).into_iter().collect();
        }
        let leave_out = |path: &Path| self.entry.excludes.leave_out(path);
        // What is too much was a warning when all of it was copied.
        let found = self.root.files(&leave_out, MAX_ITEMS, &mut shed_files::Warnings::default());
        found.into_iter().filter_map(|path| path.into_os_string().into_string().ok()).collect()
    }

    /// Puts what a guest has sent in its place, if `judge` still wants that when it has seen what is there.
    ///
    /// # Errors
    /// When the host's disk does not take it, which is not the guest's fault.
    pub(super) fn land(
        &self,
        name: &str,
        content: &[u8],
        mode: u32,
        share: &mut Share,
        judge: impl FnOnce(Option<Present>) -> bool,
    ) -> io::Result<Option<Landed>> {
        let path = match self.path(name) {
            Ok(path) => path,
            Err(refusal) => return Ok(Some(Landed::Refused(refusal))),
        };
        if path.iter().count() > MAX_PARTS {
            return Ok(Some(Landed::Refused(Refusal::Deep)));
        }
        let _turn = self.entry.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, length) = match self.root.file(&path) {
            Ok((mut file, meta)) => {
                let present = Present { content: content_of(&mut file)?, modified: meta.mtime() };
                (Some(present), Some(meta.len()))
            }
            Err(ReachError::Missing) => (None, None),
            Err(ReachError::InTheWay(what)) => return Ok(Some(Landed::Refused(in_the_way(what)))),
            Err(ReachError::Name) => return Ok(Some(Landed::Refused(Refusal::Name))),
            Err(ReachError::Io(error)) => return Err(error),
        };
        if !judge(before) {
            return Ok(None);
        }
        if !share.take(length, content.len() as u64, self.root.missing_directories(&path)) {
            return Ok(Some(Landed::Refused(Refusal::Share)));
        }
        match self.root.write(&path, content, mode) {
            Ok(()) => Ok(Some(Landed::Written)),
            Err(WriteError::Reach(ReachError::InTheWay(what))) => Ok(Some(Landed::Refused(in_the_way(what)))),
            Err(WriteError::Reach(ReachError::Name)) => Ok(Some(Landed::Refused(Refusal::Name))),
            Err(WriteError::Reach(ReachError::Io(error)) | WriteError::Write(error)) => Err(error),
            Err(error @ WriteError::Reach(ReachError::Missing)) => Err(io::Error::other(error_chain(&error))),
        }
    }
}

const fn in_the_way(what: &'static str) -> Refusal {
    Refusal::Host(match what.as_bytes() {
        b"a symbolic link" | b"a link or a file" => "a link or something else is in its place",
        _ => "something that is no file is in its place",
    })
}

/// How much a guest may add to a source while it runs. Writing what is there anew is not counted.
#[derive(Debug, Default)]
pub(super) struct Share {
    files: u32,
    bytes: u64,
}

impl Share {
    /// Most new files and directories.
    const FILES: u32 = 5000;

    /// Most bytes that all files grow by.
    const BYTES: u64 = 512 << 20;

    fn take(&mut self, before: Option<u64>, after: u64, directories: u32) -> bool {
        let files = self.files.saturating_add(u32::from(before.is_none())).saturating_add(directories);
        let bytes = self.bytes.saturating_add(after.saturating_sub(before.unwrap_or(0)));
        let fits = files <= Self::FILES && bytes <= Self::BYTES;
        if fits {
            (self.files, self.bytes) = (files, bytes);
        }
        fits
    }
}

/// Reads a file from its beginning, and leaves it there.
pub(super) fn content_of(file: &mut fs::File) -> io::Result<Content> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => hasher.update(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let _start = file.seek(SeekFrom::Start(0))?;
    Ok(Content::end(hasher))
}

/// Whether a path is a good one to write in a warning: the user's own words.
pub(super) fn described(source: &Utf8Path) -> String {
    shed_files::shown(source.as_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use proptest::prelude::*;

    use super::*;

    fn entry(source: &Path, target: &str) -> Entry {
        let credential = Credential {
            source: source.to_str().unwrap().into(),
            target: target.parse().unwrap(),
            read_only: false,
            exclude: vec!["cache/*".into(), "*.log".into()],
        };
        Entry::new("claude".parse().unwrap(), credential)
    }

    fn land(source: &Source<'_>, name: &str, content: &[u8]) -> Option<Landed> {
        source.land(name, content, 0o777, &mut Share::default(), |_| true).unwrap()
    }

    #[test]
    fn what_a_guest_sends_lands_beneath_the_source_or_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
        for path in [&inside, &outside, &inside.join("dir")] {
            fs::create_dir(path).unwrap();
        }
        fs::write(outside.join("secret"), "kept").unwrap();
        symlink(&outside, inside.join("link")).unwrap();
        symlink(outside.join("secret"), inside.join("file")).unwrap();
        let entry = entry(&inside, "~/.claude");
        let source = entry.open().unwrap();
        for name in [
            "/etc/passwd",
            "../out/secret",
            "a/../../out/secret",
            "..",
            ".",
            "",
            "a//b",
            "./a",
            "a/",
            "link/secret",
            "link/new",
            "file",
            "dir",
            "cache/x",
            "x.log",
            "a\nb",
            "\u{1b}[2J",
            ".shed-0123456789abcdef-7",
            "d/.shed-0123456789abcdef-7/x",
            &"a".repeat(256),
            &"a/".repeat(3000),
            &format!("{}x", "a/".repeat(MAX_PARTS)),
        ] {
            assert!(matches!(land(&source, name, b"evil"), Some(Landed::Refused(_))), "{name:?}");
        }
        assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), "kept");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        assert_eq!(source.names(), Vec::<String>::new());
        assert!(matches!(land(&source, "sub/new", b"fine"), Some(Landed::Written)));
        assert_eq!(source.names(), ["sub/new"]);
        assert_eq!(source.content("sub/new"), Some(Content::of(b"fine")));
        assert_eq!(fs::metadata(inside.join("sub/new")).unwrap().permissions().mode() & 0o7777, 0o755);
    }

    #[test]
    fn a_single_file_has_the_targets_name_in_guests_and_its_own_on_the_host() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        fs::write(&real, "1").unwrap();
        fs::write(dir.path().join("other"), "kept").unwrap();
        symlink("real", dir.path().join("token")).unwrap();
        let entry = entry(&dir.path().join("token"), "/etc/tool/auth.json");
        assert_eq!((entry.kind(), entry.guest_name()), (Kind::File, Some("auth.json")));
        let source = entry.open().unwrap();
        assert_eq!(source.names(), ["auth.json"]);
        for name in ["token", "real", "other", "x/auth.json"] {
            assert!(matches!(land(&source, name, b"evil"), Some(Landed::Refused(_))), "{name:?}");
        }
        assert!(matches!(land(&source, "auth.json", b"2"), Some(Landed::Written)));
        assert_eq!(fs::read_to_string(&real).unwrap(), "2");
        assert!(dir.path().join("token").is_symlink(), "the user's link stays");
    }

    #[test]
    fn a_guest_gets_its_share_and_no_more() {
        let mut share = Share::default();
        assert!((0..Share::FILES).all(|_| share.take(None, 1, 0)));
        assert!(!share.take(None, 1, 0));
        assert!((0..1000).all(|_| share.take(Some(5), 5, 0)), "what does not grow is free");
        assert!(!share.take(Some(0), Share::BYTES, 0));
        assert!(share.take(Some(0), Share::BYTES - u64::from(Share::FILES), 0));
        assert!(!share.take(Some(0), 1, 0));
        let mut share = Share::default();
        assert!(share.take(None, 1, Share::FILES - 1) && !share.take(Some(1), 1, 1), "directories count");
    }

    proptest! {
        #[test]
        fn fuzz_landing(names in prop::collection::vec("(\\.\\.|\\.|/|[a-c]|link|\\PC){0,8}", 1..6)) {
            let dir = tempfile::tempdir().unwrap();
            let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
            fs::create_dir(&inside).unwrap();
            fs::create_dir(&outside).unwrap();
            symlink(&outside, inside.join("link")).unwrap();
            let entry = entry(&inside, "~/x");
            let source = entry.open().unwrap();
            for name in names {
                let _any = source.land(&name, b"x", 0o644, &mut Share::default(), |_| true);
            }
            prop_assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
            prop_assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        }
    }
}
