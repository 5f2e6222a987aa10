//! Work on files: `git status`, an installation of many small files, a large file with a sync. On a shed's own disk against a raw
//! QEMU's that is started with the same arguments, and in a directory of the host against the shed's own disk.
//!
//! The guest measures, so that neither way in counts. Each machine runs alone, in turns, and the fastest of each kind counts:
//! a host that stalls only slows.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use shed_link::{host_handshake, mux};
use shed_protocol::{ExecRequest, ExitStatus, Frame, FrameCodec, FrameKind};
use shed_types::GuestPort;
use tokio::net::UnixStream;
use tokio_util::codec::Framed;
use vm_tests::{BOOT, Stage, machine_of, run};

use crate::{raw::RawQemu, report::Report};

/// Most of a raw machine's time that the same on a shed's own disk may take.
const OWN_DISK: f64 = 1.05;

/// Most of the own disk's time that work on many files may take in a directory of the host.
const MOUNTED: f64 = 1.5;

/// Files of the comparison with a raw machine.
const FILES: u32 = 20_000;

/// Files of the comparison with a directory of the host. Each costs as much as the next, and under software emulation a
/// thousand take a minute.
const FILES_MOUNTED: u32 = 1_000;

/// How often each machine is measured.
const RUNS: u32 = 2;

const SHED: &str = "bench-work";

/// What is measured: its name in the script's answer, and for people.
const WORK: [(&str, &str); 3] = [
    ("install", "writing N files of 700 bytes in nested directories"),
    ("status", "git status on N files"),
    ("large", "200 MB and a sync"),
];

/// `$1` is a directory, `$2` the number of files. It prints `name=milliseconds` for each part.
const SCRIPT: &str = r#"
set -e
rm -rf "$1"; mkdir -p "$1"; cd "$1"
cat >/tmp/install.py <<'END'
import os, sys
content = b"module.exports = 1;\n" * 35
for package in range(int(sys.argv[1]) // 20):
    path = "node_modules/%d/package%d/lib" % (package // 50, package)
    os.makedirs(path)
    for number in range(20):
        with open("%s/file%d.js" % (path, number), "wb") as out: out.write(content)
END
timed() { name=$1; shift; begun=$(date +%s%N); "$@" >/dev/null; echo "$name=$(( ($(date +%s%N) - begun) / 1000000 ))"; }
timed install sh -c "python3 /tmp/install.py $2 && sync -f ."
git init -q . && git add .
git status >/dev/null
timed status git status
timed large dd if=/dev/zero of=large bs=1M count=200 conv=fsync status=none
cd / && rm -rf "$1"
"#;

/// Milliseconds of each part.
type Took = BTreeMap<String, f64>;

/// Measures.
pub(crate) fn measure(stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    let _server = stage.serve();
    let cli = stage.cli();
    cli.create(SHED, &[]);
    let mut raw = RawQemu::like(stage, SHED, &machine_of(stage, SHED))?;
    raw.keep_image()?;
    cli.delete(SHED);
    let (mut by_hand, mut own) = (Took::new(), Took::new());
    for round in 1..=RUNS {
        report.progress(&format!("workspace {round}/{RUNS}: raw QEMU"));
        keep_fastest(&mut by_hand, in_raw(&raw, FILES)?);
        report.progress(&format!("workspace {round}/{RUNS}: a shed's own disk"));
        cli.create(SHED, &[]);
        keep_fastest(&mut own, in_shed(stage, "/home/shed/work", FILES)?);
        cli.delete(SHED);
    }
    for (key, what) in WORK {
        let what = what.replace('N', &FILES.to_string());
        report.figure(&format!("{what}: raw QEMU"), by_hand[key], "ms");
        report.figure("  a shed's own disk", own[key], "ms");
        report.at_most("  ratio", own[key] / by_hand[key], OWN_DISK, "x");
    }

    let dir = stage.dir().join("mounted");
    fs::create_dir(&dir)?;
    cli.create(SHED, &["--local-dir", dir.as_str()]);
    let (mut own, mut mounted) = (Took::new(), Took::new());
    for round in 1..=RUNS {
        report.progress(&format!("workspace {round}/{RUNS}: a directory of the host"));
        keep_fastest(&mut own, in_shed(stage, "/home/shed/work", FILES_MOUNTED)?);
        keep_fastest(&mut mounted, in_shed(stage, "/workspace/work", FILES_MOUNTED)?);
    }
    cli.delete(SHED);
    for (key, what) in WORK {
        let what = what.replace('N', &FILES_MOUNTED.to_string());
        report.figure(&format!("{what}: own disk"), own[key], "ms");
        report.figure("  a directory of the host", mounted[key], "ms");
        report.at_most("  ratio", mounted[key] / own[key], MOUNTED, "x");
    }
    Ok(())
}

fn keep_fastest(best: &mut Took, now: Took) {
    for (key, took) in now {
        let best = best.entry(key).or_insert(f64::INFINITY);
        *best = best.min(took);
    }
}

fn words(dir: &str, files: u32) -> Vec<String> {
    ["sh", "-c", SCRIPT, "work", dir, &files.to_string()].map(str::to_owned).into()
}

fn in_shed(stage: &Stage, dir: &str, files: u32) -> anyhow::Result<Took> {
    let words = words(dir, files);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    parse(&run(&mut stage.cli().exec_command(SHED, &words), b"", BOOT * 10).ok().out())
}

/// Boots a raw machine, has its agent run the script, and ends it.
fn in_raw(raw: &RawQemu, files: u32) -> anyhow::Result<Took> {
    let (_machine, _took) = raw.start()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let printed = runtime.block_on(async {
        let pipe = UnixStream::connect(raw.link()).await.context("the raw machine's link")?;
        let (agent, driver) = mux::host(host_handshake(pipe).await?);
        let _driver = tokio::spawn(driver);
        let mut frames = Framed::new(agent.open(GuestPort::Exec).await?, FrameCodec);
        let request = ExecRequest { cmd: words("/home/shed/work", files), ..ExecRequest::default() };
        frames.feed(Frame::json(FrameKind::ExecRequest, &request)).await?;
        frames.send(Frame::new(FrameKind::StdinEof, Bytes::new())).await?;
        let mut printed = Vec::new();
        while let Some(frame) = frames.next().await {
            let frame = frame?;
            match frame.kind {
                FrameKind::Data => printed.extend_from_slice(&frame.payload),
                FrameKind::ExitStatus => {
                    let status: ExitStatus = frame.parse()?;
                    ensure!(status.code == 0, "the script failed in the raw machine: {status:?}");
                    return Ok(String::from_utf8_lossy(&printed).into_owned());
                }
                _ => {}
            }
        }
        bail!("the stream ended before the exit code")
    })?;
    parse(&printed)
}

fn parse(printed: &str) -> anyhow::Result<Took> {
    let line = |line: &str| Some((line.split_once('=')?.0.to_owned(), line.split_once('=')?.1.parse().ok()?));
    let took: Took = printed.lines().filter_map(line).collect();
    ensure!(WORK.iter().all(|(key, _)| took.contains_key(*key)), "the script printed {printed:?}");
    Ok(took)
}
