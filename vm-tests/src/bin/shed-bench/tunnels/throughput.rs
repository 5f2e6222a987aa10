//! One tunnel's speed, each way, against a bare connection to the agent that reaches the same service in the guest.

use std::{
    io::{self, Read, Write},
    time::Instant,
};

use anyhow::{Context as _, ensure};
use rand::{Rng, SeedableRng, rngs::StdRng};
use sha2::{Digest, Sha256};
use shed_link::{MuxStream, read_line};
use shed_protocol::connect::tcp_request_line;
use shed_types::{GuestPort, TcpPort};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use vm_tests::{Server, Stage};

use super::{BULK, SHED, megabytes};
use crate::{bare::Bare, report::Report};

/// Least that a tunnel may do, as a part of what the bare connection does.
const TARGET: f64 = 0.8;

/// What is sent again and again, in bytes. It is noise, so that nothing on the way can be clever about it.
const PATTERN: usize = 64 << 20;

/// Bytes that go each way in one run.
const TOTAL: usize = 256 << 20;

/// Runs of each kind and direction, in turns: 1.5 GiB in all. The fastest counts, since whatever else goes on on the
/// host only makes one slower, and short runs find it quiet more often than long ones.
const RUNS: u32 = 6;

/// Sends the pattern, or compares what comes with it, as the first byte asks: `d` for a download of `TOTAL`, `u` for an
/// upload, which is answered with how many bytes came and were right.
const SERVICE: &str = r"
open(my $file, '<', '/tmp/pattern') or die; binmode $file; local $/; my $pattern = <$file>;
my $s = listen_on('127.0.0.1', PORT); ready();
while (1) {
    my $c = take($s);
    sysread($c, my $what, 1) or next;
    if ($what eq 'd') { for (1 .. ROUNDS) { say($c, $pattern) or last; } }
    else {
        my ($at, $right) = (0, 0);
        while (my $n = sysread($c, my $piece, 1 << 20)) {
            for (my $from = 0; $from < $n;) {
                my $most = length($pattern) - $at;
                my $length = $n - $from < $most ? $n - $from : $most;
                $right += $length if substr($piece, $from, $length) eq substr($pattern, $at, $length);
                $from += $length; $at = ($at + $length) % length $pattern;
            }
        }
        say($c, qq($right\n));
    }
    close $c;
}
";

/// Measures.
pub(super) fn measure(stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    report.progress("tunnels: 64 MiB of noise for the guest");
    let mut server = Some(stage.serve());
    let cli = stage.cli();
    cli.wait_for_exec(SHED, vm_tests::BOOT);
    let mut pattern = vec![0; PATTERN];
    StdRng::seed_from_u64(1).fill_bytes(&mut pattern);
    let hash = hex::encode(Sha256::digest(&pattern));
    cli.exec_with(SHED, &["sh", "-c", "cat >/tmp/pattern"], &pattern).ok();
    let there = cli.sh(SHED, "sha256sum </tmp/pattern");
    ensure!(there.starts_with(&hash), "the guest has another pattern: {there}, not {hash}");
    let service =
        SERVICE.replace("PORT", &BULK.to_string()).replace("ROUNDS", &(TOTAL / PATTERN).to_string());
    cli.start_service(SHED, "bulk", &service);

    let (mut bare, mut tunnel) = (Speeds::default(), Speeds::default());
    for run in 1..=RUNS {
        report.progress(&format!("tunnels {run}/{RUNS}: 256 MiB each way through a tunnel"));
        let running = server.as_ref().context("the server runs")?;
        tunnel.keep_best(download(running, &pattern)?, upload(running, &pattern)?);
        // The machine's socket takes one connection, so the server steps aside.
        server.take().context("the server runs")?.terminate();
        report.progress(&format!("tunnels {run}/{RUNS}: 256 MiB each way through a bare connection"));
        let (down, up) = bare_link(stage, &pattern)?;
        bare.keep_best(down, up);
        server = Some(stage.serve());
        cli.wait_for_exec(SHED, vm_tests::BOOT);
    }
    cli.sh(SHED, "rm /tmp/pattern; pkill -f '[b]ulk.pl'; true");
    for (way, bare, tunnel) in
        [("out of a shed", bare.down, tunnel.down), ("into a shed", bare.up, tunnel.up)]
    {
        report.figure(&format!("256 MiB {way}, bare agent connection, best"), bare, "MB/s");
        report.figure(&format!("256 MiB {way}, tunnel, every byte compared, best"), tunnel, "MB/s");
        report.at_least("  ratio", tunnel / bare, TARGET, "x");
    }
    Ok(())
}

/// Megabytes a second.
#[derive(Debug, Default)]
struct Speeds {
    down: f64,
    up: f64,
}

impl Speeds {
    fn keep_best(&mut self, down: f64, up: f64) {
        self.down = self.down.max(down);
        self.up = self.up.max(up);
    }
}

fn speed(begun: Instant) -> f64 {
    megabytes(TOTAL as u64) / begun.elapsed().as_secs_f64()
}

/// Compares what comes with the pattern, wherever it is cut.
struct Comparison<'a> {
    pattern: &'a [u8],
    seen: usize,
}

impl Comparison<'_> {
    fn next(&mut self, mut piece: &[u8]) -> anyhow::Result<()> {
        while !piece.is_empty() {
            let at = self.seen % self.pattern.len();
            let length = piece.len().min(self.pattern.len() - at);
            ensure!(
                piece[..length] == self.pattern[at..at + length],
                "wrong bytes after {} right ones",
                self.seen
            );
            self.seen += length;
            piece = &piece[length..];
        }
        Ok(())
    }
}

fn download(server: &Server, pattern: &[u8]) -> anyhow::Result<f64> {
    let mut tunnel = open(server)?;
    let begun = Instant::now();
    tunnel.write_all(b"d")?;
    let mut comparison = Comparison { pattern, seen: 0 };
    let mut buffer = vec![0; 256 << 10];
    loop {
        match tunnel.read(&mut buffer)? {
            0 => break,
            length => comparison.next(&buffer[..length])?,
        }
    }
    ensure!(comparison.seen == TOTAL, "{} bytes of {TOTAL} came", comparison.seen);
    Ok(speed(begun))
}

fn upload(server: &Server, pattern: &[u8]) -> anyhow::Result<f64> {
    let mut tunnel = open(server)?;
    let begun = Instant::now();
    tunnel.write_all(b"u")?;
    for _ in 0..TOTAL / PATTERN {
        tunnel.write_all(pattern)?;
    }
    tunnel.shut()?;
    check_upload(&String::from_utf8_lossy(&tunnel.rest()?))?;
    Ok(speed(begun))
}

fn check_upload(answer: &str) -> anyhow::Result<()> {
    ensure!(answer.trim() == TOTAL.to_string(), "the guest got {} right bytes of {TOTAL}", answer.trim());
    Ok(())
}

fn open(server: &Server) -> anyhow::Result<vm_tests::Tunnel> {
    server.http().tunnel(SHED, BULK).map_err(|reply| io::Error::other(reply.text())).context("no tunnel")
}

/// The same, without server and HTTP.
fn bare_link(stage: &Stage, pattern: &[u8]) -> anyhow::Result<(f64, f64)> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let bare = Bare::connect(stage, SHED).await?;
        let down = {
            let mut stream = dial(bare.agent.open(GuestPort::Tcp).await?).await?;
            let begun = Instant::now();
            stream.write_all(b"d").await?;
            let mut comparison = Comparison { pattern, seen: 0 };
            let mut buffer = vec![0; 256 << 10];
            loop {
                match stream.read(&mut buffer).await? {
                    0 => break,
                    length => comparison.next(&buffer[..length])?,
                }
            }
            ensure!(comparison.seen == TOTAL, "{} bytes of {TOTAL} came", comparison.seen);
            speed(begun)
        };
        let up = {
            let mut stream = dial(bare.agent.open(GuestPort::Tcp).await?).await?;
            let begun = Instant::now();
            stream.write_all(b"u").await?;
            for _ in 0..TOTAL / PATTERN {
                stream.write_all(pattern).await?;
            }
            stream.shutdown().await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            check_upload(&answer)?;
            speed(begun)
        };
        bare.end().await?;
        Ok((down, up))
    })
}

async fn dial(mut stream: MuxStream) -> anyhow::Result<MuxStream> {
    let port = TcpPort::new(BULK).context("a port")?;
    stream.write_all(tcp_request_line(port).as_bytes()).await?;
    stream.flush().await?;
    let line = read_line(&mut stream).await?;
    ensure!(line == b"OK", "the agent refused: {}", String::from_utf8_lossy(&line));
    Ok(stream)
}
