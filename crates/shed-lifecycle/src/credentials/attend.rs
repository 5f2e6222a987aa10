//! Tells a guest what to watch whenever its channel is opened, and takes in what it says was written.
//!
//! What a guest says is checked here as far as names can be: a credential that it may change, files that could be there.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use shed_backend::Vm;
use shed_files::EntryPath;
use shed_protocol::{
    CredentialChanged, CredentialsWatched, Envelope, EnvelopeKind, SYSTEM_CREDENTIALS, WatchCredentials,
    WatchedCredential, credentials::MAX_CHANGED, timeouts,
};
use shed_types::{CredentialName, ShedName};
use tokio::{
    sync::{broadcast::error::RecvError, watch},
    task::JoinSet,
    time::sleep,
};

use super::{
    follower::Follower,
    mail::{Names, Work},
    report::Reports,
    source::Kind,
};
use crate::{channel::ChannelError, context::blocking, guest_channel::GuestChannel, guest_command::quote};

/// Pause before a guest is told once more what to watch that did not answer although its channel is open.
const AGAIN: Duration = Duration::from_secs(10);

/// Most warnings that are taken from one answer.
const MAX_WARNINGS: usize = 10;

/// One running shed with its writable credentials.
#[derive(Debug)]
pub(super) struct Attended {
    pub(super) shed: ShedName,
    pub(super) followers: BTreeMap<CredentialName, Arc<Follower>>,
    pub(super) reports: Arc<Reports>,
}

impl Attended {
    /// Goes on until the machine ends or this is dropped. `sources` changes when a source becomes something else.
    pub(super) async fn run(
        self: Arc<Self>,
        vm: Arc<dyn Vm>,
        channel: GuestChannel,
        sources: watch::Receiver<u64>,
    ) {
        let mut work = JoinSet::new();
        for follower in self.followers.values() {
            let _task = work.spawn(Arc::clone(follower).run(Arc::clone(&vm), channel.clone()));
        }
        tokio::select! {
            () = vm.ended() => {}
            () = self.listen(&channel, sources) => {}
        }
    }

    async fn listen(&self, channel: &GuestChannel, mut sources: watch::Receiver<u64>) {
        let (mut openings, mut events) = (channel.openings(), channel.events());
        let mut open = *openings.borrow_and_update() > 0;
        loop {
            if open {
                match self.watch(channel).await {
                    Ok(()) => open = false,
                    // The next opening comes.
                    Err(
                        ChannelError::Closed
                        | ChannelError::Connect(_)
                        | ChannelError::Silent { .. }
                        | ChannelError::Frame(_),
                    ) => open = false,
                    Err(
                        error @ (ChannelError::NoReply { .. }
                        | ChannelError::Reply { .. }
                        | ChannelError::Refused { .. }),
                    ) => {
                        self.report(None, &format!("changes in the shed are not seen: {error}"));
                    }
                }
            }
            tokio::select! {
                changed = openings.changed() => match changed {
                    Ok(()) => {
                        open = true;
                        // What came before is told again, with other numbers if the agent has started anew.
                        events = channel.events();
                        self.followers.values().for_each(|follower| follower.mail.opened());
                    }
                    // The keeper has gone, and with it the machine.
                    Err(_) => return,
                },
                changed = sources.changed() => open |= changed.is_ok(),
                event = events.recv() => match event {
                    Ok(event) => self.event(&event),
                    Err(RecvError::Lagged(_)) => self.survey(),
                    Err(RecvError::Closed) => return,
                },
                () = sleep(AGAIN), if open => {}
            }
        }
    }

    /// Tells the guest what to watch, and takes in what it had not told.
    pub(super) async fn watch(&self, channel: &GuestChannel) -> Result<(), ChannelError> {
        let entries: Vec<_> = self.followers.values().map(|follower| Arc::clone(&follower.entry)).collect();
        let watched = blocking(move || {
            let kinds = entries.iter().map(|entry| (entry, entry.kind()));
            let there = kinds.filter(|(_, kind)| *kind != Kind::Missing);
            there
                .map(|(entry, kind)| WatchedCredential {
                    name: entry.name.to_string(),
                    target: entry.credential.target.clone(),
                    file: kind == Kind::File,
                    excludes: entry.credential.exclude.clone(),
                })
                .collect()
        });
        let asked = WatchCredentials { credentials: watched.await };
        let answer: CredentialsWatched =
            channel.request(SYSTEM_CREDENTIALS, &asked, timeouts::SYSTEM_REPLY).await?;
        for warning in answer.warnings.iter().take(MAX_WARNINGS) {
            self.report(None, &format!("the shed says: {}", quote(warning.as_bytes())));
        }
        // Each credential once; a guest that repeats itself gains nothing.
        for changed in answer.changed.into_iter().take(self.followers.len()) {
            self.changed(changed);
        }
        self.followers.values().for_each(|follower| follower.watched());
        Ok(())
    }

    fn event(&self, event: &Envelope) {
        if event.kind == EnvelopeKind::Event && event.namespace == SYSTEM_CREDENTIALS {
            match event.parse::<CredentialChanged>() {
                Ok(changed) => self.changed(changed),
                Err(_) => self.report(None, "the shed sent a message about credentials that cannot be read"),
            }
        }
    }

    fn changed(&self, changed: CredentialChanged) {
        let CredentialChanged { credential, files, more, serial } = changed;
        let Some(follower) =
            credential.parse().ok().and_then(|name: CredentialName| self.followers.get(&name))
        else {
            let name = quote(credential.as_bytes());
            return self.report(
                None,
                &format!("the shed wants to change {name:?}, which it must not, or which is none"),
            );
        };
        let mut pull = Names::default();
        let mut refused = 0_usize;
        if more || files.len() > MAX_CHANGED {
            pull = Names::All;
        } else {
            for name in files {
                let plain = EntryPath::parse(name.as_bytes())
                    .is_ok_and(|path| path.as_path().as_os_str() == name.as_str());
                if plain && !name.is_empty() && !name.chars().any(char::is_control) {
                    pull.add(name);
                } else {
                    refused += 1;
                }
            }
        }
        if refused > 0 {
            let text = format!("the shed named {refused} files that cannot be in it");
            self.report(Some(&follower.entry.name), &text);
        }
        follower.mail.leave(Work { pull, serial: Some(serial), ..Work::default() });
    }

    fn survey(&self) {
        for follower in self.followers.values() {
            follower.mail.leave(Work { pull: Names::All, ..Work::default() });
        }
    }

    fn report(&self, credential: Option<&CredentialName>, text: &str) {
        self.reports.add(&self.shed, credential, text);
    }
}
