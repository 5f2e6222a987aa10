//! What `shed system prune` shows of a report: tables, sums and what could not be done. Pure.

use shed_api::{DiskSize, PruneAction, PruneReport, PrunedItem};

use crate::{
    commands::fleet::Scope,
    servers::Server,
    sizes,
    ui::{Look, Table},
};

/// How a note begins that tells of work left undone (spec A.7).
const PARTIAL_FAILURE: &str = "partial failure:";

/// A server and what its prune did or would do.
pub(super) type Pruned = (Server, PruneReport);

/// Whether a report tells of the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tense {
    /// Of a dry run: what would be done.
    Would,
    /// What was done.
    Did,
}

/// Returns the things that go or went.
pub(super) fn items(reports: &[Pruned], scope: Scope, tense: Tense) -> Table {
    let mut table = table(&["KIND", "NAME", "ACTION", "FREES", "REASON"], scope).right("FREES");
    for (server, item) in
        reports.iter().flat_map(|(server, report)| report.items.iter().map(move |item| (server, item)))
    {
        let cells = [
            item.kind.as_str(),
            label(item.name.as_deref(), item.path.as_deref()),
            action(item, tense),
            &sizes::human(item.freed.physical_bytes),
            item.reason.as_deref().unwrap_or("-"),
        ];
        row(&mut table, scope, server, &cells, Look::Plain);
    }
    table
}

/// Returns the things that stay.
pub(super) fn skipped(reports: &[Pruned], scope: Scope) -> Table {
    let mut table = table(&["KEPT", "NAME", "REASON"], scope);
    for (server, report) in reports {
        for item in &report.skipped {
            let cells = [item.kind.as_str(), label(item.name.as_deref(), item.path.as_deref()), &item.reason];
            row(&mut table, scope, server, &cells, Look::Dim);
        }
    }
    table
}

/// Returns how many things stay.
pub(super) fn count_skipped(reports: &[Pruned]) -> usize {
    reports.iter().map(|(_, report)| report.skipped.len()).sum()
}

/// Returns what the reports say in sum: `3 items on mini, 7.0GiB`. Counted here and not read off the totals, so that
/// what is asked about is what is shown.
pub(super) fn sum(reports: &[Pruned]) -> Sum {
    let with_items = reports.iter().filter(|(_, report)| !report.items.is_empty());
    Sum {
        items: reports.iter().map(|(_, report)| report.items.len()).sum(),
        freed: reports.iter().flat_map(|(_, report)| &report.items).map(|item| item.freed).sum(),
        servers: with_items.map(|(server, _)| server.name.to_string()).collect(),
    }
}

/// What several reports amount to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) items: usize,
    freed: DiskSize,
    servers: Vec<String>,
}

impl Sum {
    /// Returns how many things on which servers: `3 items on mini`.
    pub(super) fn what(&self) -> String {
        let items = if self.items == 1 { "item" } else { "items" };
        format!("{} {items} on {}", self.items, self.servers.join(", "))
    }

    /// Returns what they take on the disk.
    pub(super) fn size(&self) -> String {
        sizes::human(self.freed.physical_bytes)
    }
}

/// Returns whether something could not be done.
pub(super) fn is_partial(report: &PruneReport) -> bool {
    report.notes.iter().any(|note| is_failure(note))
}

/// Returns whether a note tells of something that could not be done.
pub(super) fn is_failure(note: &str) -> bool {
    note.starts_with(PARTIAL_FAILURE)
}

fn label<'a>(name: Option<&'a str>, path: Option<&'a str>) -> &'a str {
    name.or(path).unwrap_or("-")
}

fn action(item: &PrunedItem, tense: Tense) -> &'static str {
    match (item.action, tense) {
        (PruneAction::Deleted, Tense::Would) => "delete",
        (PruneAction::Truncated, Tense::Would) => "truncate",
        (action @ (PruneAction::Deleted | PruneAction::Truncated), Tense::Did) => action.as_str(),
    }
}

fn table(columns: &[&'static str], scope: Scope) -> Table {
    let server: &[&'static str] = match scope {
        Scope::One => &[],
        Scope::All => &["SERVER"],
    };
    Table::new(&[server, columns].concat())
}

fn row(table: &mut Table, scope: Scope, server: &Server, cells: &[&str], look: Look) {
    let server = match scope {
        Scope::One => None,
        Scope::All => Some(server.name.as_ref()),
    };
    table.row(server.into_iter().chain(cells.iter().copied()).map(|text| (text.to_owned(), look)).collect());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{ServerEntry, ServerName},
        servers::Origin,
    };

    fn reports() -> Vec<Pruned> {
        let report: PruneReport =
            serde_json::from_str(include_str!("../../../../../crates/shed-api/fixtures/system-prune.json"))
                .unwrap();
        let server = Server {
            name: ServerName::local(),
            entry: ServerEntry::this_machine(),
            origin: Origin::Configured,
        };
        vec![(server, report)]
    }

    #[test]
    fn the_tables_say_what_goes_what_stays_and_why() {
        let reports = reports();
        insta::assert_snapshot!(items(&reports, Scope::One, Tense::Would).plain(), @r"
        KIND      NAME                                    ACTION   FREES  REASON
        instance  api-old                                 delete  2.0GiB  deleted (stopped 5d)
        image     old-variant                             delete  5.0GiB  -
        tmp       /var/lib/shed/vz/stale-rootfs.ext4.tmp  delete  4.0KiB  -
        ");
        insta::assert_snapshot!(items(&reports, Scope::All, Tense::Did).plain(), @r"
        SERVER  KIND      NAME                                    ACTION    FREES  REASON
        local   instance  api-old                                 deleted  2.0GiB  deleted (stopped 5d)
        local   image     old-variant                             deleted  5.0GiB  -
        local   tmp       /var/lib/shed/vz/stale-rootfs.ext4.tmp  deleted  4.0KiB  -
        ");
        insta::assert_snapshot!(skipped(&reports, Scope::One).plain(), @r"
        KEPT      NAME                                   REASON
        instance  api-dev                                cannot prune running shed
        instance  api-test                               too recent (3h < 72h)
        tmp       /var/lib/shed/vz/live-rootfs.ext4.tmp  lock held (conversion in progress)
        ");
        assert_eq!(count_skipped(&reports), 3);
        assert_eq!(
            (sum(&reports).what(), sum(&reports).size()),
            ("3 items on local".to_owned(), "7.0GiB".to_owned())
        );
    }

    #[test]
    fn sums_of_hostile_numbers_do_not_overflow_and_text_stays_on_its_line() {
        let mut reports = reports();
        let huge = DiskSize { logical_bytes: u64::MAX, physical_bytes: u64::MAX };
        for item in &mut reports[0].1.items {
            item.freed = huge;
            item.reason = Some("a\u{1b}[2J\nb".to_owned());
        }
        assert_eq!(sum(&reports).size(), "16.0EiB");
        let table = items(&reports, Scope::One, Tense::Did).plain();
        assert_eq!(table.lines().count(), 4, "{table}");
        assert!(!table.contains('\u{1b}'));
    }

    #[test]
    fn a_partial_failure_is_told_from_a_remark() {
        let mut report = reports().remove(0).1;
        assert!(!is_partial(&report));
        report.notes.push("partial failure: could not delete api-old".to_owned());
        assert!(is_partial(&report));
    }
}
