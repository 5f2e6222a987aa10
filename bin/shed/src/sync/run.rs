//! Does a plan: one feature after the other, and of each first the files, then its commands. What one feature fails with
//! does not keep the next from its turn.

use jiff::Timestamp;
use serde::Serialize;
use shed_client::Client;
use shed_protocol::ExitStatus;
use shed_types::ShedName;

use super::{
    guest::{self, GuestError, Job},
    plan::{FeaturePlan, PathPlan, Plan, Source},
    transfer,
};
use crate::{
    command_error::{CommandError, Kind},
    progress::Task,
    servers::Server,
    sizes::human,
    ui::clean,
};

/// Keeps what happened, in the shed (spec H.2).
const LOG: &str = "/var/log/shed/sync.log";

/// What a command prints at most into the log, in bytes.
const MAX_LOGGED: usize = 1 << 20;

/// Longest line of a command that is shown at once, in bytes.
const MAX_LINE: usize = 64 << 10;

/// What became of a plan.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) features: Vec<FeatureReport>,
    /// One for each feature that failed.
    pub(crate) errors: Vec<CommandError>,
    /// What did not fail a feature, and should be known.
    pub(crate) warnings: Vec<String>,
}

/// What became of a feature, as `--json` has it.
#[derive(Debug, Serialize)]
pub(crate) struct FeatureReport {
    pub(crate) name: String,
    pub(crate) status: &'static str,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) skipped: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) warnings: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// Where a plan is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) server: &'a Server,
    pub(crate) client: &'a Client,
    pub(crate) shed: &'a ShedName,
}

/// Does the plan. What happens is shown by `task`, and kept in the shed's log.
pub(crate) async fn run(place: Place<'_>, plan: Plan, task: &Task<'_>) -> Report {
    let mut report = Report::default();
    for feature in plan.features {
        let name = feature.name.to_string();
        let mut log = Log::begin(&name);
        let mut done = FeatureReport {
            name: name.clone(),
            status: "ok",
            files: 0,
            bytes: 0,
            skipped: Vec::new(),
            warnings: Vec::new(),
            error: None,
        };
        if let Err(error) = run_feature(place, feature, task, &mut done, &mut log).await {
            let text = error.whole();
            log.line(&format!("failed: {text}"));
            done.status = "failed";
            done.error = Some(text);
            report.errors.push(error);
        } else {
            log.line("done");
        }
        report.warnings.extend(done.warnings.iter().map(|warning| format!("{name}: {warning}")));
        if let Err(why) = keep(place, log).await {
            report.warnings.push(format!("{name}: could not be noted in {LOG} of the shed: {why}"));
        }
        report.features.push(done);
    }
    report
}

async fn run_feature(
    place: Place<'_>,
    feature: FeaturePlan,
    task: &Task<'_>,
    done: &mut FeatureReport,
    log: &mut Log,
) -> Result<(), CommandError> {
    let name = feature.name;
    for path in feature.paths {
        copy(place, path, task, done, log).await?;
    }
    for line in &feature.post_sync {
        let shown = first_line(line);
        log.line(&format!("$ {line}"));
        task.remark(&format!("{name}: running {shown}"));
        let mut lines = Lines::default();
        let result = guest::run(place.client, place.shed, Job::Line(line), |bytes| {
            log.output(bytes);
            lines.take(bytes, &mut |line| task.remark(&format!("  {line}")));
        })
        .await;
        lines.end(&mut |line| task.remark(&format!("  {line}")));
        judge(place, result).map_err(|error| match error {
            Ended::Code(status) => {
                let message = format!("feature {name}: `{shown}` ended with exit code {}", status.code);
                let error = CommandError::new(Kind::Failed, message);
                match status.error {
                    Some(reason) => error.caused_by(reason),
                    None => error,
                }
            }
            Ended::Lost(error) => error.behind(format!("feature {name}: `{shown}` could not be run")),
        })?;
    }
    Ok(())
}

async fn copy(
    place: Place<'_>,
    path: PathPlan,
    task: &Task<'_>,
    done: &mut FeatureReport,
    log: &mut Log,
) -> Result<(), CommandError> {
    let PathPlan { written, target, source } = path;
    let name = done.name.clone();
    let (directory, scan) = match source {
        Source::Missing => {
            let text = format!("{written} is not there; skipped");
            log.line(&text);
            task.remark(&format!("{name}: {text}"));
            done.skipped.push(written);
            return Ok(());
        }
        Source::Unusable(error) => {
            return Err(error.behind(format!("feature {name}: {written} was not copied")));
        }
        Source::Ready { directory, scan } => (directory, scan),
    };
    let total = scan.bytes();
    let live = task.live();
    live.say(&format!("{name}: {written}"));
    let (feature, shown) = (name.clone(), written.clone());
    let progress =
        move |sent: u64| live.say(&format!("{feature}: {shown}: {} of {}", human(sent), human(total)));
    let sent =
        transfer::send(place.client, place.shed, &directory, scan, progress).await.map_err(|error| {
            CommandError::from_client(error, place.server, Some(place.shed))
                .behind(format!("feature {name}: {written} was not copied"))
        })?;
    // Numbers from a guest, which may say anything.
    let files = sent.report.files.saturating_add(sent.report.links);
    done.files = done.files.saturating_add(files);
    done.bytes = done.bytes.saturating_add(sent.report.bytes);
    let plural = if files == 1 { "" } else { "s" };
    let text = format!("{written} -> {target}: {files} file{plural}, {}", human(sent.report.bytes));
    log.line(&text);
    task.remark(&format!("{name}: {text}"));
    for warning in sent.warnings.into_iter().chain(sent.report.warnings) {
        log.line(&format!("warning: {warning}"));
        done.warnings.push(warning);
    }
    Ok(())
}

/// How a command did not succeed.
enum Ended {
    Code(ExitStatus),
    Lost(CommandError),
}

fn judge(place: Place<'_>, result: Result<ExitStatus, GuestError>) -> Result<(), Ended> {
    match result {
        Ok(status) if status.code == 0 && status.error.is_none() => Ok(()),
        Ok(status) => Err(Ended::Code(status)),
        Err(GuestError::Client(error)) => {
            Err(Ended::Lost(CommandError::from_client(error, place.server, Some(place.shed))))
        }
        Err(
            error @ (GuestError::Broken(_)
            | GuestError::HungUp
            | GuestError::Silent { .. }
            | GuestError::Stuck { .. }),
        ) => Err(Ended::Lost(CommandError::from_error(Kind::Unreachable, &error))),
    }
}

fn first_line(line: &str) -> String {
    let mut lines = clean(line.trim()).lines().map(str::to_owned).collect::<Vec<_>>().into_iter();
    match (lines.next(), lines.next()) {
        (Some(first), None) => first,
        (Some(first), Some(_)) => format!("{first} …"),
        (None, _) => String::new(),
    }
}

/// Appends what happened to the log in the shed.
async fn keep(place: Place<'_>, log: Log) -> Result<(), String> {
    let script = format!("mkdir -p \"$(dirname {LOG})\" && cat >> {LOG}");
    let mut said = Vec::new();
    let job = Job::Root { script: &script, input: log.text.into() };
    let result = guest::run(place.client, place.shed, job, |bytes| {
        if said.len() < MAX_LINE {
            said.extend_from_slice(bytes);
        }
    })
    .await;
    judge(place, result).map_err(|ended| match ended {
        Ended::Code(_) if !said.is_empty() => first_line(&String::from_utf8_lossy(&said)),
        Ended::Code(status) => status.error.unwrap_or_else(|| format!("exit code {}", status.code)),
        Ended::Lost(error) => error.whole(),
    })
}

/// What happened in one feature, for the log.
#[derive(Debug)]
struct Log {
    text: Vec<u8>,
    logged: usize,
}

impl Log {
    fn begin(feature: &str) -> Self {
        let mut log = Self { text: Vec::new(), logged: 0 };
        log.line(&format!("feature {feature}, shed {}", env!("CARGO_PKG_VERSION")));
        log
    }

    fn line(&mut self, text: &str) {
        if self.text.last().is_some_and(|byte| *byte != b'\n') {
            self.text.push(b'\n');
        }
        self.text.extend_from_slice(format!("{:.0} {}\n", Timestamp::now(), clean(text)).as_bytes());
        self.logged = 0;
    }

    fn output(&mut self, bytes: &[u8]) {
        let room = MAX_LOGGED.saturating_sub(self.logged);
        self.text.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if bytes.len() > room && room > 0 {
            self.text.extend_from_slice(b"\n(cut off here)\n");
        }
        self.logged += bytes.len();
    }
}

/// Cuts output into lines.
#[derive(Debug, Default)]
struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    fn take(&mut self, bytes: &[u8], say: &mut dyn FnMut(&str)) {
        for byte in bytes {
            if *byte == b'\n' || self.rest.len() >= MAX_LINE {
                self.end(say);
            }
            if *byte != b'\n' {
                self.rest.push(*byte);
            }
        }
    }

    fn end(&mut self, say: &mut dyn FnMut(&str)) {
        if !self.rest.is_empty() {
            say(String::from_utf8_lossy(&self.rest).trim_end());
            self.rest.clear();
        }
    }
}

#[cfg(test)]
mod tests;
