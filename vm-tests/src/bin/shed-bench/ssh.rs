//! SSH: `scp` of a large file against `shed exec -- cat` of the same, and one command through `shed exec` against
//! OpenSSH's `ssh`; in turns, on one shed.

use std::{
    fs::File,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use camino::Utf8Path;
use vm_tests::{Cli, OpenSsh, Stage};

use crate::{report::Report, stats::Times};

/// Length of the file, in MB.
const MB: u32 = 200;

/// Copies of each kind in each direction.
const COPIES: u32 = 3;

/// Commands of each kind.
const COMMANDS: u32 = 20;

/// Least that `scp` may reach of the throughput of `shed exec -- cat`.
const THROUGHPUT: f64 = 0.7;

/// Most that `shed exec` may take of the wall time of OpenSSH's `ssh`, both from start to end of the program.
const WALL_TIME: f64 = 0.5;

const SHED: &str = "bench-ssh";

/// The file in the shed.
const THERE: &str = "/workspace/large";

/// Measures.
pub(crate) fn measure(stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    report.progress("ssh: a shed");
    let server = stage.serve();
    let cli = stage.cli();
    cli.create(SHED, &[]);
    let ssh = OpenSsh::new(stage, &server, &[SHED]);
    commands(&cli, &ssh, report);
    copies(stage, &cli, &ssh, report)?;
    cli.delete(SHED);
    Ok(())
}

fn commands(cli: &Cli, ssh: &OpenSsh, report: &mut Report) {
    report.progress(&format!("ssh: {COMMANDS} commands each"));
    let host = format!("shed-{SHED}");
    let (mut ours, mut openssh) = (Times::default(), Times::default());
    // The first two of each fill caches.
    for number in 0..COMMANDS + 2 {
        let begun = Instant::now();
        cli.exec(SHED, &["true"]).ok();
        let by_shed = begun.elapsed();
        let begun = Instant::now();
        ssh.ssh(&[&host, "true"]).ok();
        if number >= 2 {
            ours.push(by_shed);
            openssh.push(begun.elapsed());
        }
    }
    report.times("ssh shed-NAME true", &openssh);
    report.times("shed exec NAME -- true, beside it", &ours);
    report.at_most("  ratio of the medians", ours.p50() / openssh.p50(), WALL_TIME, "x");
}

fn copies(stage: &Stage, cli: &Cli, ssh: &OpenSsh, report: &mut Report) -> anyhow::Result<()> {
    let (here, back) = (stage.dir().join("large"), stage.dir().join("large-back"));
    let mut random = File::open("/dev/urandom").context("/dev/urandom")?;
    let length = u64::from(MB) * 1_000_000;
    let mut file = File::create(&here)?;
    std::io::copy(&mut std::io::Read::take(&mut random, length), &mut file)?;
    file.sync_all()?;
    let remote = format!("shed-{SHED}:{THERE}");
    let (mut scp_in, mut cat_in) = (Times::default(), Times::default());
    let (mut scp_out, mut cat_out) = (Times::default(), Times::default());
    for round in 1..=COPIES {
        report.progress(&format!("ssh: {MB} MB in and out, {round}/{COPIES}"));
        let scp = |times: &mut Times, from: &str, to: &str| {
            times.push(timed(ssh.command("scp", &["-q", from, to]), None, None)?);
            anyhow::Ok(())
        };
        // Who goes first takes turns as well.
        for turn in 0..2 {
            cli.exec(SHED, &["sh", "-c", &format!("rm -f {THERE}; sync")]).ok();
            if (round + turn) % 2 == 0 {
                scp(&mut scp_in, here.as_str(), &remote)?;
            } else {
                let cat = cli.exec_command(SHED, &["sh", "-c", &format!("cat >{THERE}")]);
                cat_in.push(timed(cat, Some(&here), None)?);
            }
            cli.exec(SHED, &["test", "-s", THERE]).ok();
        }
        for turn in 0..2 {
            let _none = std::fs::remove_file(&back);
            if (round + turn) % 2 == 0 {
                scp(&mut scp_out, &remote, back.as_str())?;
            } else {
                cat_out.push(timed(cli.exec_command(SHED, &["cat", THERE]), None, Some(&back))?);
            }
            let arrived = std::fs::metadata(&back)?.len();
            ensure!(arrived == length, "{arrived} bytes arrived of {length}");
        }
    }
    for (way, scp, cat) in [("to", &scp_in, &cat_in), ("from", &scp_out, &cat_out)] {
        report.figure(&format!("shed exec -- cat of {MB} MB {way} a shed"), rate(cat), "MB/s");
        report.figure(&format!("scp of the same {way} it"), rate(scp), "MB/s");
        report.at_least("  ratio of the medians", rate(scp) / rate(cat), THROUGHPUT, "x");
    }
    Ok(())
}

/// MB a second, at the median.
fn rate(times: &Times) -> f64 {
    f64::from(MB) * 1000.0 / times.p50()
}

/// Runs a command with files as its streams, which costs the same whichever program it is.
fn timed(
    mut command: Command,
    input: Option<&Utf8Path>,
    output: Option<&Utf8Path>,
) -> anyhow::Result<Duration> {
    command.stdin(input.map_or_else(|| Ok(Stdio::null()), |path| File::open(path).map(Stdio::from))?);
    command.stdout(output.map_or_else(|| Ok(Stdio::null()), |path| File::create(path).map(Stdio::from))?);
    let begun = Instant::now();
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    let took = begun.elapsed();
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(took)
}
