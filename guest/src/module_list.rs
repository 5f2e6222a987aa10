//! Reads guest/modules.txt: which kernel modules are loaded at boot, and which are only there.

use anyhow::{Context as _, Result, bail};

use crate::arch::Arch;

/// The two lists for one architecture, in the order of the file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ModuleList {
    /// Loaded by shed-init.
    pub(crate) boot: Vec<String>,
    /// Found by modprobe in the guest.
    pub(crate) available: Vec<String>,
}

impl ModuleList {
    /// Parses the file: `[boot]` and `[available]`, one module a line, optionally followed by the one architecture that
    /// has it; `#` begins a comment.
    pub(crate) fn parse(text: &str, arch: Arch) -> Result<Self> {
        let mut list = Self::default();
        let mut section = None;
        for (index, line) in text.lines().enumerate() {
            let line_number = index + 1;
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let Some(first) = words.next() else { continue };
            match first {
                "[boot]" => section = Some(Section::Boot),
                "[available]" => section = Some(Section::Available),
                name => {
                    let section = section.with_context(|| {
                        format!("modules.txt line {line_number}: {name} is in no section")
                    })?;
                    let for_us = match words.next() {
                        None => true,
                        Some("amd64") => arch == Arch::Amd64,
                        Some("arm64") => arch == Arch::Arm64,
                        Some(other) => {
                            bail!("modules.txt line {line_number}: unknown architecture {other:?}")
                        }
                    };
                    if for_us {
                        match section {
                            Section::Boot => list.boot.push(name.to_owned()),
                            Section::Available => list.available.push(name.to_owned()),
                        }
                    }
                }
            }
            if let Some(word) = words.next() {
                bail!("modules.txt line {line_number}: unexpected {word:?}");
            }
        }
        Ok(list)
    }
}

#[derive(Debug, Clone, Copy)]
enum Section {
    Boot,
    Available,
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# comment\n[boot]\next4\ncrc32c-intel amd64 # fast\n\n[available]\ntun\n";

    #[test]
    fn sections_comments_and_architectures_are_understood() {
        let amd64 = ModuleList::parse(TEXT, Arch::Amd64).unwrap();
        assert_eq!(amd64.boot, ["ext4", "crc32c-intel"]);
        assert_eq!(amd64.available, ["tun"]);
        assert_eq!(ModuleList::parse(TEXT, Arch::Arm64).unwrap().boot, ["ext4"]);
    }

    #[test]
    fn mistakes_are_refused_with_their_line() {
        for (text, line) in
            [("ext4\n", 1), ("[boot]\next4 mips\n", 2), ("[boot]\n\next4 amd64 x\n", 3), ("[boot] x", 1)]
        {
            let error = ModuleList::parse(text, Arch::Amd64).unwrap_err();
            assert!(error.to_string().contains(&format!("line {line}")), "{text:?}: {error}");
        }
    }

    #[test]
    fn our_own_list_parses() {
        let list = ModuleList::parse(include_str!("../modules.txt"), Arch::Amd64).unwrap();
        assert!(list.boot.contains(&"ext4".to_owned()) && list.available.contains(&"tun".to_owned()));
    }
}
