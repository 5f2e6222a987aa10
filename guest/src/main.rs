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
mod layers;
mod module_list;
mod oci;
mod outdir;
mod recipe;
mod root;
mod settings;
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
    /// Pack shed-init, shed-agent, shed-ext and kernel modules into initrd.img
    Initramfs {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        programs: Programs,
    },
    /// Build images from recipes
    Image {
        /// Names of recipes, which become the images' names
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        recipes: Vec<ImageName>,
        /// Build the images of all recipes
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        extensions: Extensions,
    },
    /// Print the names of all recipes
    Recipes {
        /// Directory with modules.txt, units/, extensions.d/ and recipes/
        #[arg(long, value_name = "DIR", default_value = env!("CARGO_MANIFEST_DIR"), hide_default_value = true)]
        guest_dir: Utf8PathBuf,
    },
    /// Kernel, initramfs and the images of all recipes
    All {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        programs: Programs,
        #[command(flatten)]
        extensions: Extensions,
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
    /// Directory with modules.txt, units/, extensions.d/ and recipes/
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
    /// The static shed-ext
    #[arg(long, value_name = "FILE")]
    ext: Utf8PathBuf,
}

#[derive(Debug, Args)]
struct Extensions {
    /// Directory with the programs that recipes list in extensions.txt; without it they are left out
    #[arg(long, value_name = "DIR")]
    ext_dir: Option<Utf8PathBuf>,
    /// Version of those programs, kept as a label of the images that have them
    #[arg(long, value_name = "VERSION", requires = "ext_dir")]
    ext_version: Option<String>,
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
        Command::Image { recipes, all, common, extensions } => {
            let names = if *all { None } else { Some(recipes.as_slice()) };
            image::build(&OutDir::open(&common.out)?, common, extensions, names)
        }
        Command::Recipes { guest_dir } => {
            for name in recipe::names(&guest_dir.join("recipes"))? {
                ui::answer(name.as_str());
            }
            Ok(())
        }
        Command::All { common, programs, extensions } => {
            initramfs::check_programs(programs, common.arch)?;
            let out = OutDir::open(&common.out)?;
            kernel::build(&out, common)?;
            initramfs::build(&out, common, programs)?;
            image::build(&out, common, extensions, None)
        }
    }
}
