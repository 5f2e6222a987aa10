//! A signature of a key on the host, asked for in a guest, against the bare guest link; and ten thousand of them.
//!
//! The signature goes the whole way: SSH's agent protocol, `shed-ssh-agent`, the agent's publish API, the guest link, the server,
//! its event stream, `shed-host-agent` with a key in a file, and back. The yardstick is the shortest thing that can go over the
//! same link: one frame to the agent's health service and one back, on a stream that is open, with no other service, process
//! or JSON behind it. The guest measures the signatures, the host the frames.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures::{SinkExt, StreamExt};
use serde_json::json;
use shed_protocol::{Frame, FrameCodec, FrameKind};
use shed_types::GuestPort;
use tokio_util::codec::Framed;
use vm_tests::{BOOT, Cli, HostAgent, HostSettings, Server, SshKey, Stage, run, wait_for};

use crate::{bare::Bare, report::Report, stats::Times};

mod soak;

const SHED: &str = "bench-ext";

const NAMESPACE: &str = "ssh-agent";

/// Where the program is that asks for signatures.
const SIGN: &str = "/tmp/sign.py";

/// A shed with the extension and a host with a key.
struct Signer {
    /// Dropped first: it is a client of the server.
    host: HostAgent,
    server: Server,
    cli: Cli,
}

/// Most that a signature may take beyond the round trip, both at the median, in milliseconds.
const BEYOND_MS: f64 = 15.0;

/// Turns, in each of which the server steps aside for the bare link: the machine's socket takes one connection.
const TURNS: u32 = 2;

/// Of each kind in a turn.
const COUNT: usize = 150;

/// Those of a turn that do not count, before the others.
const WARM_UP: usize = 30;

/// Measures; the soak only when it is wanted.
pub(crate) fn measure(stage: &Stage, with_soak: bool, report: &mut Report) -> anyhow::Result<()> {
    report.progress("extensions: a shed and a host agent");
    let server = stage.serve();
    let cli = stage.cli();
    cli.create(SHED, &[]);
    let program = include_bytes!("../../../../extensions/sign.py");
    cli.exec_with(SHED, &["sh", "-c", &format!("cat >{SIGN}")], program).ok();
    let host = HostAgent::new(stage);
    let _key = SshKey::generate(host.home().join(".ssh/id_ed25519"), "ed25519");
    let mut signer = Signer::start(host, server, cli);
    let (mut link, mut signatures) = (Times::default(), Times::default());
    for turn in 1..=TURNS {
        report.progress(&format!("extensions {turn}/{TURNS}: {COUNT} signatures, {COUNT} bare round trips"));
        for time in signer.sign(WARM_UP + COUNT)?.into_iter().skip(WARM_UP) {
            signatures.push(time);
        }
        let Signer { host, server, cli } = signer;
        server.terminate();
        round_trips(stage, &mut link)?;
        signer = Signer::start(host, stage.serve(), cli);
    }
    report.times("one frame each way over the bare guest link", &link);
    report.times("an ssh signature of the host's key, in the guest", &signatures);
    report.at_most("  beyond the round trip, at the median", signatures.p50() - link.p50(), BEYOND_MS, "ms");
    if with_soak {
        soak::measure(&signer, report)?;
    }
    signer.cli.delete(SHED);
    Ok(())
}

impl Signer {
    /// Starts the host agent for this server, and waits until all of it works.
    fn start(mut host: HostAgent, server: Server, cli: Cli) -> Self {
        let settings = HostSettings {
            ssh: Some(json!({ "mode": "local-keys" })),
            namespaces: vec![NAMESPACE],
            ..HostSettings::default()
        };
        host.start(&server, settings);
        let works = json!({ "guest": "running", "host": "connected" });
        wait_for("the extension to work", BOOT, || {
            (server.http().shed(SHED)["extensions"][NAMESPACE] == works).then_some(())
        });
        Self { host, server, cli }
    }

    /// Has the guest ask for signatures over one connection, and returns how long each took there.
    fn sign(&self, count: usize) -> anyhow::Result<Vec<Duration>> {
        let mut command = self.cli.exec_command(SHED, &["python3", SIGN, &count.to_string()]);
        let took: Vec<f64> = serde_json::from_slice(&run(&mut command, b"", BOOT).ok().stdout)
            .context("sign.py prints a list")?;
        ensure!(took.len() == count, "{} signatures instead of {count}", took.len());
        Ok(took.into_iter().map(|ms| Duration::from_secs_f64(ms / 1000.0)).collect())
    }
}

fn round_trips(stage: &Stage, times: &mut Times) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let bare = Bare::connect(stage, SHED).await?;
        let mut frames = Framed::new(bare.agent.open(GuestPort::Health).await?, FrameCodec);
        for number in 0..WARM_UP + COUNT {
            let begun = Instant::now();
            frames.send(Frame::empty(FrameKind::HealthRequest)).await?;
            let answer = frames.next().await.context("the stream ended")??;
            ensure!(answer.kind == FrameKind::HealthResponse, "{:?} is no answer", answer.kind);
            if number >= WARM_UP {
                times.push(begun.elapsed());
            }
        }
        drop(frames);
        bare.end().await
    })
}
