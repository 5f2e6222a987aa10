//! The command line of shed-server. Errors are printed once, here, with their causes.

mod host_commands;
mod inner_commands;

use std::{io::Write, process::ExitCode};

use anyhow::Context;
use camino::{Utf8Path, Utf8PathBuf};
use clap::{Args, Parser, Subcommand};
use shed_registry::Registry;
use shed_server::{
    capacity,
    config::{self, Config, Surroundings},
    doctor,
    logging::{self, LogFormat},
    pull_images,
    serve::{self, Ended},
};
use shed_types::error_chain;

/// Requests are few and small; two threads keep one busy stream from delaying the others.
const WORKERS: usize = 2;

/// Blocking work is copying of disks and syncing of records, a create at a time; and the making of images, which takes
/// minutes or waits for other processes, and must not keep those waiting.
const BLOCKING: usize = 64;

/// Runs sheds: virtual machines for development, behind an HTTP API.
#[derive(Debug, Parser)]
#[command(name = "shed-server", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer requests until SIGTERM or SIGINT; machines keep running after it
    Serve(ServeArgs),
    /// Say whether this host can run sheds, and what to do about what is in the way; exit code 1 if anything failed
    #[command(alias = "check")]
    Doctor(DoctorArgs),
    /// Make this host ready for sheds (Linux, as root): KVM, network, directories, capability; again and again if you like
    Setup(host_commands::SetupArgs),
    /// Run the server as a service: of systemd (the system's as root, else your own), on macOS of launchd
    Install(host_commands::InstallArgs),
    /// Stop the service and remove what describes it; sheds, images and running machines stay
    Uninstall(host_commands::UninstallArgs),
    /// Pull the images that server.yaml names by reference, before a create has to wait for one; exit code 1 if any failed
    PullImages(PullImagesArgs),
    /// What the server starts itself
    #[command(flatten)]
    Inner(inner_commands::InnerCommand),
    /// Print the version
    Version,
}

#[derive(Debug, Args)]
struct ConfigArgs {
    /// Read this file instead of ./server.yaml, ~/.config/shed/server.yaml or /etc/shed/server.yaml
    #[arg(long, value_name = "FILE", env = "SHED_CONFIG")]
    config: Option<Utf8PathBuf>,
}

#[derive(Debug, Args)]
struct DoctorArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print the configuration with every value spelled out, and end
    #[arg(long)]
    print_config: bool,
    /// Write {"http_port":N,"ssh_port":N,"pid":N} to this file when requests are answered
    #[arg(long, value_name = "PATH")]
    ready_file: Option<Utf8PathBuf>,
    /// How the log on stderr looks
    #[arg(long, value_enum, default_value = "human")]
    log_format: LogFormat,
}

#[derive(Debug, Args)]
struct PullImagesArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Pull only the image that is called this in `images:`
    #[arg(long, value_name = "NAME")]
    variant: Option<String>,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            // Nothing can be done about a stderr that is gone.
            let _gone = writeln!(std::io::stderr(), "shed-server: {}", error_chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(args) => serve(&args),
        Command::Doctor(args) => {
            let report = match load(args.config.config.as_deref()) {
                Ok(config) => runtime()?.block_on(doctor::run(&config)),
                Err(error) => doctor::unreadable(error.as_ref()),
            };
            if args.json {
                print(&format_args!("{}\n", report.to_json()))?;
            } else {
                print(&report)?;
            }
            Ok(exit_code(report.is_good()))
        }
        Command::Setup(args) => Ok(exit_code(host_commands::setup(&args)?)),
        Command::Install(args) => Ok(exit_code(host_commands::install(&args)?)),
        Command::Uninstall(args) => Ok(exit_code(host_commands::uninstall(&args)?)),
        Command::PullImages(args) => {
            let config = load(args.config.config.as_deref())?;
            let registry = Registry::new(config.registries.clone());
            let runtime = runtime()?;
            let pulled = runtime.block_on(pull_images::run(&config, args.variant.as_deref(), &registry))?;
            print(&pulled)?;
            Ok(exit_code(pulled.is_good()))
        }
        Command::Inner(command) => {
            command.run()?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Version => {
            print(&concat!("shed-server ", env!("CARGO_PKG_VERSION"), "\n"))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

const fn exit_code(is_good: bool) -> ExitCode {
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn serve(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    let config = load(args.config.config.as_deref())?;
    if args.print_config {
        print(&config)?;
        return Ok(ExitCode::SUCCESS);
    }
    logging::begin(config.log_level, args.log_format);
    capacity::raise_descriptor_limit();
    // Logins of registries and credentials of extensions go through this process.
    shed_process::leave_no_core().context("could not keep secrets out of core files")?;
    let runtime = runtime()?;
    let ended = runtime.block_on(serve::run(&config, args.ready_file.as_deref()));
    // Without this, the runtime would wait for blocking work that nobody waits for any more.
    runtime.shutdown_background();
    match ended? {
        Ended::Orderly => Ok(ExitCode::SUCCESS),
        Ended::AtOnce => Ok(ExitCode::FAILURE),
    }
}

fn load(asked: Option<&Utf8Path>) -> anyhow::Result<Config> {
    let surroundings = Surroundings::of_process()?;
    let file = config::locate(asked, &surroundings)?;
    Ok(config::load(file.as_deref(), &surroundings)?)
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING)
        .thread_name("shed-server")
        .enable_all()
        .build()
        .context("could not start the threads")
}

fn print(text: &dyn std::fmt::Display) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    write!(out, "{text}").and_then(|()| out.flush()).context("could not write to stdout")
}
