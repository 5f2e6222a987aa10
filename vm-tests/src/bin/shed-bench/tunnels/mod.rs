//! Tunnels into a shed: how fast one is, what many cost that come and go, and what a thousand cost that say nothing.

mod churn;
mod idle;
mod throughput;

use vm_tests::{Cli, Stage};

use crate::report::Report;

const SHED: &str = "bench-tunnel";

/// Where the guest's services listen: one that sends or takes bulk, one that says a byte and closes, one that holds.
const BULK: u16 = 9001;
const SHORT_LIVED: u16 = 9002;
const HOLDING: u16 = 9003;

/// Measures all three.
pub(crate) fn measure(stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    report.progress("tunnels: a shed");
    let server = stage.serve();
    let cli = stage.cli();
    cli.create(SHED, &[]);
    start_services(&cli);
    drop(server);
    throughput::measure(stage, report)?;
    churn::measure(stage, report)?;
    idle::measure(stage, report)?;
    Ok(())
}

fn start_services(cli: &Cli) {
    cli.start_service(
        SHED,
        "short-lived",
        &format!("my $s = listen_on('127.0.0.1', {SHORT_LIVED}); ready(); while (1) {{ my $c = take($s); say($c, 'x'); close $c; }}"),
    );
    cli.start_service(SHED, "holding", &format!("hold_all(listen_on('127.0.0.1', {HOLDING}));"));
}

fn megabytes(bytes: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a size for people")]
    let megabytes = bytes as f64 / 1e6;
    megabytes
}
