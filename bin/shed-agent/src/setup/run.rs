//! One setup: its steps in order, each of which may be the last.

use std::{io, path::Path, sync::Arc, time::Duration};

use shed_protocol::{Failure, Occasion, SetupEvent, SetupRequest, Step, StepEnd};
use shed_types::GoDuration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Ground, announce,
    job::{self, Ended, Ending},
    live::Live,
    log_dir::LogDir,
    mask::Masker,
    output::Output,
    provision::{self, Provision},
    text::sentence,
    workspace::{self, PROVISION},
};
use crate::{
    apart::apart,
    exec::{
        plan::Plan,
        users::{self, User},
    },
    log,
    state::State,
};

/// How long opening the directory of logs, or a file in it, may take. It is the user's, and may be any file system.
const FILES: Duration = Duration::from_secs(30);

/// A setup that runs.
pub(super) struct Run {
    pub(super) request: SetupRequest,
    pub(super) state: Arc<State>,
    pub(super) user: User,
    /// Nothing when it cannot be used, which costs the logs and nothing else.
    pub(super) logs: Option<Arc<LogDir>>,
    pub(super) stop: CancellationToken,
    live: Arc<Live>,
    deadline: Option<Instant>,
}

/// A program of a step.
pub(super) struct Program<'a> {
    pub(super) step: Step,
    /// What it is, for messages.
    pub(super) what: &'a str,
    pub(super) plan: Plan,
    /// How long it may take, if the setup's own limit does not end it before.
    pub(super) limit: Duration,
    pub(super) masker: Masker,
}

impl Run {
    pub(super) fn new(
        request: SetupRequest,
        state: Arc<State>,
        live: Arc<Live>,
        stop: CancellationToken,
        deadline: Option<Instant>,
    ) -> Self {
        let user = state.setups.ground.user.clone().unwrap_or_else(|| {
            let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
            let group = std::fs::read_to_string("/etc/group").unwrap_or_default();
            users::default(&passwd, &group, &state.image().user)
        });
        Self { request, state, user, logs: None, stop, live, deadline }
    }

    pub(super) fn ground(&self) -> &Ground {
        &self.state.setups.ground
    }

    pub(super) fn workspace(&self) -> &Path {
        &self.ground().workspace
    }

    /// Takes the steps, until one fails.
    pub(super) async fn run(mut self) {
        let steps: &[Step] = match (self.request.occasion, &self.request.clone) {
            (Occasion::Create, Some(_)) => &[Step::Clone, Step::Provision, Step::Install, Step::Startup],
            (Occasion::Create, None) => &[Step::Provision, Step::Install, Step::Startup],
            (Occasion::Start, _) => &[Step::Provision, Step::Startup],
            (Occasion::Stop, _) => &[Step::Provision, Step::Shutdown],
        };
        let occasion = self.request.occasion;
        self.state.setups.reports.begin(occasion, steps[0]);
        announce::changed(&self.state);
        let (mut provision, mut opened) = (None, false);
        for (at, &step) in steps.iter().enumerate() {
            let end = if self.stop.is_cancelled() {
                StepEnd::Failed(failure("the shed was stopped before it began"))
            } else {
                // A shed without a project has nothing to log, and is ready the sooner.
                if !opened && self.has_program(step, provision.as_ref()) {
                    opened = true;
                    self.open_logs(step).await;
                }
                self.step(step, &mut provision).await
            };
            let failed = matches!(end, StepEnd::Failed(_));
            let next = steps.get(at + 1).copied().filter(|_| !failed);
            self.state.setups.reports.ended(step, &end, next);
            if let StepEnd::Failed(failure) = &end {
                log::info(&format!("setup, {}: {}", step.as_str(), failure.message));
            }
            if end != StepEnd::Skipped {
                announce::ended(&self.state, occasion, step, &end);
            }
            announce::changed(&self.state);
            self.live.event(&SetupEvent::Ended { step, end });
            if failed {
                return;
            }
        }
    }

    /// Whether a step may run programs, whose output is kept.
    fn has_program(&self, step: Step, provision: Option<&Provision>) -> bool {
        match step {
            Step::Clone => self.request.clone.is_some(),
            Step::Provision => false,
            Step::Install | Step::Startup | Step::Shutdown => provision.is_some(),
        }
    }

    async fn open_logs(&mut self, step: Step) {
        let (place, user) = (self.ground().logs.clone(), self.user.clone());
        let opened = apart(FILES, move || LogDir::open(&place, &user), drop).await;
        match opened.map_err(io::Error::from).flatten() {
            Ok(logs) => self.logs = Some(Arc::new(logs)),
            Err(error) => self.warn(step, &format!("its logs are not kept: {error}")),
        }
    }

    async fn step(&mut self, step: Step, provision: &mut Option<Provision>) -> StepEnd {
        match step {
            Step::Clone => match self.request.clone.clone() {
                Some(clone) => self.clone(&clone).await,
                None => StepEnd::Skipped,
            },
            Step::Provision => self.provision(provision).await,
            Step::Install | Step::Startup | Step::Shutdown => match provision {
                Some(provision) => self.hook(step, provision).await,
                None => StepEnd::Skipped,
            },
        }
    }

    async fn provision(&self, found: &mut Option<Provision>) -> StepEnd {
        if !self.request.hooks {
            return StepEnd::Skipped;
        }
        self.began(Step::Provision);
        match workspace::read_provision(self.workspace(), &self.user).await {
            Ok(None) => StepEnd::Skipped,
            Ok(Some(file)) => match provision::parse(&file) {
                Ok((provision, warnings)) => {
                    for warning in warnings {
                        self.warn(Step::Provision, &format!("{PROVISION}: {warning}"));
                    }
                    *found = Some(provision);
                    StepEnd::Done
                }
                Err(error) => StepEnd::Failed(failure(&format!("{PROVISION} is not valid: {error}"))),
            },
            Err(error) => StepEnd::Failed(failure(&format!("cannot read {PROVISION}: {error}"))),
        }
    }

    /// Tells that a step begins.
    pub(super) fn began(&self, step: Step) {
        self.live.event(&SetupEvent::Began { step });
    }

    /// Tells of something odd.
    pub(super) fn warn(&self, step: Step, message: &str) {
        let message = sentence(message);
        log::info(&format!("setup, {}: {message}", step.as_str()));
        self.live.event(&SetupEvent::Warning { step, message });
    }

    /// Runs a program of a step, with its output to the host and to the step's log.
    pub(super) async fn program(&self, program: Program<'_>) -> Result<(), Failure> {
        let Program { step, what, plan, limit, masker } = program;
        let name = format!("{}.log", step.as_str());
        let file = match self.logs.clone() {
            Some(logs) => {
                let name = name.clone();
                let created = apart(FILES, move || logs.create(&name), drop).await;
                Some(created.map_err(io::Error::from).flatten())
            }
            None => None,
        };
        let (file, log) = match file {
            Some(Ok(file)) => (Some(file), self.logs.as_ref().map(|logs| logs.path_of(&name))),
            Some(Err(error)) => {
                self.warn(step, &format!("{name} is not kept: {error}"));
                (None, None)
            }
            None => (None, None),
        };
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let limit = left.map_or(limit, |left| left.min(limit));
        if limit.is_zero() {
            let message = format!("no time was left for {what}");
            return Err(Failure { timed_out: true, ..failure(&message) });
        }
        let output = Output::new(Arc::clone(&self.live), file, masker);
        let ended = job::run(plan, limit, &self.stop, output).await;
        let Ended { ending, last_lines, log_trouble } = match ended {
            Ok(ended) => ended,
            Err(error) => return Err(failure(&format!("cannot run {what}: {error}"))),
        };
        if let Some(trouble) = log_trouble {
            self.warn(step, &format!("{name} is not whole: {trouble}"));
        }
        let (message, code, timed_out) = match ending {
            Ending::Exited(0) => return Ok(()),
            Ending::Exited(code) => (format!("{what} ended with exit code {code}"), Some(code), false),
            Ending::Signalled(signal) => (format!("{what} was ended by signal {signal}"), None, false),
            Ending::TimedOut => {
                let limit = GoDuration::saturating_from(rounded(limit));
                (format!("{what} took longer than {limit} and was ended"), None, true)
            }
            Ending::Stopped => (format!("{what} was ended, because the shed is being stopped"), None, false),
        };
        Err(Failure { message: sentence(&message), code, timed_out, last_lines, log })
    }
}

/// What is left of a limit, as one would have said it.
fn rounded(limit: Duration) -> Duration {
    let unit = if limit < Duration::from_secs(10) { 100 } else { 1000 };
    let millis = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(millis.div_ceil(unit).saturating_mul(unit))
}

/// A failure of which there is no more to say.
pub(super) fn failure(message: &str) -> Failure {
    Failure { message: sentence(message), code: None, timed_out: false, last_lines: Vec::new(), log: None }
}
