//! What there is in an L1 that a backend could leave behind: interfaces, packet filter, files, mounts, cgroups,
//! processes.

use std::{collections::BTreeSet, time::Instant};

use super::{L1, quoted};
use crate::{SHORT, wait_for};

/// Where to look. Interfaces, the packet filter, mounts and processes are always looked at.
#[derive(Debug, Clone, Default)]
pub struct Watched<'a> {
    /// Directories whose every file and socket counts, down to the last one.
    pub dirs: &'a [&'a str],
    /// Cgroups below which every other one counts, as directories below `/sys/fs/cgroup`.
    pub cgroups: &'a [&'a str],
}

/// What was there at a time, one thing a line, each with its kind in front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory(BTreeSet<String>);

/// Prints the lines; what watches the guest from outside is none of them. Each part may fail: a directory that is not
/// there yet has nothing in it.
const COMMON: &str = r#"
set +eo pipefail
ip -o link | sed -E 's/^[0-9]+: ([^:@]+).*/interface \1/'
ip -o addr | sed -E 's/^[0-9]+: +([^ ]+) +(inet6?) ([^ ]+).*/address \1 \3/' | grep -v ' fe80:'
ip route | sed 's/^/route /'
ip rule | sed 's/^/rule /'
ip netns list 2>/dev/null | sed 's/^/namespace /'
nft --stateless list ruleset | sed 's/^/nft /'
awk '{ print "mount " $2 " " $3 }' /proc/mounts
for process in /proc/[0-9]*; do
    program=$(readlink "$process/exe") || continue
    case $program in /l1/*) echo "process $(tr '\0' ' ' <"$process/cmdline")" ;; esac
done
"#;

impl Inventory {
    /// Returns what is here and was not in `before`.
    #[must_use]
    pub fn beyond(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }

    /// Returns what is of this kind: `interface`, `address`, `route`, `rule`, `namespace`, `nft`, `mount`, `process`,
    /// `file`, `cgroup`.
    pub fn of(&self, kind: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(move |line| line.strip_prefix(kind)?.strip_prefix(' '))
    }
}

impl L1 {
    /// Looks at what is there.
    ///
    /// # Panics
    /// When the L1 does not answer.
    #[track_caller]
    #[must_use]
    pub fn inventory(&self, watched: &Watched<'_>) -> Inventory {
        let mut script = COMMON.to_owned();
        for dir in watched.dirs {
            let dir = quoted(dir);
            script.push_str(&format!("find {dir} -mindepth 1 -printf 'file %y %p\\n' 2>/dev/null\n"));
        }
        for cgroup in watched.cgroups {
            let dir = quoted(&format!("/sys/fs/cgroup/{cgroup}"));
            script.push_str(&format!("find {dir} -type d -printf 'cgroup %p\\n' 2>/dev/null\n"));
        }
        script.push_str("true\n");
        Inventory(self.sh(&script).lines().map(str::to_owned).collect())
    }

    /// Checks that there is nothing more than before. What is still being removed has a few seconds to go.
    ///
    /// # Panics
    /// With all that there is more.
    #[track_caller]
    pub fn assert_nothing_beyond(&self, before: &Inventory, watched: &Watched<'_>) {
        let begun = Instant::now();
        let more = wait_for("the leftovers in the L1 to go", SHORT * 4, || {
            let more = self.inventory(watched).beyond(before);
            (more.is_empty() || begun.elapsed() > SHORT).then_some(more)
        });
        assert!(more.is_empty(), "left over in the L1:\n  {}", more.join("\n  "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inventory_tells_what_is_new_and_of_which_kind() {
        let lines = |text: &str| Inventory(text.lines().map(str::to_owned).collect());
        let before = lines("interface lo\nnft table ip a");
        let after = lines("interface lo\ninterface shed0\ninterfaces x\nnft table ip a");
        assert_eq!(after.beyond(&before), ["interface shed0", "interfaces x"]);
        assert_eq!(after.of("interface").collect::<Vec<_>>(), ["lo", "shed0"]);
        assert!(before.beyond(&after).is_empty());
    }
}
