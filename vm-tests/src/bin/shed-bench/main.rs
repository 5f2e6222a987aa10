//! `shed-bench`: what Shed costs on top of the machine it starts, as ratios measured in one run.
//!
//! `./x bench` builds everything and runs it. Every figure has its yardstick beside it, measured on the same host in
//! the same run and, where times are compared, in turns: raw QEMU for booting, a bare connection to the agent for
//! commands. It starts its own server on a stage of its own and leaves nothing behind. A missed target is printed;
//! only with `--check` is it a failure.

mod bare;
mod boot;
mod command;
mod disk;
mod extensions;
mod firecracker;
mod images;
mod memory;
mod raw;
mod report;
mod ssh;
mod stats;
mod tunnels;
mod workspace;

use std::process::ExitCode;

use anyhow::Context as _;
use camino::Utf8PathBuf;
use clap::Parser;
use vm_tests::{Config, L1, Parts, Stage};

use report::Report;

/// Measures Shed against raw QEMU and a bare agent, in one run.
#[derive(Debug, Parser)]
#[command(name = "shed-bench")]
struct Cli {
    /// How often each boot is measured
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,

    /// Write the figures to this file, too
    #[arg(long, value_name = "FILE")]
    json: Option<Utf8PathBuf>,

    /// Exit with 1 when a target is missed
    #[arg(long)]
    check: bool,

    /// With extensions: 10,000 signatures, too, and what they leave behind; some minutes
    #[arg(long)]
    soak: bool,

    /// Measure only these: boot, exec, create, memory, tunnels, ssh, images, workspace, extensions, firecracker
    #[arg(value_name = "PART")]
    parts: Vec<Part>,
}

/// What can be measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// A cold create to the first command's output, against raw QEMU.
    Boot,
    /// A command in a running shed, against a bare connection to the agent.
    Exec,
    /// A create's own work before its machine runs, and what a new shed takes on the disk.
    Create,
    /// Memory of the idle server and of the agent.
    Memory,
    /// Tunnels: speed of one against a bare connection to the agent, and the cost of many.
    Tunnels,
    /// `scp` against `shed exec -- cat`, and `shed exec` against `ssh`.
    Ssh,
    /// An OCI archive to an ext4 that boots, against skopeo, umoci and mke2fs.
    Images,
    /// Work on many files: on the own disk against raw QEMU, in a directory of the host against the own disk.
    Workspace,
    /// A signature of a key of the host in a guest, against one round trip over the guest link.
    Extensions,
    /// A boot on the real Firecracker, which SHED_FIRECRACKER_BIN names, against a bare one.
    Firecracker,
}

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    let parts = Parts::try_find().map_err(anyhow::Error::msg).context("run this as `./x bench`")?;
    let wanted = |part| cli.parts.is_empty() || cli.parts.contains(&part);
    let stage = || Stage::with(parts.clone(), Config::default());
    let mut report = Report::new();
    if wanted(Part::Boot) {
        boot::measure(&stage(), cli.runs, &mut report)?;
    }
    if wanted(Part::Exec) {
        command::measure(&stage(), &mut report)?;
    }
    if wanted(Part::Create) {
        disk::measure(&stage(), cli.runs, &mut report)?;
    }
    if wanted(Part::Memory) {
        memory::measure(&stage(), &mut report)?;
    }
    if wanted(Part::Tunnels) {
        tunnels::measure(&stage(), &mut report)?;
    }
    if wanted(Part::Ssh) {
        ssh::measure(&stage(), &mut report)?;
    }
    if wanted(Part::Images) {
        images::measure(&stage(), &mut report)?;
    }
    if wanted(Part::Workspace) {
        workspace::measure(&stage(), &mut report)?;
    }
    if wanted(Part::Extensions) {
        let extensions = Some(serde_json::json!({ "enabled": ["ssh-agent"] }));
        let stage = Stage::with(parts.clone(), Config { extensions, ..Config::default() });
        extensions::measure(&stage, cli.soak, &mut report)?;
    }
    match (wanted(Part::Firecracker), L1::is_here()) {
        (true, true) => firecracker::measure(&stage(), cli.runs, &mut report)?,
        (true, false) => firecracker::in_an_l1(cli.runs, &mut report),
        (false, _) => {}
    }
    report.print();
    if let Some(file) = &cli.json {
        std::fs::write(file, report.to_json()).with_context(|| format!("cannot write {file}"))?;
    }
    Ok(if cli.check && report.missed() > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
