//! `shed sync`, and what a create copies by itself.

use std::{env, path::PathBuf, process::ExitCode};

use clap::Args;
use serde::Serialize;
use shed_api::ShedStatus;
use shed_client::Timeouts;
use shed_types::ShedName;

use super::{block_on, work};
use crate::{
    cli::Context,
    command_error::{CommandError, Kind},
    progress::Progress,
    servers::{Server, Strayed},
    sizes::human,
    sync::{
        self, FeatureName, FeatureReport, Place, Plan, ProfileName, Report, Source, SyncFile, SyncFileError,
    },
    ui::{Done, Format, clean},
};

const AFTER_HELP: &str = "\
~/.shed/sync.yaml says what there is to copy:

  features:
    git:
      paths:
        - {source: ~/.gitconfig, target: ~/.gitconfig}
    nvim:
      description: the editor and its plugins
      paths:
        - {source: ~/.config/nvim, target: ~/.config/nvim, include: ['*.lua', 'lua/**']}
      postSync:
        - run: nvim --headless '+Lazy! sync' +qa
  profiles:
    default: {features: [git, nvim]}

Sources that are not there are skipped. A feature that fails does not keep the others from being done; the exit code is 1 \
then. What was done is appended to /var/log/shed/sync.log in the shed.

Examples:
  shed sync web                        the features of the profile `default`
  shed sync web -p work -f nvim        those of `work`, and nvim
  shed sync web --dry-run              show what would be copied and run";

/// Copy files of this machine into a shed
///
/// Copies the paths of each feature into the shed, where they belong to user `shed`, and then runs the feature's commands
/// there. A shed that is stopped is started.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct SyncArgs {
    /// The shed
    #[arg(value_name = "SHED")]
    shed: ShedName,

    /// Copy the features of this profile; may be repeated [default: `default`, unless a feature is named]
    #[arg(short, long = "profile", value_name = "PROFILE")]
    profiles: Vec<ProfileName>,

    /// Copy this feature; may be repeated
    #[arg(short, long = "feature", value_name = "FEATURE")]
    features: Vec<FeatureName>,

    /// Show what would be copied and run, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// What was done, as `--json` has it.
#[derive(Serialize)]
struct Details<'a> {
    features: &'a [FeatureReport],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    warnings: &'a [String],
}

/// What would be done, as `--json` has it.
#[derive(Serialize)]
struct DryRun<'a> {
    dry_run: bool,
    features: Vec<PlannedFeature<'a>>,
}

#[derive(Serialize)]
struct PlannedFeature<'a> {
    name: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
    paths: Vec<PlannedPath<'a>>,
    #[serde(rename = "postSync")]
    post_sync: &'a [String],
}

#[derive(Serialize)]
struct PlannedPath<'a> {
    source: &'a str,
    target: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<String>,
}

/// Runs the command.
pub(crate) fn run(context: &Context, args: &SyncArgs) -> Result<ExitCode, CommandError> {
    let file = load(context)?;
    let plan = sync::plan(&file.choose(&args.profiles, &args.features)?);
    if args.dry_run {
        show(context, args, &plan)?;
        return Ok(ExitCode::SUCCESS);
    }
    let servers = context.servers()?;
    let shed = &args.shed;
    let (server, report) = block_on(work::unless_interrupted(&format!("the sync of shed {shed}"), async {
        let (server, found) = servers
            .on_server_of(&context.ui, shed, Strayed::Search, async |server| {
                server.client(Timeouts::default()).get(shed).await
            })
            .await?;
        if found.status != ShedStatus::Running && !plan.features.is_empty() {
            context.ui.note(&format!("shed {shed} does not run; starting it"));
            work::start(context, &servers, shed, &server).await?;
        }
        let report = carry_out(context, &server, shed, plan).await;
        Ok((server, report))
    }))?;
    for warning in &report.warnings {
        if context.ui.format() == Format::Text {
            context.ui.warning(warning);
        }
    }
    for error in &report.errors {
        context.ui.error(error);
    }
    let done: Vec<&FeatureReport> =
        report.features.iter().filter(|feature| feature.error.is_none()).collect();
    match context.ui.format() {
        Format::Json => {
            let details = Details { features: &report.features, warnings: &report.warnings };
            let result = Done::new("sync", shed.as_str(), server.name.to_string(), Some(details));
            context.ui.print_done(&if report.errors.is_empty() { result } else { result.partly() })?;
        }
        Format::Text => {
            let (files, size) = report.features.iter().fold((0_u64, 0_u64), |(files, size), f| {
                (files.saturating_add(f.files), size.saturating_add(f.bytes))
            });
            let of = if report.errors.is_empty() {
                String::new()
            } else {
                format!(" of {}", report.features.len())
            };
            let plural =
                |count: u64, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
            context.ui.print(&format!(
                "Synced {}{of} to shed {shed} on {}: {}, {}\n",
                plural(done.len() as u64, "feature"),
                server.name,
                plural(files, "file"),
                human(size)
            ))?;
        }
    }
    Ok(if report.errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What a create copies when the shed is there.
#[derive(Debug)]
pub(crate) struct AfterCreate(Option<Plan>);

impl AfterCreate {
    /// Finds out what to copy: nothing, silently, when nobody asked for a profile and there is no default one.
    ///
    /// # Errors
    /// When a profile was asked for and there is none of that name, or the file cannot be read; before anything is made.
    pub(crate) fn look(context: &Context, asked: Option<&ProfileName>) -> Result<Self, CommandError> {
        let file = match (load(context), asked) {
            (Ok(file), _) => file,
            (Err(error), Some(_)) => return Err(error.into()),
            (Err(SyncFileError::Missing { .. }), None) => return Ok(Self(None)),
            // Nobody asked for it: a create must not fail for it.
            (Err(error), None) => {
                let error = CommandError::from(error);
                context.ui.warning(&format!("no files will be copied: {}", error.whole()));
                return Ok(Self(None));
            }
        };
        let default = ProfileName::default_name();
        if asked.is_none() && !file.has_profile(&default) {
            return Ok(Self(None));
        }
        let profile = [asked.unwrap_or(&default).clone()];
        Ok(Self(Some(sync::plan(&file.choose(&profile, &[])?))))
    }

    /// Copies it and returns what went wrong, as warnings.
    pub(crate) async fn run(self, context: &Context, server: &Server, shed: &ShedName) -> Vec<String> {
        let Some(plan) = self.0.filter(|plan| !plan.features.is_empty()) else { return Vec::new() };
        let report = carry_out(context, server, shed, plan).await;
        let failed = report.errors.iter().map(CommandError::whole);
        report.warnings.iter().cloned().chain(failed).collect()
    }
}

async fn carry_out(context: &Context, server: &Server, shed: &ShedName, plan: Plan) -> Report {
    let progress = Progress::new(&context.ui);
    let task = progress.task(shed, &format!("copying {}", human(plan.bytes())));
    let client = server.client(Timeouts::default());
    let report = sync::run(Place { server, client: &client, shed }, plan, &task).await;
    let _none = task.finish();
    report
}

fn load(context: &Context) -> Result<SyncFile, SyncFileError> {
    let home = env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let path = context
        .store()
        .map(|store| store.sync_file())
        .map_err(|_| SyncFileError::Missing { path: "~/.shed/sync.yaml".into() })?;
    SyncFile::load(&path, home.as_deref())
}

fn show(context: &Context, args: &SyncArgs, plan: &Plan) -> Result<(), CommandError> {
    let features = plan.features.iter().map(|feature| PlannedFeature {
        name: feature.name.to_string(),
        description: &feature.description,
        paths: feature.paths.iter().map(planned_path).collect(),
        post_sync: &feature.post_sync,
    });
    let features: Vec<PlannedFeature<'_>> = features.collect();
    match context.ui.format() {
        Format::Json => context.ui.print_json(&DryRun { dry_run: true, features }),
        Format::Text => {
            let mut text = format!("Nothing is done. A sync of shed {} would do this:\n", args.shed);
            for feature in features {
                let description = if feature.description.is_empty() { "" } else { ": " };
                text.push_str(&format!("{}{description}{}\n", feature.name, clean(feature.description)));
                for path in feature.paths {
                    let what = match (path.skipped, path.files, path.bytes) {
                        (Some(why), ..) => format!("skipped: {why}"),
                        (None, Some(files), Some(size)) => {
                            format!("{files} file{}, {}", if files == 1 { "" } else { "s" }, human(size))
                        }
                        (None, ..) => String::new(),
                    };
                    text.push_str(&format!("  {} -> {} ({what})\n", clean(path.source), clean(path.target)));
                }
                for line in feature.post_sync {
                    text.push_str(&format!("  $ {}\n", clean(line.trim()).replace('\n', "\n    ")));
                }
            }
            context.ui.print(&text)
        }
    }
}

fn planned_path(path: &sync::PathPlan) -> PlannedPath<'_> {
    let (files, size) = path.source.size();
    let skipped = match &path.source {
        Source::Missing => Some("not there".to_owned()),
        Source::Unusable(error) => Some(error.message().to_owned()),
        Source::Ready { .. } => None,
    };
    let ready = skipped.is_none();
    PlannedPath {
        source: &path.written,
        target: path.target.as_str(),
        files: ready.then_some(files),
        bytes: ready.then_some(size),
        skipped,
    }
}

impl From<SyncFileError> for CommandError {
    fn from(error: SyncFileError) -> Self {
        let made = Self::from_error(Kind::Usage, &error);
        match &error {
            SyncFileError::Missing { .. } => made.hinted("an example of such a file: shed sync --help"),
            SyncFileError::Read { .. } | SyncFileError::TooLong { .. } => made.with_kind(Kind::Failed),
            SyncFileError::Parse { .. } | SyncFileError::Check { .. } => {
                made.hinted("what may stand in it: shed sync --help")
            }
            SyncFileError::NoProfile { .. } | SyncFileError::NoFeature { .. } => made,
        }
    }
}
