//! One command in a running shed: through client and server, and through a bare connection to its agent.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use shed_link::MuxHandle;
use shed_protocol::{ExecRequest, ExitStatus, Frame, FrameCodec, FrameKind};
use shed_types::GuestPort;
use tokio_util::codec::Framed;
use vm_tests::Stage;

use crate::{bare::Bare, report::Report, stats::Times};

/// Commands of each kind.
const COUNT: usize = 60;

/// Commands before those that count.
const WARM_UP: usize = 5;

/// Most that `shed exec` may cost, as a multiple of the same command through a bare connection.
const TARGET: f64 = 3.0;

const SHED: &str = "bench-exec";

/// Measures.
pub(crate) fn measure(stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    report.progress("exec: a shed");
    let mut server = Some(stage.serve());
    let cli = stage.cli();
    cli.create(SHED, &[]);
    let (mut shed, mut bare) = (Times::default(), Times::default());
    // The machine's socket takes one connection, so the server steps aside for the bare one; twice, in turns.
    for round in 1..=2 {
        report.progress(&format!("exec {round}/2: {COUNT} commands each"));
        for number in 0..WARM_UP + COUNT {
            let begun = Instant::now();
            let done = cli.exec(SHED, &["true", "x"]).ok();
            if number >= WARM_UP {
                shed.push(begun.elapsed());
            }
            drop(done);
        }
        server.take().context("the server runs")?.terminate();
        bare_commands(stage, &mut bare)?;
        server = Some(stage.serve());
        cli.wait_for_exec(SHED, vm_tests::BOOT);
    }
    cli.delete(SHED);
    report.times("a command through a bare agent connection", &bare);
    report.times("shed exec NAME -- true", &shed);
    report.at_most("  ratio of the medians", shed.p50() / bare.p50(), TARGET, "x");
    Ok(())
}

fn bare_commands(stage: &Stage, times: &mut Times) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let bare = Bare::connect(stage, SHED).await?;
        for number in 0..WARM_UP + COUNT {
            let took = bare_command(&bare.agent).await?;
            if number >= WARM_UP {
                times.push(took);
            }
        }
        bare.end().await
    })
}

async fn bare_command(agent: &MuxHandle) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let mut frames = Framed::new(agent.open(GuestPort::Exec).await?, FrameCodec);
    let request = ExecRequest { cmd: vec!["true".into(), "x".into()], ..ExecRequest::default() };
    frames.feed(Frame::json(FrameKind::ExecRequest, &request)).await?;
    frames.send(Frame::new(FrameKind::StdinEof, Bytes::new())).await?;
    while let Some(frame) = frames.next().await {
        let frame = frame?;
        if frame.kind == FrameKind::ExitStatus {
            let status: ExitStatus = frame.parse()?;
            anyhow::ensure!(status.code == 0, "true failed: {status:?}");
            return Ok(begun.elapsed());
        }
    }
    bail!("the stream ended before the exit code")
}
