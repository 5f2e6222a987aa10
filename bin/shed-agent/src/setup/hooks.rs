//! The hooks of a repository: scripts that run as the user, in a login shell, in the workspace.

use std::{collections::BTreeMap, ffi::CString, io, time::Duration};

use shed_protocol::{Occasion, Step, StepEnd};

use super::{
    hook_state,
    mask::Masker,
    provision::{HookPath, Provision, is_name},
    run::{Program, Run, failure},
    tools_path, workspace,
};
use crate::{
    apart::apart,
    exec::plan::{self, Plan},
};

/// Stands before the name of a variable until the login shell has read its profile, which may set the name itself.
const LATER: &str = "SHED_LATER_";

/// What the login shell does: it gives variables their names after its profile, which sets some of them anew. Their values
/// come in the environment, because everybody can read a process's arguments. A script that cannot be executed (on a share
/// that refuses it) is read by the shell. The script takes the shell's place, so its exit code is true.
const RUN: &str = r#"for v; do eval "export $v=\"\${SHED_LATER_$v}\""; unset "SHED_LATER_$v"; done; unset v; set --; if [ -x "$0" ]; then exec "$0"; else exec "${BASH:-/bin/sh}" "$0"; fi"#;

/// How long the state of hooks may take to be read or written: an install may have kept the disk busy.
const DISK: Duration = Duration::from_secs(60);

impl Run {
    /// Runs a hook, or finds that there is nothing to run.
    pub(super) async fn hook(&self, step: Step, provision: &Provision) -> StepEnd {
        let hook = match step {
            Step::Install => &provision.install,
            Step::Startup => &provision.startup,
            Step::Shutdown => &provision.shutdown,
            Step::Clone | Step::Provision => &None,
        };
        let Some(hook) = hook else { return StepEnd::Skipped };
        let ran = match self.logs.clone() {
            Some(logs) => apart(DISK, move || hook_state::install_ran(&logs), drop).await.unwrap_or(false),
            None => false,
        };
        if step == Step::Install && ran {
            return StepEnd::Skipped;
        }
        if let (Step::Startup, Occasion::Start, Some(install), false) =
            (step, self.request.occasion, &provision.install, ran)
        {
            let script = self.workspace().join(install.as_str());
            let state = self.ground().logs.join(hook_state::FILE);
            self.warn(
                step,
                &format!(
                    "the startup hook is not run, because the install hook has not succeeded in this shed. Run {} in the shed by hand, and when it is done: echo install_ran=true > {}",
                    script.display(),
                    state.display()
                ),
            );
            return StepEnd::Skipped;
        }
        self.began(step);
        let what = format!("the {} hook, {},", step.as_str(), hook.as_str());
        let sha256 = match workspace::prepare(self.workspace(), hook, &self.user).await {
            Ok(sha256) => sha256,
            Err(error) => {
                let failure = failure(&format!("cannot run {what} from the workspace: {error}"));
                self.note_install(step, Err(failure.message.clone())).await;
                return StepEnd::Failed(failure);
            }
        };
        let program = Program {
            step,
            what: &what,
            plan: self.hook_plan(hook, provision),
            limit: provision.timeout,
            masker: Masker::default(),
        };
        match self.program(program).await {
            Ok(()) => {
                self.note_install(step, Ok(sha256)).await;
                if step == Step::Install
                    && let Err(error) = tools_path::keep(self).await
                {
                    self.warn(step, &format!("the PATH of installed tools is not kept: {error}"));
                }
                StepEnd::Done
            }
            Err(failure) => {
                self.note_install(step, Err(failure.message.clone())).await;
                StepEnd::Failed(failure)
            }
        }
    }

    /// Notes how install ended; `result` is the script's hash, or what went wrong.
    async fn note_install(&self, step: Step, result: Result<String, String>) {
        let Some(logs) = self.logs.clone().filter(|_| step == Step::Install) else { return };
        let note = move || match result {
            Ok(sha256) => hook_state::succeeded(&logs, &sha256),
            Err(error) => hook_state::failed(&logs, &error),
        };
        if let Err(error) = apart(DISK, note, drop).await.map_err(io::Error::from).flatten() {
            self.warn(step, &format!("that it ran is not kept: {error}"));
        }
    }

    fn hook_plan(&self, hook: &HookPath, provision: &Provision) -> Plan {
        let script = self.workspace().join(hook.as_str()).display().to_string();
        let requested = self.request.env.iter().filter_map(|entry| entry.split_once('='));
        let requested = requested.filter(|(name, _)| is_exportable(name));
        let of_file = provision.env.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let own = self.own_variables();
        let own = own.iter().filter_map(|entry| entry.split_once('='));
        // Of two values the later one holds.
        let exported: BTreeMap<&str, &str> = requested.chain(of_file).chain(own).collect();
        let mut words = vec!["-c", RUN, &script];
        words.extend(exported.keys());
        let mut plan = self.shell_plan(&words);
        for (name, value) in exported {
            plan.variables.insert(format!("{LATER}{name}"), value.to_owned());
        }
        plan
    }

    /// A login shell of the user in the workspace, with these words behind those that make it one.
    pub(super) fn shell_plan(&self, words: &[&str]) -> Plan {
        let shell = plan::shell();
        let login = if shell.ends_with("bash") { "--login" } else { "-l" };
        let mut variables = plan::variables(&self.request.env, false, &self.user, &self.state);
        for entry in self.own_variables() {
            if let Some((name, value)) = entry.split_once('=') {
                variables.insert(name.to_owned(), value.to_owned());
            }
        }
        let words = std::iter::once(login).chain(words.iter().copied()).map(str::to_owned);
        Plan {
            program: shell.into(),
            arg0: shell.to_owned(),
            args: words.collect(),
            variables,
            user: self.user.clone(),
            directories: CString::new(self.workspace().as_os_str().as_encoded_bytes()).into_iter().collect(),
            terminal: None,
        }
    }

    /// What no file and no request changes (spec D).
    pub(super) fn own_variables(&self) -> Vec<String> {
        let name = self.state.name().map(|name| format!("SHED_NAME={name}"));
        let workspace = format!("SHED_WORKSPACE={}", self.workspace().display());
        ["SHED_CONTAINER=true".to_owned(), workspace].into_iter().chain(name).collect()
    }
}

/// Whether a shell can export a variable of the request, and may: who the user is nobody else says (spec B.3).
fn is_exportable(name: &str) -> bool {
    is_name(name) && !matches!(name, "HOME" | "USER" | "LOGNAME")
}
