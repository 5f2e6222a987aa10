//! Resident memory of an idle server with 0, 1 and 8 sheds, and of the agent in a guest.

use anyhow::Context as _;
use vm_tests::{Stage, resident_bytes};

use crate::report::Report;

/// Most for a server without sheds, in MB.
const SERVER_MB: f64 = 25.0;

/// Most for each shed on top, in MB.
const SHED_MB: f64 = 0.5;

/// Most for the agent, in MB.
const AGENT_MB: f64 = 8.0;

/// Measures.
pub(crate) fn measure(stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    let server = stage.serve();
    let cli = stage.cli();
    let mut previous = 0;
    for count in [0_u32, 1, 8] {
        for number in previous..count {
            report.progress(&format!("memory: shed {}/8", number + 1));
            cli.create(&format!("bench-{number}"), &["--memory", "256", "--cpus", "1"]);
        }
        previous = count;
        let resident = megabytes(server.resident_bytes());
        let target = SERVER_MB + SHED_MB * f64::from(count);
        report.at_most(&format!("shed-server idle with {count} sheds, resident"), resident, target, "MB");
    }
    let script = "cat /proc/$(pgrep -o -x shed-agent)/status";
    let status = cli.exec("bench-0", &["sh", "-c", script]).ok().out();
    let agent = resident_bytes(&status).context("the guest's kernel says VmRSS")?;
    report.at_most("shed-agent in the guest, resident", megabytes(agent), AGENT_MB, "MB");
    let names: Vec<String> = (0..8).map(|number| format!("bench-{number}")).collect();
    let mut words = vec!["delete", "--force"];
    words.extend(names.iter().map(String::as_str));
    cli.run(&words).ok();
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a size for people")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
