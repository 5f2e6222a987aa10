//! `shed start`.

use std::process::ExitCode;

use clap::Args;
use shed_types::ShedName;

use super::{
    block_on, each,
    work::{self, Details, GivenUp},
};
use crate::{
    cli::Context,
    command_error::{CommandError, Kind},
    progress::Progress,
    servers::{Server, Strayed},
    times, trace,
    ui::{Done, Format},
    values::Timeout,
};

const AFTER_HELP: &str = "\
Examples:
  shed start web
  shed start web api --timeout 2m
  shed start web --trace";

/// Start stopped sheds
///
/// Boots each shed from its disk and waits until the startup hook of its repository has ended. Several are started
/// at once. A start that has begun goes on on the server when the client ends.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct StartArgs {
    /// The sheds to start
    #[arg(required = true, value_name = "NAME")]
    names: Vec<ShedName>,

    /// Stop waiting after this time: 90s, 10m, 1h
    #[arg(long, value_name = "TIME", default_value_t = Timeout::DEFAULT)]
    timeout: Timeout,

    /// Show how long each phase took
    #[arg(long)]
    trace: bool,
}

/// Runs the command.
pub(crate) fn run(context: &Context, args: &StartArgs) -> Result<ExitCode, CommandError> {
    let servers = context.servers()?;
    let progress = Progress::new(&context.ui);
    block_on(each(
        context,
        &args.names,
        async |name| {
            let work = async {
                let task = progress.task(name, "starting");
                let start = async |server: &Server| {
                    let events = server.client(work::timeouts(args.timeout)).start_streaming(name).await?;
                    work::follow(events, &task).await
                };
                let (server, shed) = servers.on_server_of(&context.ui, name, Strayed::Search, start).await?;
                Ok((server, shed, task.finish()))
            };
            let started =
                work::unless_given_up(args.timeout, work, |given_up| explain(name, args.timeout, &given_up))
                    .await?;
            Ok((started, context.started.elapsed()))
        },
        |name, ((server, shed, warnings), total)| {
            servers.remember(&context.ui, name, &server, Some(shed.status));
            match context.ui.format() {
                Format::Json => {
                    let details = Details::new(&shed, &warnings, args.trace.then_some(total));
                    context.ui.print_done(&Done::new(
                        "start",
                        name.as_str(),
                        server.name.to_string(),
                        Some(details),
                    ))
                }
                Format::Text => {
                    let time = times::elapsed(total);
                    context.ui.print(&format!("Started shed {name} on {} in {time}\n", server.name))?;
                    if args.trace {
                        context.ui.print_table(&trace::table(&shed.timeline, total))?;
                    }
                    Ok(())
                }
            }
        },
    ))
}

fn explain(name: &ShedName, timeout: Timeout, given_up: &GivenUp) -> CommandError {
    let goes_on = "it goes on on the server";
    match given_up {
        GivenUp::Signal(signal) => CommandError::new(
            Kind::Interrupted { signal: *signal },
            format!("the wait for the start of shed {name} was interrupted; {goes_on}"),
        ),
        GivenUp::TimedOut => CommandError::new(
            Kind::Failed,
            format!("the start of shed {name} takes longer than {timeout}; {goes_on}"),
        )
        .hinted(format!("see how it is: shed list; and how its hooks stand: shed status {name}")),
    }
}
