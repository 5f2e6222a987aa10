//! The command line of shed-host-agent. Errors are printed once, here, with their causes.

mod show;

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use anyhow::{Context, bail};
use camino::Utf8PathBuf;
use clap::{Args, Parser, Subcommand};
use shed_host_agent::{
    config,
    control::{
        Order, Report,
        client::{self, Reports},
    },
    places::Surroundings,
    run,
};
use shed_types::error_chain;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{layer::SubscriberExt, util::SubscriberInitExt};

/// Answers sheds that ask for the use of this machine's keys and credentials, which never leave it.
#[derive(Debug, Parser)]
#[command(name = "shed-host-agent", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer until SIGTERM or SIGINT; what is done without a command
    Run(RunArgs),
    /// Say how the agent that runs is
    Status {
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
    /// See and answer what waits for approval
    #[command(subcommand)]
    Approvals(Approvals),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Read this file instead of ~/.config/shed/extensions.yaml
    #[arg(long, value_name = "FILE")]
    config: Option<Utf8PathBuf>,
    /// Log also what goes well
    #[arg(long)]
    debug: bool,
}

#[derive(Debug, Subcommand)]
enum Approvals {
    /// List the requests that wait
    List {
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Let a request go on
    Approve {
        /// As `list` has it
        id: String,
    },
    /// Refuse a request
    Deny {
        /// As `list` has it
        id: String,
    },
    /// Show each request that waits from now on, until interrupted
    Watch,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match act(cli.command.unwrap_or(Command::Run(cli.run))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing can be done about a stderr that is gone.
            let _gone = writeln!(io::stderr(), "shed-host-agent: {}", error_chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn act(command: Command) -> anyhow::Result<()> {
    let surroundings = Surroundings::of_process()?;
    // One thread that waits, and some that sign, read keys and write the log.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .enable_all()
        .build();
    let runtime = runtime.context("could not start the threads")?;
    let done = match command {
        Command::Run(args) => {
            shed_process::leave_no_core().context("could not protect the memory of the process")?;
            let config = config::load(args.config.as_deref(), &surroundings)?;
            log(args.debug);
            runtime.block_on(run::run(config, &surroundings))
        }
        Command::Status { json } => runtime.block_on(status(&surroundings, json)),
        Command::Approvals(command) => runtime.block_on(approvals(&surroundings, command)),
    };
    // Without this, a key file on a network that is gone would keep the process.
    runtime.shutdown_background();
    done
}

/// Texts of others are cleaned before they are logged.
fn log(debug: bool) {
    let level = if debug { LevelFilter::DEBUG } else { LevelFilter::INFO };
    // The debug lines of libraries have what is on the wire, secrets too.
    let filter = tracing_subscriber::filter::Targets::new()
        .with_default(LevelFilter::WARN)
        .with_target("shed_host_agent", level);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    tracing_subscriber::registry().with(filter).with(lines).init();
}

async fn order(surroundings: &Surroundings, order: Order) -> anyhow::Result<Reports> {
    Ok(client::order(&surroundings.control_dir()?, &order).await?)
}

async fn status(surroundings: &Surroundings, json: bool) -> anyhow::Result<()> {
    match order(surroundings, Order::Status).await?.first().await? {
        Report::Status(status) if json => print(&format!("{}\n", serde_json::to_string_pretty(&status)?)),
        Report::Status(status) => print(&show::status(&status)),
        other @ (Report::Waiting { .. } | Report::Done { .. } | Report::Failed { .. }) => unexpected(&other),
    }
}

async fn approvals(surroundings: &Surroundings, command: Approvals) -> anyhow::Result<()> {
    let (asked, json) = match command {
        Approvals::List { json } => (Order::List, json),
        Approvals::Approve { id } => (Order::Approve { id }, false),
        Approvals::Deny { id } => (Order::Deny { id }, false),
        Approvals::Watch => return watch(surroundings).await,
    };
    match order(surroundings, asked).await?.first().await? {
        Report::Waiting { waiting } if json => {
            print(&format!("{}\n", serde_json::to_string_pretty(&waiting)?))
        }
        Report::Waiting { waiting } => print(&show::waiting(&waiting)),
        Report::Done { what } => print(&format!("{what}\n")),
        other @ (Report::Status(_) | Report::Failed { .. }) => unexpected(&other),
    }
}

async fn watch(surroundings: &Surroundings) -> anyhow::Result<()> {
    let mut reports = order(surroundings, Order::Watch).await?;
    let mut seen = Vec::new();
    while let Some(report) = reports.next().await? {
        let Report::Waiting { waiting } = report else { return unexpected(&report) };
        for new in waiting.iter().filter(|waiting| !seen.contains(&waiting.id)) {
            print(&show::question(new))?;
        }
        seen = waiting.into_iter().map(|waiting| waiting.id).collect();
    }
    bail!("the shed-host-agent has ended")
}

fn unexpected(report: &Report) -> anyhow::Result<()> {
    bail!("the shed-host-agent that runs is of another version, restart it; it said {report:?}")
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("could not write to stdout")
}
