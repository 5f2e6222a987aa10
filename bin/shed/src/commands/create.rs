//! `shed create`.

use std::{cell::Cell, process::ExitCode};

use camino::Utf8PathBuf;
use clap::Args;
use shed_api::{CreateShedRequest, Shed, ShedStatus};
use shed_types::{BackendChoice, BackendKind, CpuCount, MemoryMb, ShedName};

use super::{
    block_on,
    sync::AfterCreate,
    work::{self, Details, GivenUp},
};
use crate::{
    cli::Context,
    command_error::{CommandError, Kind},
    progress::Progress,
    servers::Server,
    sync::ProfileName,
    times, trace,
    ui::{Done, Format},
    values::{self, Timeout, parse_cpus, parse_memory},
};

const AFTER_HELP: &str = "\
Ctrl-C cancels, and the server undoes what it has begun; a shed that runs already stays.
The hooks are those of the repository's .shed/provision.yaml. What fails of clone and hooks
is a warning, and the shed is there all the same.

Examples:
  shed create web
  shed create api --repo owner/api
  shed create docs -r https://git.example.com/docs.git --no-provision
  shed create api --cpus 4 --memory 8g
  shed create site --local-dir .
  shed create big --image experimental --trace";

/// Make a shed and start it
///
/// Makes a virtual machine with its own disk from an image, boots it, clones a repository into its /workspace, and
/// waits until the repository's hooks have run. Files stay until the shed is deleted.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct CreateArgs {
    /// Name of the new shed: lower-case letters, digits and hyphens, beginning with a letter
    name: ShedName,

    /// Make the shed from this image instead of the server's default
    #[arg(short, long)]
    image: Option<String>,

    /// Clone this repository into /workspace: owner/repo of GitHub, user@host:path, or an https, http, ssh or git URL
    #[arg(short, long, value_name = "REPO", conflicts_with = "local_dir")]
    repo: Option<String>,

    /// Run neither the install nor the startup hook of the repository
    #[arg(long)]
    no_provision: bool,

    /// Mount this directory of the server's host at /workspace; both sides see each other's changes at once
    ///
    /// A relative path and `~` are those of this machine, which is the same when the server runs here. The shed changes the
    /// files themselves: there is no copy.
    #[arg(long, value_name = "DIR", value_parser = values::parse_local_dir)]
    local_dir: Option<Utf8PathBuf>,

    /// Run the shed on this backend: qemu, firecracker, vz, or detect for the best one
    #[arg(long)]
    backend: Option<BackendChoice>,

    /// Number of virtual CPUs, 1 to 32
    #[arg(long, value_name = "COUNT", value_parser = parse_cpus, allow_negative_numbers = true)]
    cpus: Option<CpuCount>,

    /// Memory in megabytes, or with a unit: 4096, 512m, 4g
    #[arg(long, value_name = "SIZE", value_parser = parse_memory, allow_negative_numbers = true)]
    memory: Option<MemoryMb>,

    /// Copy the features of this profile of ~/.shed/sync.yaml into the shed [default: `default`, if there is one]
    #[arg(long, value_name = "PROFILE", conflicts_with = "no_sync")]
    sync_profile: Option<ProfileName>,

    /// Copy no files into the shed
    #[arg(long)]
    no_sync: bool,

    /// Stop waiting after this time, and cancel what does not run by then: 90s, 10m, 1h [default: create_timeout of the
    /// config file, or 10m]
    #[arg(long, value_name = "TIME")]
    timeout: Option<Timeout>,

    /// Show how long each phase took
    #[arg(long)]
    trace: bool,
}

/// Runs the command.
pub(crate) fn run(context: &Context, args: &CreateArgs) -> Result<ExitCode, CommandError> {
    let servers = context.servers()?;
    let server = servers.selected()?;
    let timeout = args.timeout.or(servers.config().create_timeout).unwrap_or(Timeout::DEFAULT);
    let request = request(args);
    let after =
        if args.no_sync { None } else { Some(AfterCreate::look(context, args.sync_profile.as_ref())?) };
    let runs = Cell::new(false);
    let created = block_on(work::unless_given_up(
        timeout,
        create(context, &server, args, &request, timeout, &runs),
        |given_up| explain(&args.name, timeout, &given_up, runs.get()),
    ));
    if created.is_err() && runs.get() {
        servers.remember(&context.ui, &args.name, &server, Some(ShedStatus::Running));
    }
    let (shed, mut warnings) = created?;
    let total = context.started.elapsed();
    servers.remember(&context.ui, &args.name, &server, Some(shed.status));
    if let Some(after) = after {
        let what = format!("files to be copied into shed {}, which was created", args.name);
        let copied = async { Ok(after.run(context, &server, &args.name).await) };
        for warning in block_on(work::unless_interrupted(&what, copied))? {
            if context.ui.format() == Format::Text {
                context.ui.warning(&warning);
            }
            warnings.push(warning);
        }
    }
    match context.ui.format() {
        Format::Json => {
            let details = Details::new(&shed, &warnings, args.trace.then_some(total));
            let done = Done::new("create", args.name.as_str(), server.name.to_string(), Some(details));
            context.ui.print_done(&done)?;
        }
        Format::Text => {
            let time = times::elapsed(total);
            context.ui.print(&format!("Created shed {} on {} in {time}\n", args.name, server.name))?;
            if args.trace {
                context.ui.print_table(&trace::table(&shed.timeline, total))?;
            }
            if context.ui.stderr_is_terminal() {
                context.ui.hint(&format!("run a command in it: shed exec {} -- COMMAND", args.name));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn create(
    context: &Context,
    server: &Server,
    args: &CreateArgs,
    request: &CreateShedRequest,
    timeout: Timeout,
    runs: &Cell<bool>,
) -> Result<(Shed, Vec<String>), CommandError> {
    let progress = Progress::new(&context.ui);
    let task = progress.task(&args.name, "asking the server");
    let client = server.client(work::timeouts(timeout));
    let result = match client.create_streaming(request).await {
        Ok(events) => work::follow_noting(events, &task, || runs.set(true)).await,
        Err(error) => Err(error),
    };
    let warnings = task.finish();
    result.map(|shed| (shed, warnings)).map_err(|error| {
        // A refusal says what became of it; a connection that broke does not.
        let refused = error.code().is_some();
        let error = CommandError::from_client(error, server, Some(&args.name));
        if runs.get() && !refused { error.hinted(see_status(&args.name)) } else { error }
    })
}

fn request(args: &CreateArgs) -> CreateShedRequest {
    CreateShedRequest {
        name: args.name.to_string(),
        image: args.image.clone(),
        backend: args.backend.map(|choice| choice.kind().map_or("detect", BackendKind::as_str).to_owned()),
        local_dir: args.local_dir.as_ref().map(Utf8PathBuf::to_string),
        cpus: args.cpus.map(|cpus| i64::from(cpus.get())),
        repo: args.repo.clone(),
        no_provision: args.no_provision,
        memory_mb: args.memory.map(|memory| i64::from(memory.get())),
    }
}

/// What to do when it is not known how the setup of a shed that runs will end.
fn see_status(name: &ShedName) -> String {
    format!("shed {name} runs; see how its setup stands: shed status {name}")
}

fn explain(name: &ShedName, timeout: Timeout, given_up: &GivenUp, runs: bool) -> CommandError {
    let becomes = if runs {
        "the shed is there and runs, and its setup goes on"
    } else {
        "it is cancelled, and the server undoes what it has begun"
    };
    let error = match given_up {
        GivenUp::Signal(signal) => CommandError::new(
            Kind::Interrupted { signal: *signal },
            format!("the create of shed {name} was interrupted; {becomes}"),
        ),
        GivenUp::TimedOut => CommandError::new(
            Kind::Failed,
            format!("the create of shed {name} took longer than {timeout}; {becomes}"),
        ),
    };
    match (runs, given_up) {
        (true, _) => error.hinted(see_status(name)),
        (false, GivenUp::TimedOut) => error.hinted("allow more time with --timeout TIME"),
        (false, GivenUp::Signal(_)) => error,
    }
}
