//! A cold create to the first output of a command, in turns with raw QEMU.

use std::time::{Duration, Instant};

use vm_tests::{Stage, machine_of};

use crate::{raw::RawQemu, report::Report, stats::Times};

/// Most that a create and a first command may cost, as a multiple of raw QEMU to the same readiness.
const TARGET: f64 = 1.15;

const SHED: &str = "bench-boot";

/// Measures `runs` boots of each kind.
pub(crate) fn measure(stage: &Stage, runs: u32, report: &mut Report) -> anyhow::Result<()> {
    let _server = stage.serve();
    let cli = stage.cli();
    report.progress("boot: once to warm the caches");
    let _warm = create_to_output(stage);
    let mut raw = RawQemu::like(stage, SHED, &machine_of(stage, SHED))?;
    raw.keep_image()?;
    cli.delete(SHED);
    let _warm = raw.boot()?;
    let (mut raws, mut sheds) = (Times::default(), Times::default());
    for run in 1..=runs {
        // Each goes first every other time, so that a host that gets slower favours neither.
        let (by_hand, by_shed) = if run % 2 == 0 {
            let by_hand = raw.boot()?;
            (by_hand, create_to_output(stage))
        } else {
            let by_shed = create_to_output(stage);
            cli.delete(SHED);
            (raw.boot()?, by_shed)
        };
        if run % 2 == 0 {
            cli.delete(SHED);
        }
        raws.push(by_hand);
        sheds.push(by_shed);
        report.progress(&format!(
            "boot {run}/{runs}: raw {} ms, shed {} ms",
            by_hand.as_millis(),
            by_shed.as_millis()
        ));
    }
    report.times("raw QEMU to the agent's readiness", &raws);
    report.times("shed create to the first exec's output", &sheds);
    report.at_most("  ratio of the medians", sheds.p50() / raws.p50(), TARGET, "x");
    Ok(())
}

/// From the start of `shed create` to the output of the first `shed exec`, both programs included.
fn create_to_output(stage: &Stage) -> Duration {
    let cli = stage.cli();
    let begun = Instant::now();
    cli.create(SHED, &[]);
    let done = cli.exec(SHED, &["echo", "up"]).ok();
    let took = begun.elapsed();
    assert_eq!(done.out(), "up");
    took
}
