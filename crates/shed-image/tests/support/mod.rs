//! For tests of conversion: layers with whatever content, images made by other tools, and a look into an ext4 through
//! e2fsprogs, which nothing of the writer under test is part of.

#![allow(dead_code, reason = "every test takes a part of it")]

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use camino::{Utf8Path, Utf8PathBuf};
use shed_image::{BlobStore, ImageStore};

/// A directory of its own, and a store in it.
pub(crate) struct Place {
    _guard: tempfile::TempDir,
    pub(crate) dir: Utf8PathBuf,
    pub(crate) blobs: BlobStore,
}

impl Place {
    pub(crate) fn new() -> Self {
        // Not in /tmp, which may be unable to hold attributes.
        let guard = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let dir = Utf8PathBuf::from_path_buf(guard.path().to_owned()).unwrap();
        let blobs = BlobStore::of(&ImageStore::new(dir.join("images")));
        fs::create_dir(dir.join("images")).unwrap();
        Self { _guard: guard, dir, blobs }
    }

    /// Names of everything in the images directory that is not the store of blobs.
    pub(crate) fn left(&self) -> Vec<String> {
        let entries = self.dir.join("images").read_dir_utf8().unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().to_owned());
        names.filter(|name| name != ".oci").collect()
    }
}

/// Runs a tool that a test needs and returns what it says.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("this test needs the program {program}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// A layer that is being written.
#[derive(Default)]
pub(crate) struct Layer(pub Vec<u8>);

/// What a header says beside name and type.
#[derive(Clone, Copy)]
pub(crate) struct Meta {
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) mtime: u64,
    pub(crate) device: (u32, u32),
}

pub(crate) const PLAIN: Meta = Meta { mode: 0o644, uid: 0, gid: 0, mtime: 1_700_000_000, device: (0, 0) };

impl Layer {
    /// Adds an entry of the type that a header has for it, in GNU's format; names of any length and content go.
    pub(crate) fn entry(mut self, kind: u8, name: &[u8], link: &[u8], meta: Meta, content: &[u8]) -> Self {
        if link.len() > 100 {
            self = self.long(b'K', link);
        }
        if name.len() > 100 {
            self = self.long(b'L', name);
        }
        let mut header = tar::Header::new_gnu();
        let bytes = header.as_mut_bytes();
        bytes[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
        bytes[157..157 + link.len().min(100)].copy_from_slice(&link[..link.len().min(100)]);
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_mode(meta.mode);
        header.set_uid(meta.uid);
        header.set_gid(meta.gid);
        header.set_mtime(meta.mtime);
        header.set_device_major(meta.device.0).unwrap();
        header.set_device_minor(meta.device.1).unwrap();
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.content(content)
    }

    /// Adds an entry that has a size and no content.
    pub(crate) fn sized(mut self, kind: u8, name: &str, link: &str, size: u64) -> Self {
        let at = self.0.len();
        self = self.entry(kind, name.as_bytes(), link.as_bytes(), Meta { device: (1, 3), ..PLAIN }, b"");
        let mut header = tar::Header::from_byte_slice(&self.0[at..]).clone();
        header.set_size(size);
        header.set_cksum();
        self.0[at..].copy_from_slice(header.as_bytes());
        self
    }

    fn long(self, kind: u8, name: &[u8]) -> Self {
        self.entry(kind, b"././@LongLink", b"", PLAIN, &[name, b"\0"].concat())
    }

    fn content(mut self, content: &[u8]) -> Self {
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// Adds pax records for the entry behind.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut content = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (1..).find(|digits| (rest + digits).to_string().len() == *digits).unwrap();
            write!(content, "{} {key}=", rest + length).unwrap();
            content.extend_from_slice(value);
            content.push(b'\n');
        }
        self.entry(b'x', b"pax", b"", PLAIN, &content)
    }

    pub(crate) fn file(self, name: &str, content: &[u8]) -> Self {
        self.entry(b'0', name.as_bytes(), b"", PLAIN, content)
    }

    pub(crate) fn directory(self, name: &str) -> Self {
        self.entry(b'5', name.as_bytes(), b"", Meta { mode: 0o755, ..PLAIN }, b"")
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(b'2', name.as_bytes(), target.as_bytes(), Meta { mode: 0o777, ..PLAIN }, b"")
    }

    pub(crate) fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(b'1', name.as_bytes(), target.as_bytes(), PLAIN, b"")
    }

    /// Ends the archive.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

/// Makes an OCI layout with an image `t` of these layers, by umoci.
pub(crate) fn umoci_image(dir: &Utf8Path, layers: &[Vec<u8>]) -> Utf8PathBuf {
    let layout = dir.join("oci");
    run("umoci", &["init", "--layout", layout.as_str()]);
    let image = format!("{layout}:t");
    run("umoci", &["new", "--image", &image]);
    for layer in layers {
        let path = dir.join("layer.tar");
        fs::write(&path, layer).unwrap();
        run("umoci", &["raw", "add-layer", "--image", &image, path.as_str()]);
        fs::remove_file(&path).unwrap();
    }
    layout
}

/// What there is to a file, by its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) kind: char,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) links: u64,
    pub(crate) size: u64,
    /// Seconds and nanoseconds; none for directories, whose time other tools leave to chance.
    pub(crate) modified: Option<(i64, u32)>,
    pub(crate) device: Option<(u32, u32)>,
    pub(crate) xattrs: BTreeMap<String, Vec<u8>>,
    pub(crate) content: Vec<u8>,
}

pub(crate) type Seens = BTreeMap<Vec<u8>, Seen>;

/// Runs e2fsck, which must find nothing.
pub(crate) fn check(image: &Utf8Path) {
    let output = Command::new("e2fsck").env("PATH", path()).args(["-fn", image.as_str()]).output();
    let output = output.expect("this test needs e2fsprogs");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{text}");
}

fn path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

/// Runs commands of debugfs and returns what each one says.
fn debugfs(dir: &Utf8Path, image: &Utf8Path, commands: &[String]) -> Vec<String> {
    let script = dir.join("debugfs");
    fs::write(&script, commands.join("\n") + "\n").unwrap();
    let output =
        Command::new("debugfs").env("PATH", path()).args(["-f", script.as_str(), image.as_str()]).output();
    let output = output.expect("this test needs e2fsprogs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut answers = Vec::new();
    for line in text.split_inclusive('\n') {
        if line.starts_with("debugfs: ") {
            answers.push(String::new());
        } else if let Some(last) = answers.last_mut() {
            last.push_str(line);
        }
    }
    assert_eq!(answers.len(), commands.len(), "{text}");
    answers
}

/// Looks at everything in an ext4.
pub(crate) fn see_ext4(image: &Utf8Path) -> Seens {
    let guard = tempfile::tempdir().unwrap();
    let dir = Utf8Path::from_path(guard.path()).unwrap();
    let mut paths: Vec<(Vec<u8>, u32)> = vec![(Vec::new(), 2)];
    let mut level = paths.clone();
    while !level.is_empty() {
        let commands: Vec<String> = level.iter().map(|(_, number)| format!("ls -l <{number}>")).collect();
        let mut below = Vec::new();
        for ((path, _), answer) in level.iter().zip(debugfs(dir, image, &commands)) {
            // Number, mode, type, owner, group, size, day and time, and the rest is the name.
            for line in answer.lines().filter(|line| line.contains(" (")) {
                let mut rest = line.trim_start();
                let mut fields = Vec::new();
                for _ in 0..8 {
                    let (field, after) = rest.split_once(' ').unwrap_or_else(|| panic!("{line}"));
                    fields.push(field);
                    rest = if fields.len() < 8 { after.trim_start() } else { after };
                }
                let name = unescape(rest);
                if name == b"." || name == b".." {
                    continue;
                }
                let child = ([path.as_slice(), b"/", &name].concat(), fields[0].parse().unwrap());
                paths.push(child.clone());
                if fields[2] == "(2)" {
                    below.push(child);
                }
            }
        }
        level = below;
    }
    let commands = paths.iter().flat_map(|(_, number)| {
        [
            format!("stat <{number}>"),
            format!("dump <{number}> {dir}/content.{number}"),
            format!("ea_list <{number}>"),
        ]
    });
    let answers = debugfs(dir, image, &commands.collect::<Vec<_>>());
    let mut seen = Seens::new();
    for ((path, number), answers) in paths.into_iter().zip(answers.chunks(3)) {
        let [stat, _, list] = answers else { unreachable!() };
        let names: Vec<&str> = list
            .lines()
            .filter_map(|line| line.strip_prefix("  ")?.split_once(" (").map(|(name, _)| name))
            .collect();
        let commands =
            names.iter().zip(0..).map(|(name, i)| format!("ea_get -f {dir}/ea.{i} <{number}> {name}"));
        let commands: Vec<String> = commands.collect();
        if !commands.is_empty() {
            debugfs(dir, image, &commands);
        }
        let xattrs = names.iter().zip(0..).map(|(name, i)| {
            let mut value = fs::read(dir.join(format!("ea.{i}"))).unwrap_or_default();
            if name.starts_with("system.posix_acl_") {
                // debugfs leaves the number zero where there is none.
                for entry in value[4..].chunks_mut(8).filter(|entry| !matches!(entry[0], 2 | 8)) {
                    entry[4..].fill(0xff);
                }
            }
            ((*name).to_owned(), value)
        });
        let xattrs = xattrs.collect();
        let file = dir.join(format!("content.{number}"));
        seen.insert(path, parse_stat(stat, xattrs, fs::read(file).unwrap_or_default()));
    }
    seen
}

/// debugfs writes large numbers of users as negative ones.
fn owner(text: &str) -> u32 {
    let number: i64 = text.parse().unwrap();
    u32::try_from(if number < 0 { number + (1 << 32) } else { number }).unwrap()
}

fn unescape(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = name.as_bytes();
    while let [first, after @ ..] = rest {
        if let [b'\\', b'x', high, low, after @ ..] = rest {
            let hex = [*high, *low];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap());
            rest = after;
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    bytes
}

fn parse_stat(stat: &str, xattrs: BTreeMap<String, Vec<u8>>, content: Vec<u8>) -> Seen {
    let words: Vec<&str> = stat.split_whitespace().collect();
    let after = |key: &str| {
        let at = words.iter().position(|word| *word == key).unwrap_or_else(|| panic!("{key}: {stat}"));
        words[at + 1]
    };
    let kind = match after("Type:") {
        "regular" => 'f',
        "directory" => 'd',
        "symlink" => 'l',
        "character" => 'c',
        "block" => 'b',
        "FIFO" => 'p',
        other => panic!("{other}"),
    };
    let (low, extra) = after("mtime:").strip_prefix("0x").unwrap().split_once(':').unwrap();
    let low = u32::from_str_radix(low, 16).unwrap().cast_signed();
    let extra = u32::from_str_radix(extra, 16).unwrap();
    let modified = (i64::from(low) + (i64::from(extra & 3) << 32), extra >> 2);
    let device =
        stat.lines().find_map(|line| line.split_once("Device major/minor number: ")).map(|(_, rest)| {
            let number = rest.split_whitespace().next().unwrap();
            let (major, minor) = number.split_once(':').unwrap();
            (major.parse().unwrap(), minor.parse().unwrap())
        });
    let short = stat.split_once("Fast link dest: \"").map(|(_, rest)| rest.trim_end().trim_end_matches('"'));
    Seen {
        kind,
        mode: u32::from_str_radix(after("Mode:"), 8).unwrap(),
        uid: owner(after("User:")),
        gid: owner(after("Group:")),
        links: after("Links:").parse().unwrap(),
        size: if matches!(kind, 'f' | 'l') { after("Size:").parse().unwrap() } else { 0 },
        modified: (kind != 'd').then_some(modified),
        device,
        xattrs,
        content: match (kind, short) {
            ('l', Some(short)) => short.as_bytes().to_vec(),
            ('f' | 'l', _) => content,
            _ => Vec::new(),
        },
    }
}

/// Looks at everything below a directory.
pub(crate) fn see_directory(root: &Utf8Path) -> Seens {
    use std::os::unix::{
        ffi::OsStrExt as _,
        fs::{FileTypeExt as _, MetadataExt as _},
    };
    let mut seen = Seens::new();
    let mut left = vec![(Vec::new(), root.as_std_path().to_owned())];
    while let Some((name, path)) = left.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let file_type = metadata.file_type();
        let kind = match () {
            () if file_type.is_dir() => 'd',
            () if file_type.is_symlink() => 'l',
            () if file_type.is_char_device() => 'c',
            () if file_type.is_block_device() => 'b',
            () if file_type.is_fifo() => 'p',
            () => 'f',
        };
        if kind == 'd' {
            for entry in fs::read_dir(&path).unwrap() {
                let entry = entry.unwrap();
                left.push(([name.as_slice(), b"/", entry.file_name().as_bytes()].concat(), entry.path()));
            }
        }
        let device = matches!(kind, 'c' | 'b')
            .then(|| rustix::fs::lstat(&path).unwrap().st_rdev)
            .map(|number| (rustix::fs::major(number), rustix::fs::minor(number)));
        let content = match kind {
            'f' => fs::read(&path).unwrap(),
            'l' => fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec(),
            _ => Vec::new(),
        };
        seen.insert(
            name,
            Seen {
                kind,
                mode: metadata.mode() & 0o7777,
                uid: metadata.uid(),
                gid: metadata.gid(),
                links: metadata.nlink(),
                size: if matches!(kind, 'f' | 'l') { metadata.len() } else { 0 },
                modified: (kind != 'd')
                    .then(|| (metadata.mtime(), u32::try_from(metadata.mtime_nsec()).unwrap())),
                device,
                xattrs: xattrs(&path),
                content,
            },
        );
    }
    seen
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 65_536];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let name = String::from_utf8(name.to_vec()).unwrap();
            let mut value = vec![0; 65_536];
            let length = rustix::fs::lgetxattr(path, name.as_str(), &mut value[..]).unwrap();
            value.truncate(length);
            (name, value)
        })
        .collect()
}

/// Compares two trees and says what differs, and nothing of what does not.
pub(crate) fn assert_same(found: &Seens, expected: &Seens) {
    let mut differences = Vec::new();
    for name in found.keys().chain(expected.keys()).collect::<std::collections::BTreeSet<_>>() {
        match (found.get(name), expected.get(name)) {
            (Some(found), Some(expected)) => {
                let short = |seen: &Seen| {
                    let mut seen = seen.clone();
                    seen.content.truncate(64);
                    seen
                };
                if found != expected {
                    differences.push(format!(
                        "{}\n  {:?}\n  {:?}",
                        name.escape_ascii(),
                        short(found),
                        short(expected)
                    ));
                }
            }
            (Some(_), None) => differences.push(format!("{} is too much", name.escape_ascii())),
            (None, _) => differences.push(format!("{} is missing", name.escape_ascii())),
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
