//! Decides which kernel modules to load, and in which order, from what depmod wrote.
//!
//! Called by the guest builder, which packs the answer into the initramfs: shed-init only walks the list. The two index
//! files may come from a user's own image, so their paths are checked before anything is opened by them.

use std::collections::{BTreeMap, BTreeSet};

use camino::{Utf8Component, Utf8Path, Utf8PathBuf};

/// The most modules one kernel may have; Debian's has about 4,300.
const MAX_MODULES: usize = 50_000;

/// Says why an index file of depmod cannot be used. Lines count from 1.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParseModulesError {
    #[error("modules.dep line {line}: no colon after the module's path")]
    NoColon { line: usize },
    #[error("{file} line {line}: {path:?} is not a module path below the module directory")]
    BadPath { file: &'static str, line: usize, path: String },
    #[error("modules.dep line {line}: module {name} was already listed")]
    Duplicate { line: usize, name: String },
    #[error("modules.dep: {name} needs {path}, which is not listed")]
    UnknownDependency { name: String, path: Utf8PathBuf },
    #[error("modules.dep lists more than {MAX_MODULES} modules")]
    TooMany,
}

/// Says why a list of wanted modules has no load order.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ResolveModulesError {
    #[error("this kernel has no module {name}, neither loadable nor built in")]
    Unknown { name: String },
    #[error("module {name} needs itself through its dependencies")]
    Cycle { name: String },
}

/// The modules of one kernel: paths relative to its module directory, and what each needs.
#[derive(Debug, Clone, Default)]
pub struct ModuleTree {
    modules: BTreeMap<String, Module>,
    builtin: BTreeSet<String>,
}

#[derive(Debug, Clone)]
struct Module {
    path: Utf8PathBuf,
    /// Keys of `ModuleTree::modules`; `parse` has checked that they exist.
    needs: Vec<String>,
}

impl ModuleTree {
    /// Reads the texts of `modules.dep` and `modules.builtin`.
    ///
    /// # Errors
    /// When a line is malformed, a path is absolute or leaves the module directory, or a dependency is not listed.
    pub fn parse(modules_dep: &str, modules_builtin: &str) -> Result<Self, ParseModulesError> {
        let mut tree = Self::default();
        let mut pending: Vec<(String, Vec<Utf8PathBuf>)> = Vec::new();
        for (index, text) in modules_dep.lines().enumerate() {
            let line = index + 1;
            if text.trim().is_empty() {
                continue;
            }
            let (path, needs) = text.split_once(':').ok_or(ParseModulesError::NoColon { line })?;
            let (name, path) = module_path("modules.dep", line, path.trim())?;
            let needs = needs
                .split_ascii_whitespace()
                .map(|path| module_path("modules.dep", line, path).map(|(_, path)| path))
                .collect::<Result<Vec<_>, _>>()?;
            if tree.modules.len() == MAX_MODULES {
                return Err(ParseModulesError::TooMany);
            }
            if tree.modules.insert(name.clone(), Module { path, needs: Vec::new() }).is_some() {
                return Err(ParseModulesError::Duplicate { line, name });
            }
            pending.push((name, needs));
        }
        for (name, paths) in pending {
            let mut needs = Vec::with_capacity(paths.len());
            for path in paths {
                let needed = normal_name(path.file_name().unwrap_or_default());
                if tree.modules.get(&needed).is_none_or(|module| module.path != path) {
                    return Err(ParseModulesError::UnknownDependency { name, path });
                }
                needs.push(needed);
            }
            if let Some(module) = tree.modules.get_mut(&name) {
                module.needs = needs;
            }
        }
        for (index, path) in modules_builtin.lines().enumerate() {
            if !path.trim().is_empty() {
                tree.builtin.insert(module_path("modules.builtin", index + 1, path.trim())?.0);
            }
        }
        Ok(tree)
    }

    /// Returns the files to load for `wanted`, dependencies first and each once, relative to the module directory.
    ///
    /// `-` and `_` in names are the same. A module that is built into the kernel adds nothing.
    ///
    /// # Errors
    /// When a name is neither a module nor built in, or when modules need each other in a circle.
    pub fn resolve<'a>(
        &self,
        wanted: impl IntoIterator<Item = &'a str>,
    ) -> Result<Vec<Utf8PathBuf>, ResolveModulesError> {
        let mut order = Vec::new();
        let mut done = BTreeSet::new();
        for name in wanted {
            let key = normal_name(name);
            if let Some((key, _)) = self.modules.get_key_value(&key) {
                self.visit(key, &mut done, &mut order)?;
            } else if !self.builtin.contains(&key) {
                return Err(ResolveModulesError::Unknown { name: name.to_owned() });
            }
        }
        Ok(order)
    }

    /// Appends `root` after everything it needs, without recursion: the depth of the graph is the input's choice.
    fn visit<'a>(
        &'a self,
        root: &'a str,
        done: &mut BTreeSet<&'a str>,
        order: &mut Vec<Utf8PathBuf>,
    ) -> Result<(), ResolveModulesError> {
        let mut open: BTreeSet<&str> = BTreeSet::new();
        let mut stack = vec![(root, 0_usize)];
        while let Some((name, next)) = stack.pop() {
            if next == 0 {
                if done.contains(name) {
                    continue;
                }
                if !open.insert(name) {
                    return Err(ResolveModulesError::Cycle { name: name.to_owned() });
                }
            }
            let module = &self.modules[name];
            // depmod lists the nearest dependency first and the deepest last, and loads from the end.
            let need = module.needs.iter().rev().nth(next);
            if let Some(need) = need {
                stack.push((name, next + 1));
                if open.contains(need.as_str()) {
                    return Err(ResolveModulesError::Cycle { name: need.clone() });
                }
                stack.push((need, 0));
            } else {
                open.remove(name);
                done.insert(name);
                order.push(module.path.clone());
            }
        }
        Ok(())
    }

    /// Tells whether `name` is compiled into the kernel.
    #[must_use]
    pub fn is_builtin(&self, name: &str) -> bool {
        self.builtin.contains(&normal_name(name))
    }
}

/// Returns the name modprobe would use for a file or a name: no directory, no `.ko` and what follows, `_` for `-`.
fn normal_name(text: &str) -> String {
    let name = text.rsplit('/').next().unwrap_or(text);
    let name = name.split(".ko").next().unwrap_or(name);
    name.replace('-', "_")
}

/// Checks a path of an index file: relative, inside the module directory, and a module's.
fn module_path(
    file: &'static str,
    line: usize,
    text: &str,
) -> Result<(String, Utf8PathBuf), ParseModulesError> {
    let path = Utf8Path::new(text);
    let is_module = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"].iter().any(|end| text.ends_with(end));
    let stays_inside = path.components().all(|part| match part {
        Utf8Component::Normal(_) => true,
        Utf8Component::Prefix(_)
        | Utf8Component::RootDir
        | Utf8Component::CurDir
        | Utf8Component::ParentDir => false,
    });
    let name = normal_name(text);
    if !is_module || !stays_inside || name.is_empty() || text.contains('\0') {
        return Err(ParseModulesError::BadPath { file, line, path: text.chars().take(200).collect() });
    }
    Ok((name, path.to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DEP: &str = "\
kernel/fs/ext4/ext4.ko.xz: kernel/lib/crc16.ko.xz kernel/fs/mbcache.ko.xz kernel/fs/jbd2/jbd2.ko.xz
kernel/fs/jbd2/jbd2.ko.xz:
kernel/fs/mbcache.ko.xz:
kernel/lib/crc16.ko.xz:
kernel/net/core/failover.ko.xz:
kernel/drivers/net/net_failover.ko.xz: kernel/net/core/failover.ko.xz
kernel/drivers/net/virtio_net.ko.xz: kernel/drivers/net/net_failover.ko.xz kernel/net/core/failover.ko.xz
kernel/arch/x86/crypto/crc32c-intel.ko.xz:
";
    const BUILTIN: &str = "kernel/drivers/virtio/virtio_pci.ko\nkernel/fs/fuse/virtiofs.ko\n";

    fn resolve(wanted: &[&str]) -> Result<Vec<String>, ResolveModulesError> {
        let tree = ModuleTree::parse(DEP, BUILTIN).unwrap();
        let paths = tree.resolve(wanted.iter().copied())?;
        Ok(paths.iter().map(|path| path.file_name().unwrap().to_owned()).collect())
    }

    #[test]
    fn dependencies_come_first_and_only_once() {
        assert_eq!(
            resolve(&["virtio_net", "net_failover", "ext4"]).unwrap(),
            [
                "failover.ko.xz",
                "net_failover.ko.xz",
                "virtio_net.ko.xz",
                "jbd2.ko.xz",
                "mbcache.ko.xz",
                "crc16.ko.xz",
                "ext4.ko.xz"
            ]
        );
    }

    #[test]
    fn hyphen_and_underscore_are_the_same() {
        assert_eq!(resolve(&["crc32c_intel"]).unwrap(), resolve(&["crc32c-intel"]).unwrap());
        assert_eq!(resolve(&["virtio-pci"]).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn an_unknown_module_is_named() {
        assert_eq!(
            resolve(&["ext4", "nonsense"]),
            Err(ResolveModulesError::Unknown { name: "nonsense".into() })
        );
    }

    #[test]
    fn a_circle_is_an_error_and_not_a_loop() {
        let tree = ModuleTree::parse("a.ko: b.ko\nb.ko: c.ko\nc.ko: a.ko\nd.ko: d.ko\n", "").unwrap();
        assert!(matches!(tree.resolve(["a"]), Err(ResolveModulesError::Cycle { .. })));
        assert!(matches!(tree.resolve(["d"]), Err(ResolveModulesError::Cycle { .. })));
    }

    #[test]
    fn paths_that_leave_the_module_directory_are_refused() {
        for path in
            ["/etc/x.ko", "../x.ko", "a/../../x.ko", "x.so", ".ko", "a/./../b.ko", "x\0.ko", "./../b.ko"]
        {
            let error = ModuleTree::parse(&format!("{path}:\n"), "");
            assert!(matches!(error, Err(ParseModulesError::BadPath { line: 1, .. })), "{path:?}: {error:?}");
        }
    }

    #[test]
    fn a_malformed_index_is_refused_with_its_line() {
        assert_eq!(
            ModuleTree::parse("a.ko:\nb.ko\n", "").unwrap_err(),
            ParseModulesError::NoColon { line: 2 }
        );
        assert_eq!(
            ModuleTree::parse("a.ko:\nx/a.ko:\n", "").unwrap_err(),
            ParseModulesError::Duplicate { line: 2, name: "a".into() }
        );
        assert!(matches!(
            ModuleTree::parse("a.ko: b.ko\n", "").unwrap_err(),
            ParseModulesError::UnknownDependency { .. }
        ));
    }

    #[test]
    fn a_long_chain_needs_no_deep_stack() {
        let dep: String =
            (0..40_000).map(|i| format!("m{i}.ko: m{}.ko\n", i + 1)).chain(["m40000.ko:\n".into()]).collect();
        assert_eq!(ModuleTree::parse(&dep, "").unwrap().resolve(["m0"]).unwrap().len(), 40_001);
    }

    proptest! {
        #[test]
        fn no_text_panics(dep in "[a-c/. :\n]{0,80}(\\.ko)?", builtin in "\\PC{0,40}") {
            if let Ok(tree) = ModuleTree::parse(&dep, &builtin) {
                let _ignored: Result<_, _> = tree.resolve(["a", "b", "c"]);
            }
        }

        #[test]
        fn in_every_graph_without_circles_a_module_follows_what_it_needs(
            edges in proptest::collection::vec((0usize..30, 0usize..30), 0..120)
        ) {
            // An edge from the larger to the smaller number cannot close a circle.
            let needs = |i: usize| -> Vec<usize> {
                edges.iter().filter(|(a, b)| a.max(b) == &i && a != b).map(|(a, b)| *a.min(b)).collect()
            };
            let dep: String = (0..30)
                .map(|i| {
                    let needs: Vec<String> = needs(i).iter().map(|n| format!("m{n}.ko")).collect();
                    format!("m{i}.ko: {}\n", needs.join(" "))
                })
                .collect();
            let tree = ModuleTree::parse(&dep, "").unwrap();
            let order = tree.resolve(["m29", "m7", "m15"]).unwrap();
            let place = |i: usize| order.iter().position(|path| path.as_str() == format!("m{i}.ko"));
            for i in 0..30 {
                if let Some(own) = place(i) {
                    for need in needs(i) {
                        prop_assert!(place(need).is_some_and(|p| p < own));
                    }
                }
            }
            let unique: BTreeSet<_> = order.iter().collect();
            prop_assert_eq!(unique.len(), order.len());
        }
    }
}
