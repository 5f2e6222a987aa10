//! The tables of `shed system df`. Pure; text from servers is cleaned by [`Table`].

use shed_api::{DiskSize, FileUsage, ImageUsage, ShedUsage, SystemUsage};

use crate::{
    commands::fleet::Scope,
    sizes,
    ui::{Look, Table},
};

/// A cell for something that is not known or does not apply.
const NONE: &str = "-";

/// Returns the sums of each server.
pub(super) fn summary(found: &[(&str, &SystemUsage)], scope: Scope) -> Table {
    let mut table = table(&["TYPE", "COUNT", "SIZE", "ON-DISK"], scope).right("COUNT");
    for (server, usage) in found {
        let counts = [usage.images.len(), usage.sheds.len(), usage.orphans.len()];
        let all = counts.iter().sum();
        let totals = &usage.totals;
        for (kind, count, size) in [
            ("Images", counts[0], totals.images),
            ("Sheds", counts[1], totals.sheds),
            ("Orphans", counts[2], totals.orphans),
            ("Total", all, totals.all),
        ] {
            let look = if count == 0 { Look::Dim } else { Look::Plain };
            row(&mut table, scope, server, [kind, &count.to_string()], size, None, look);
        }
    }
    table
}

/// Returns everything that takes space, with where it is.
pub(super) fn items(found: &[(&str, &SystemUsage)], scope: Scope) -> Table {
    let mut table = table(&["TYPE", "NAME", "INFO", "SIZE", "ON-DISK", "PATH"], scope);
    for (server, usage) in found {
        let mut add = |cells: [&str; 3], size, path: &str, look| {
            row(&mut table, scope, server, cells, size, Some(path), look);
        };
        for image in &usage.images {
            add(["image", &image.name, info_of_image(image)], image.size, &image.path, Look::Plain);
        }
        let guest_files = [&usage.kernel, &usage.initrd].into_iter().flatten();
        for file in guest_files.chain(&usage.other_guest_files).chain(&usage.blobs) {
            add([file.kind.as_str(), NONE, NONE], file.size, &file.path, Look::Plain);
        }
        for shed in &usage.sheds {
            add(["shed", &shed.name, &info_of_shed(shed)], shed.total, NONE, Look::Plain);
            for file in files(shed) {
                add(["", "", file.kind.as_str()], file.size, &file.path, Look::Dim);
            }
        }
        for file in &usage.orphans {
            add(["orphan", NONE, file.kind.as_str()], file.size, &file.path, Look::Plain);
        }
    }
    table
}

/// Returns what the servers remark, each remark once for each of them.
pub(super) fn notes<'a>(found: &'a [(&'a str, &'a SystemUsage)]) -> impl Iterator<Item = (&'a str, &'a str)> {
    found.iter().flat_map(|(server, usage)| usage.notes.iter().map(|note| (*server, note.as_str())))
}

fn info_of_image(image: &ImageUsage) -> &str {
    if image.is_base { "cache of the base" } else { image.docker_ref.as_deref().unwrap_or(NONE) }
}

fn info_of_shed(shed: &ShedUsage) -> String {
    match &shed.image {
        Some(image) => format!("{}, of {image}", shed.status.as_str()),
        None => shed.status.as_str().to_owned(),
    }
}

fn files(shed: &ShedUsage) -> impl Iterator<Item = &FileUsage> {
    std::iter::once(&shed.rootfs).chain(&shed.console_log).chain(&shed.other_files)
}

fn table(columns: &[&'static str], scope: Scope) -> Table {
    let server: &[&'static str] = match scope {
        Scope::One => &[],
        Scope::All => &["SERVER"],
    };
    Table::new(&[server, columns].concat()).right("SIZE").right("ON-DISK")
}

fn row<const N: usize>(
    table: &mut Table,
    scope: Scope,
    server: &str,
    cells: [&str; N],
    size: DiskSize,
    path: Option<&str>,
    look: Look,
) {
    let server = match scope {
        Scope::One => None,
        Scope::All => Some(server),
    };
    let sizes = [sizes::human(size.logical_bytes), sizes::human(size.physical_bytes)];
    let texts = server.into_iter().chain(cells).chain(sizes.iter().map(String::as_str)).chain(path);
    table.row(texts.map(|text| (text.to_owned(), look)).collect());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage() -> SystemUsage {
        serde_json::from_str(include_str!("../../../../../crates/shed-api/fixtures/system-df.json")).unwrap()
    }

    #[test]
    fn the_summary_has_a_line_for_each_sort_and_one_for_all() {
        let usage = usage();
        insta::assert_snapshot!(summary(&[("mini", &usage)], Scope::One).plain(), @r"
        TYPE     COUNT     SIZE  ON-DISK
        Images       2  10.0GiB   4.5GiB
        Sheds        1   2.0GiB   2.0GiB
        Orphans      1       0B       0B
        Total        4  12.0GiB   6.5GiB
        ");
        let empty = SystemUsage {
            images: vec![],
            sheds: vec![],
            orphans: vec![],
            totals: shed_api::UsageTotals::default(),
            ..usage.clone()
        };
        insta::assert_snapshot!(summary(&[("big", &usage), ("mini", &empty)], Scope::All).plain(), @r"
        SERVER  TYPE     COUNT     SIZE  ON-DISK
        big     Images       2  10.0GiB   4.5GiB
        big     Sheds        1   2.0GiB   2.0GiB
        big     Orphans      1       0B       0B
        big     Total        4  12.0GiB   6.5GiB
        mini    Images       0       0B       0B
        mini    Sheds        0       0B       0B
        mini    Orphans      0       0B       0B
        mini    Total        0       0B       0B
        ");
    }

    #[test]
    fn blobs_and_kernels_that_are_not_booted_are_items_too() {
        let text = include_str!("../../../../../crates/shed-api/fixtures/system-df-blobs.json");
        let usage: SystemUsage = serde_json::from_str(text).unwrap();
        let items = items(&[("mini", &usage)], Scope::One).plain();
        for line in ["kernel  -        -", "blobs   -        -"] {
            assert!(items.contains(line), "{items}");
        }
    }

    #[test]
    fn the_items_are_all_there_with_their_files() {
        let mut usage = usage();
        let log = FileUsage { path: "/x/\u{1b}]0;vmm.log\n".to_owned(), ..usage.sheds[0].rootfs.clone() };
        usage.sheds[0].other_files.push(FileUsage { kind: shed_api::FileKind::Other, ..log });
        usage.sheds[0].total = DiskSize { logical_bytes: u64::MAX, physical_bytes: u64::MAX };
        insta::assert_snapshot!(items(&[("mini", &usage)], Scope::One).plain(), @r"
        TYPE    NAME     INFO                           SIZE  ON-DISK  PATH
        image   default  ghcr.io/example/default:v1   5.0GiB   4.5GiB  /Users/alice/Library/Application Support/shed/vz/default-rootfs.ext4
        image   _base    cache of the base            5.0GiB       0B  /Users/alice/Library/Application Support/shed/vz/_base-rootfs.ext4
        kernel  -        -                            8.0MiB   8.0MiB  /Users/alice/Library/Application Support/shed/vz/vmlinux
        initrd  -        -                            100KiB   100KiB  /Users/alice/Library/Application Support/shed/vz/initrd.img
        shed    api-dev  running, of default         16.0EiB  16.0EiB  -
                         rootfs                       2.0GiB   2.0GiB  /Users/alice/Library/Application Support/shed/vz/instances/api-dev/rootfs.ext4
                         console_log                  800KiB   800KiB  /Users/alice/Library/Application Support/shed/vz/instances/api-dev/console.log
                         other                        2.0GiB   2.0GiB  /x/�]0;vmm.log
        orphan  -        lock                             0B       0B  /Users/alice/Library/Application Support/shed/vz/stale-rootfs.ext4.lock
        ");
        assert!(items(&[("mini", &usage)], Scope::All).plain().lines().nth(1).unwrap().starts_with("mini "));
    }
}
