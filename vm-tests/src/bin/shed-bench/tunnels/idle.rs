//! A thousand tunnels that say nothing, beside ten thousand sheds that are stored: what they take, and how fast the
//! server still lists all of them.

use std::{fs, io::Read, time::Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use vm_tests::{Http, SHORT, Stage, Tunnel, wait_for};

use super::{HOLDING, SHED, churn::settle, megabytes};
use crate::{report::Report, stats::Times};

/// Sheds that are stored and stopped.
const STORED: usize = 10_000;

/// Tunnels that are open.
const TUNNELS: usize = 1000;

/// Lists that are asked for.
const LISTS: usize = 300;

/// Most that the slowest list but one in a hundred may take, in milliseconds.
const LIST_MS: f64 = 50.0;

/// Most that the server may take for all tunnels, in MB.
const GROWTH_MB: f64 = 20.0;

/// Measures. The shed of the other measurements is stopped and becomes the model of those that are stored.
pub(super) fn measure(stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    report.progress(&format!("tunnels: storing {STORED} sheds"));
    store(stage)?;
    let begun = Instant::now();
    let server = stage.serve();
    report.figure(
        &format!("start of a server with {STORED} stored sheds"),
        begun.elapsed().as_secs_f64(),
        "s",
    );
    let http = server.http();
    stage.cli().wait_for_exec(SHED, vm_tests::BOOT);
    let listed = http.names().len();
    ensure!(listed == STORED + 1, "{listed} sheds are listed");

    report.progress("tunnels: the list of sheds without tunnels");
    let _warm = lists(http, LISTS / 3);
    let without = lists(http, LISTS);
    let descriptors = settle(&server);
    let resident = server.resident_bytes();

    report.progress(&format!("tunnels: opening {TUNNELS} to one shed"));
    let begun = Instant::now();
    let mut tunnels = Vec::with_capacity(TUNNELS);
    for number in 0..TUNNELS {
        tunnels.push(open(http).with_context(|| format!("tunnel {number}"))?);
    }
    report.figure(&format!("{TUNNELS} tunnels to one shed opened in"), begun.elapsed().as_secs_f64(), "s");
    let with = settle(&server);
    let grown = megabytes(server.resident_bytes()) - megabytes(resident);
    report.progress("tunnels: the list of sheds beside them");
    let beside = lists(http, LISTS);
    drop(tunnels);
    wait_for("the tunnels' descriptors to be closed", SHORT, || {
        (server.descriptors() <= descriptors).then_some(())
    });
    report.times(&format!("GET /api/sheds of {STORED} sheds"), &without);
    report.times(&format!("the same beside {TUNNELS} idle tunnels"), &beside);
    report.at_most("  99th percentile", beside.percentile_ms(99), LIST_MS, "ms");
    report.at_most(&format!("  growth of the server by {TUNNELS} idle tunnels"), grown, GROWTH_MB, "MB");
    let each =
        f64::from(u32::try_from(with.saturating_sub(descriptors))?) / f64::from(u32::try_from(TUNNELS)?);
    report.at_most("  descriptors for each", each, 1.0, "");
    let left = server.descriptors().saturating_sub(descriptors);
    report.at_most("  descriptors left when they are closed", f64::from(u32::try_from(left)?), 0.0, "");
    Ok(())
}

/// Opens a tunnel, and waits for the byte that says that the service has it.
fn open(http: Http) -> anyhow::Result<Tunnel> {
    let mut tunnel = http.tunnel(SHED, HOLDING).map_err(|reply| anyhow::anyhow!(reply.text()))?;
    tunnel.read_exact(&mut [0; 1])?;
    Ok(tunnel)
}

fn lists(http: Http, count: usize) -> Times {
    let mut times = Times::default();
    for _ in 0..count {
        let begun = Instant::now();
        let reply = http.get("/api/sheds").is(200);
        times.push(begun.elapsed());
        drop(reply);
    }
    times
}

/// Writes the records of stopped sheds, as copies of a real one's, while no server runs.
fn store(stage: &Stage) -> anyhow::Result<()> {
    const MODEL: &str = "bench-model";
    let server = stage.serve();
    let cli = stage.cli();
    cli.create(MODEL, &["--memory", "256", "--cpus", "1"]);
    cli.run(&["stop", MODEL]).ok();
    drop(server);
    let model = stage.instance_dir().join(MODEL);
    let record = fs::read(model.join("metadata.json")).context("the record of a stopped shed")?;
    let mut record: Value = serde_json::from_slice(&record)?;
    // Their disks are never looked into; one small file stands for all of them.
    let stand_in = stage.dir().join("stand-in.ext4");
    fs::write(&stand_in, b"the disk of a shed that is never started")?;
    for number in 1..STORED {
        let name = format!("stored-{number:05}");
        let directory = stage.instance_dir().join(&name);
        fs::create_dir(&directory)?;
        record["name"] = name.into();
        fs::write(directory.join("metadata.json"), serde_json::to_vec_pretty(&record)?)?;
        for disk in ["rootfs.ext4", "image.ext4"] {
            fs::hard_link(&stand_in, directory.join(disk))?;
        }
    }
    Ok(())
}
