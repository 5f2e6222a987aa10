//! Makes records and machines agree when a server starts, whatever ended the one before.
//!
//! A record says what was intended last. Here each intention is compared with what runs: creates are undone,
//! deletes finished, machines adopted, and what is dead is recorded as stopped. Pure choice in [`plan`]; the rest acts.

use std::{collections::BTreeSet, sync::Arc};

use futures::{StreamExt, stream};
use shed_backend::Vm;
use shed_state::{Entry, RecordStatus, ShedRecord};
use shed_types::{ShedName, error_chain};

use crate::{
    OpenShedsError,
    context::{Context, FileLane, identity},
    driver::{self, Beginning},
};

/// Sheds looked at side by side; each may wait for a process to die.
const PARALLEL: usize = 16;

/// What a start of the server finds.
pub(crate) struct Found {
    /// Sheds and how their drivers begin.
    pub sheds: Vec<(ShedRecord, Beginning)>,
    /// Names whose records cannot be read.
    pub unreadable: BTreeSet<ShedName>,
}

/// What to do with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    /// End its machine, if any, and remove its files.
    Remove,
    /// Serve the running machine.
    Adopt,
    /// Wait for the running machine's agent.
    ResumeBoot,
    /// Go on bringing the running machine down.
    ResumeStop,
    /// Record that it is stopped.
    Stop,
    /// It is stopped, and the record says so.
    Keep,
}

/// Whether a record's machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alive {
    Yes,
    No,
}

const fn plan(status: RecordStatus, alive: Alive) -> Plan {
    match (status, alive) {
        (RecordStatus::Creating | RecordStatus::Deleting, Alive::Yes | Alive::No) => Plan::Remove,
        (RecordStatus::Running, Alive::Yes) => Plan::Adopt,
        (RecordStatus::Starting, Alive::Yes) => Plan::ResumeBoot,
        (RecordStatus::Stopping, Alive::Yes) => Plan::ResumeStop,
        (RecordStatus::Running | RecordStatus::Starting | RecordStatus::Stopping, Alive::No) => Plan::Stop,
        // A record says `stopped` only after its machine was shown dead, and names none.
        (RecordStatus::Stopped, Alive::Yes | Alive::No) => Plan::Keep,
    }
}

/// Looks at every directory and acts.
pub(crate) async fn reconcile(context: &Arc<Context>) -> Result<Found, OpenShedsError> {
    let entries = context
        .instances
        .scan()
        .map_err(|error| OpenShedsError::List { path: error.path, source: error.source })?;
    let mut found = Found { sheds: Vec::new(), unreadable: BTreeSet::new() };
    let mut records = Vec::new();
    for entry in entries {
        match entry {
            Entry::Shed(record) if record.backend == context.backend.kind() => records.push(*record),
            Entry::Shed(record) => {
                tracing::warn!(shed = %record.name, backend = %record.backend, "this server does not run the shed's backend; it is left alone");
                let _new = found.unreadable.insert(record.name);
            }
            Entry::Husk(shed) => {
                tracing::info!(%shed, "removing what a create or delete left that was cut short");
                if let Err((path, error)) = context.instances.remove(&shed) {
                    tracing::error!(%path, error = %error, "it could not be removed");
                    let _new = found.unreadable.insert(shed);
                }
            }
            Entry::Unreadable(shed, error) => {
                tracing::error!(%shed, error = %error, "this shed's record cannot be used; it is left alone and not shown");
                let _new = found.unreadable.insert(shed);
            }
        }
    }
    let outcomes: Vec<_> = stream::iter(records)
        .map(|record| settle(context, record))
        .buffer_unordered(PARALLEL)
        .collect()
        .await;
    found.sheds = outcomes.into_iter().flatten().collect();
    let names = found.sheds.iter().map(|(record, _)| record.name.clone());
    let names = names.chain(found.unreadable.iter().cloned()).collect();
    if let Err(error) = context.backend.remove_strays(&names).await {
        tracing::warn!(error = %error_chain(&error), "what sheds that are gone have left on this host stays for now");
    }
    Ok(found)
}

/// Puts one shed into a true state. Returns nothing for one that is gone.
async fn settle(context: &Arc<Context>, mut record: ShedRecord) -> Option<(ShedRecord, Beginning)> {
    if let Err((path, error)) = context.instances.sweep(&record.name) {
        tracing::warn!(%path, error = %error, "what a killed write left could not be removed");
    }
    let vm = match find(context, &record).await {
        Ok(vm) => vm,
        Err(reason) => {
            tracing::error!(shed = %record.name, %reason, "the shed's machine cannot be taken over");
            return Some((record, Beginning::Broken(reason)));
        }
    };
    let alive = if vm.is_some() { Alive::Yes } else { Alive::No };
    let plan = plan(record.status, alive);
    tracing::info!(shed = %record.name, status = ?record.status, ?alive, ?plan, "found a shed");
    match (plan, vm) {
        (Plan::Remove, _) => {
            match driver::delete(Arc::clone(context), FileLane::default(), record.clone()).await {
                Ok(()) => None,
                Err(error) => Some((record, Beginning::Broken(error.to_string()))),
            }
        }
        (Plan::Adopt, Some(vm)) => Some((record, Beginning::Adopt(vm))),
        (Plan::ResumeBoot, Some(vm)) => Some((record, Beginning::ResumeBoot(vm))),
        (Plan::ResumeStop, Some(vm)) => Some((record, Beginning::ResumeStop(vm))),
        (Plan::Stop | Plan::Adopt | Plan::ResumeBoot | Plan::ResumeStop, _) => {
            if let Err(error) = context.ensure_no_vm(&record).await {
                return Some((record, Beginning::Broken(error.to_string())));
            }
            record.status = RecordStatus::Stopped;
            record.vm = None;
            if let Err(error) = context.instances.write(&record) {
                tracing::error!(shed = %record.name, error = %error, "the record could not be written");
            }
            Some(stopped(context, record))
        }
        (Plan::Keep, _) => Some(stopped(context, record)),
    }
}

async fn find(context: &Context, record: &ShedRecord) -> Result<Option<Arc<dyn Vm>>, String> {
    let Some(vm) = &record.vm else { return Ok(None) };
    let spec = context.spec(record, vm);
    context.backend.find(&spec, identity(vm).as_ref()).await.map_err(|error| error.to_string())
}

fn stopped(context: &Context, record: ShedRecord) -> (ShedRecord, Beginning) {
    match driver::unusable(&context.files(&record.name)) {
        None => (record, Beginning::Stopped),
        Some(reason) => (record, Beginning::Broken(reason)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_made_and_half_deleted_sheds_go_and_no_other_does() {
        use RecordStatus::{Creating, Deleting, Running, Starting, Stopped, Stopping};
        for status in [Creating, Starting, Running, Stopping, Stopped, Deleting] {
            for alive in [Alive::Yes, Alive::No] {
                let goes = matches!(status, Creating | Deleting);
                assert_eq!(plan(status, alive) == Plan::Remove, goes, "{status:?} {alive:?}");
            }
        }
    }

    #[test]
    fn a_running_machine_is_never_forgotten() {
        use RecordStatus::{Running, Starting, Stopping};
        for status in [Starting, Running, Stopping] {
            assert!(!matches!(plan(status, Alive::Yes), Plan::Stop | Plan::Keep), "{status:?}");
        }
    }
}
