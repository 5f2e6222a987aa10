//! Ten thousand signatures: what the four programs on their way hold before and after, and whether each was answered and
//! written down.

use std::fs;

use anyhow::{Context as _, ensure};
use vm_tests::{SHORT, resident_bytes};

use super::{SHED, Signer};
use crate::report::Report;

/// Signatures that count.
const COUNT: usize = 10_000;

/// Those before them, after which buffers and pools are as large as they become.
const WARM_UP: usize = 1_000;

/// Signatures over one connection of the guest. What a connection left behind would show ten times.
const A_CONNECTION: usize = 1_000;

/// Most that the resident memory of one program may grow, in MB: a hundred bytes a signature.
const GROWTH_MB: f64 = 1.0;

/// Most descriptors more that one program may have: less than one for each connection of the guest.
const MORE_DESCRIPTORS: f64 = 5.0;

/// The units of the programs in the guest, which are looked at as root.
const IN_GUEST: [&str; 2] = ["shed-agent", "shed-ssh-agent"];

/// Prints how many descriptors the process of a unit has, and its status.
const LOOK: &str =
    r#"pid=$(systemctl show -P MainPID "$1") && ls "/proc/$pid/fd" | wc -l && cat "/proc/$pid/status""#;

/// What one program holds.
#[derive(Debug)]
struct Holds {
    program: &'static str,
    resident: u64,
    /// Nothing when this user may not look: a program that keeps debuggers out keeps its descriptors to root.
    descriptors: Option<usize>,
}

/// Measures.
pub(super) fn measure(signer: &Signer, report: &mut Report) -> anyhow::Result<()> {
    for _ in 0..WARM_UP / A_CONNECTION {
        let _times = signer.sign(A_CONNECTION)?;
    }
    let (before, audited, unanswered) = (look(signer)?, audited(signer), unanswered(signer)?);
    for done in (0..COUNT).step_by(A_CONNECTION) {
        report.progress(&format!("extensions: {done}/{COUNT} signatures"));
        let _times = signer.sign(A_CONNECTION)?;
    }
    let after = look(signer)?;
    report.exactly(
        &format!("lines of the audit log for {COUNT} signatures"),
        audited_after(signer, audited),
        COUNT,
    );
    report.exactly("requests still pending before them", unanswered, 0);
    report.exactly("requests still pending after them", self::unanswered(signer)?, 0);
    for (before, after) in before.iter().zip(&after) {
        let program = before.program;
        let (first, last) = (megabytes(before.resident), megabytes(after.resident));
        report.figure(&format!("{program}, resident before {COUNT} signatures"), first, "MB");
        report.at_most("  more after them", last - first, GROWTH_MB, "MB");
        match (before.descriptors, after.descriptors) {
            (Some(first), Some(last)) => {
                report.figure(&format!("{program}, descriptors before them"), number(first), "");
                report.at_most("  more after them", number(last) - number(first), MORE_DESCRIPTORS, "");
            }
            _ => report.progress(&format!("only root can count the descriptors of {program}")),
        }
    }
    Ok(())
}

fn look(signer: &Signer) -> anyhow::Result<Vec<Holds>> {
    // The guest first: the command that looks there is a stream of the server.
    let mut all =
        IN_GUEST.map(|program| in_guest(signer, program)).into_iter().collect::<Result<Vec<_>, _>>()?;
    all.push(on_host("shed-server", signer.server.pid())?);
    all.push(on_host("shed-host-agent", signer.host.pid())?);
    Ok(all)
}

fn in_guest(signer: &Signer, program: &'static str) -> anyhow::Result<Holds> {
    let words = ["exec", "-u", "root", SHED, "--", "sh", "-c", LOOK, "look", program];
    let said = signer.cli.run(&words).ok().out();
    let (count, status) = said.split_once('\n').context("the guest says two things")?;
    Ok(Holds { program, resident: resident(status)?, descriptors: Some(count.trim().parse()?) })
}

fn on_host(program: &'static str, pid: u32) -> anyhow::Result<Holds> {
    let status =
        fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("{program} runs"))?;
    ensure!(status.starts_with("Name:\tshed-"), "process {pid} is not {program}: {status}");
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok().map(Iterator::count);
    Ok(Holds { program, resident: resident(&status)?, descriptors })
}

fn resident(status: &str) -> anyhow::Result<u64> {
    resident_bytes(status).context("the kernel says VmRSS")
}

/// Lines of the audit log on signatures that were given.
fn audited(signer: &Signer) -> usize {
    signer.host.audit().iter().filter(|line| line["op"] == "sign" && line["result"] == "ok").count()
}

/// How many lines there are more than before.
fn audited_after(signer: &Signer, before: usize) -> usize {
    audited(signer).saturating_sub(before)
}

/// Requests that the server has given to their listener and has had no answer to, by its own count. One whose answer is
/// being counted at this moment is given the time for it.
fn unanswered(signer: &Signer) -> anyhow::Result<usize> {
    let begun = std::time::Instant::now();
    loop {
        let text = signer.server.http().get("/metrics").is(200).text();
        let left = outcome(&text, "delivered")?.saturating_sub(outcome(&text, "answered")?);
        if left == 0 || begun.elapsed() > SHORT {
            return Ok(left);
        }
    }
}

fn outcome(metrics: &str, outcome: &str) -> anyhow::Result<usize> {
    let name = format!("shed_plugin_messages_total{{outcome=\"{outcome}\"}} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
    value.with_context(|| format!("no {name}in the metrics"))?.trim().parse().context("a count")
}

#[expect(clippy::cast_precision_loss, reason = "a size for people")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[expect(clippy::cast_precision_loss, reason = "a count for people")]
fn number(count: usize) -> f64 {
    count as f64
}
