//! `shed-host-agent`: runs where the user's keys and credentials are, and answers sheds that ask for their use.
//!
//! It connects to servers as a listener of the plugin bus ([`bus`]); nothing connects to it but the user's own
//! `shed-host-agent status` and `approvals` ([`control`]). Each namespace has an extension ([`answer::Extension`]): [`ssh`], [`aws`], [`docker`].
//! Before a key signs a person may be asked ([`approval`]); what was given is written down ([`audit`]). Secrets are in
//! payloads only, never in logs, errors or debug texts, and the process leaves no core file ([`shed_process::leave_no_core`]).

pub mod answer;
pub mod approval;
pub mod audit;
pub mod aws;
pub mod bus;
pub mod config;
pub mod control;
pub mod docker;
pub mod extensions;
pub mod places;
pub mod run;
pub mod ssh;
mod system;
