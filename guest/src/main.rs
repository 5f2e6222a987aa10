//! `shed-guest` builds what runs inside a shed: kernel, initramfs and images, all from Debian packages.
//!
//! Called by `./x` and by whoever packages Shed; the server never runs it. It needs no root, no Docker and no loop
//! device, names no mirror (mmdebstrap knows Debian's), and does nothing when nothing has changed. Two builders of one
//! directory take turns. What it replaces, it replaces whole.

use std::process::ExitCode;

use anyhow::Result;
use camino::Utf8PathBuf;
use clap::{Args, Parser, Subcommand};
use shed_types::ImageName;

mod arch;
mod debian;
mod image;
mod initramfs;
mod inputs;
mod kernel;
mod module_list;
mod outdir;
mod tool;
mod ui;

use arch::Arch;
use outdir::OutDir;

/// Builds the kernel, the initramfs and the images of sheds
#[derive(Debug, Parser)]
#[command(name = "shed-guest", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fetch Debian's kernel package and take the kernel out of it
    Kernel(#[command(flatten)] Common),
    /// Pack shed-init, shed-agent and kernel modules into initrd.img
    Initramfs {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        programs: Programs,
    },
    /// Build an image from a recipe
    Image {
        /// Name of the recipe, which becomes the image's name
        recipe: ImageName,
        #[command(flatten)]
        common: Common,
    },
    /// Kernel, initramfs and the base image
    All {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        programs: Programs,
    },
}

#[derive(Debug, Args)]
struct Common {
    /// Architecture of the guest
    #[arg(long, value_enum, default_value_t = Arch::host())]
    arch: Arch,
    /// Directory for the results; the server's images directory
    #[arg(long, value_name = "DIR")]
    out: Utf8PathBuf,
    /// Take the newest packages even when nothing else has changed
    #[arg(long)]
    refresh: bool,
    /// Directory with modules.txt, units/ and recipes/
    #[arg(long, value_name = "DIR", default_value = env!("CARGO_MANIFEST_DIR"), hide_default_value = true)]
    guest_dir: Utf8PathBuf,
}

#[derive(Debug, Args)]
struct Programs {
    /// The static shed-init
    #[arg(long, value_name = "FILE")]
    init: Utf8PathBuf,
    /// The static shed-agent
    #[arg(long, value_name = "FILE")]
    agent: Utf8PathBuf,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            ui::error(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    match &cli.command {
        Command::Kernel(common) => {
            let out = OutDir::open(&common.out)?;
            kernel::build(&out, common)?;
            initramfs::publish_kernel_alone(&out, common)
        }
        Command::Initramfs { common, programs } => {
            initramfs::check_programs(programs, common.arch)?;
            let out = OutDir::open(&common.out)?;
            kernel::build(&out, common)?;
            initramfs::build(&out, common, programs)
        }
        Command::Image { recipe, common } => image::build(&OutDir::open(&common.out)?, common, recipe),
        Command::All { common, programs } => {
            initramfs::check_programs(programs, common.arch)?;
            let out = OutDir::open(&common.out)?;
            kernel::build(&out, common)?;
            initramfs::build(&out, common, programs)?;
            let base = "base".parse::<ImageName>()?;
            image::build(&out, common, &base)
        }
    }
}
