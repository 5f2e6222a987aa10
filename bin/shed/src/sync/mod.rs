//! Copies files of this machine into a shed, as `~/.shed/sync.yaml` says (spec H.2).
//!
//! [`file`] reads that file and [`include`] its patterns, [`plan`] finds out what it means on this machine now, [`transfer`] sends a tree, [`guest`]
//! runs commands in the shed, and [`run`] does one feature after the other. `commands/sync.rs` and `commands/create.rs` call
//! this; what is printed is theirs, except for the words of commands while they run.

mod file;
mod guest;
mod include;
mod plan;
mod run;
mod transfer;

pub(crate) use file::{FeatureName, ProfileName, SyncFile, SyncFileError};
pub(crate) use plan::{PathPlan, Plan, Source, plan};
pub(crate) use run::{FeatureReport, Place, Report, run};
