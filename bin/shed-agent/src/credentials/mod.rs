//! Tells the host which files of writable credentials were written here (spec E.2).
//!
//! The message channel brings what is to be watched, and what the host has taken. The files themselves go over the file
//! service, when the host asks for them. What is written while no host listens is kept and told to the next one.

mod ledger;
mod tree;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use shed_files::Excludes;
use shed_protocol::{
    CredentialChanged, CredentialTaken, CredentialsWatched, Envelope, SYSTEM_CREDENTIALS, WatchCredentials,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{Notify, mpsc, oneshot},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{log, messages::outbox::Outbox, watched_fd};

use ledger::Ledger;
use tree::{Note, Spec, Tree};

/// From the first write to the message (spec E.2): a tool writes more than one file.
const DEBOUNCE: Duration = Duration::from_millis(500);

/// Between two looks at what the kernel has to tell, so that a flood of writes costs little.
const BREATH: Duration = Duration::from_millis(50);

/// Turns of reading that somebody waits for who asks for a look.
const TURNS: usize = 16;

/// Most credentials that are watched; a server has a handful.
const MAX_CREDENTIALS: usize = 256;

/// Most bytes of names that one answer has, so that it fits a frame of 1 MiB.
const MAX_ANSWER: usize = 512 << 10;

/// What is watched, and what the host has not taken yet. One for each agent process.
#[derive(Debug, Default)]
pub(crate) struct Watcher {
    book: Arc<Book>,
    /// What the host has asked for last, and the task that does it. Held while it is changed.
    present: tokio::sync::Mutex<Option<Present>>,
}

#[derive(Debug)]
struct Present {
    asked: WatchCredentials,
    home: String,
    warnings: Vec<String>,
    /// Has the task read what the kernel has to tell, and say when that is done.
    look: mpsc::Sender<oneshot::Sender<()>>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug, Default)]
struct Book {
    ledgers: Mutex<Ledgers>,
    taken: Notify,
}

#[derive(Debug, Default)]
struct Ledgers {
    of: BTreeMap<String, Ledger>,
    serial: u64,
}

impl Book {
    fn lock(&self) -> MutexGuard<'_, Ledgers> {
        // A ledger is whole at every point where a holder could die.
        self.ledgers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, specs: &[Spec], notes: Vec<Note>) {
        let mut ledgers = self.lock();
        for (spec, name) in notes {
            if let Some(ledger) = ledgers.of.get_mut(&specs[spec].name) {
                ledger.note(name);
            }
        }
    }

    fn tell(&self, outbox: &Outbox) {
        let Ledgers { of, serial } = &mut *self.lock();
        for (name, ledger) in of {
            if let Some(message) = ledger.tell(name, serial) {
                outbox.post(&Envelope::event(SYSTEM_CREDENTIALS, &message));
            }
        }
    }

    fn tell_again(&self) -> Vec<CredentialChanged> {
        let Ledgers { of, serial } = &mut *self.lock();
        let mut room = MAX_ANSWER;
        let told = of.iter_mut().filter_map(|(name, ledger)| ledger.tell_again(name, serial));
        told.map(|mut message| {
            let bytes: usize = message.files.iter().map(|name| json_length(name) + 1).sum();
            if bytes > room {
                (message.files, message.more) = (Vec::new(), true);
            } else {
                room -= bytes;
            }
            message
        })
        .collect()
    }
}

/// Bytes of a text in JSON, with its quotes: most characters are written as they are, and the longest take six bytes.
fn json_length(text: &str) -> usize {
    let of = |c: char| match c {
        '"' | '\\' | '\u{8}' | '\u{c}' | '\n' | '\r' | '\t' => 2,
        '\0'..='\u{1f}' => 6,
        c => c.len_utf8(),
    };
    text.chars().map(of).sum::<usize>() + 2
}

impl Watcher {
    /// Watches this instead of what was watched before, and returns what the host has not taken yet.
    pub(crate) async fn watch(
        &self,
        asked: WatchCredentials,
        home: String,
        outbox: &Arc<Outbox>,
    ) -> CredentialsWatched {
        let mut present = self.present.lock().await;
        if let Some(same) = present.as_ref().filter(|present| present.asked == asked && present.home == home)
        {
            same.look().await;
            return CredentialsWatched { changed: self.book.tell_again(), warnings: same.warnings.clone() };
        }
        let mut warnings = Vec::new();
        let specs = specs(&asked, &home, &mut warnings);
        {
            let mut ledgers = self.book.lock();
            let before = std::mem::take(&mut ledgers.of);
            let old = present.as_ref().map(|present| &present.asked);
            for (name, ledger) in before {
                let of =
                    |asked: &WatchCredentials| asked.credentials.iter().find(|one| one.name == name).cloned();
                if of(&asked).is_some() && old.and_then(of) == of(&asked) {
                    let _none = ledgers.of.insert(name, ledger);
                }
            }
            for spec in &specs {
                let _ledger = ledgers.of.entry(spec.name.clone()).or_default();
            }
        }
        // The old watches stay until the new ones are there, so nothing is missed between them.
        let placed = tokio::task::spawn_blocking(move || Tree::place(specs)).await;
        if let Some(before) = present.take() {
            before.look().await;
        }
        match placed {
            Ok(Ok(mut tree)) => {
                warnings.append(&mut tree.take_warnings());
                match self.follow(tree, outbox) {
                    Ok((look, task)) => {
                        let warnings = warnings.clone();
                        *present = Some(Present { asked, home, warnings, look, _task: task });
                    }
                    Err(error) => warnings.push(format!("nothing is watched: {error}")),
                }
            }
            Ok(Err(error)) => warnings.push(format!("nothing is watched: {error}")),
            Err(_panic) => warnings.push("nothing is watched: the agent has a bug; see its log".to_owned()),
        }
        CredentialsWatched { changed: self.book.tell_again(), warnings }
    }

    /// Notes that the host has what a message named.
    pub(crate) fn taken(&self, taken: &CredentialTaken) {
        if let Some(ledger) = self.book.lock().of.get_mut(&taken.credential) {
            ledger.taken(taken.serial);
        }
        self.book.taken.notify_one();
    }

    fn follow(
        &self,
        tree: Tree,
        outbox: &Arc<Outbox>,
    ) -> std::io::Result<(mpsc::Sender<oneshot::Sender<()>>, AbortOnDropHandle<()>)> {
        let readable = watched_fd::watch(tree.descriptor().try_clone()?, Interest::READABLE)?;
        let (look, looks) = mpsc::channel(1);
        let (book, outbox) = (Arc::clone(&self.book), Arc::clone(outbox));
        let task = tokio::spawn(async move { follow(tree, readable, looks, &book, &outbox).await });
        Ok((look, AbortOnDropHandle::new(task)))
    }
}

impl Present {
    async fn look(&self) {
        let (done, looked) = oneshot::channel();
        if self.look.send(done).await.is_ok() {
            // A task that has ended has told what it knew.
            let _ended = looked.await;
        }
    }
}

fn specs(asked: &WatchCredentials, home: &str, warnings: &mut Vec<String>) -> Vec<Spec> {
    let mut specs = Vec::new();
    for one in asked.credentials.iter().take(MAX_CREDENTIALS) {
        match Excludes::parse(&one.excludes) {
            Ok(excludes) => specs.push(Spec {
                name: one.name.clone(),
                target: PathBuf::from(one.target.below_home(home)),
                file: one.file,
                excludes,
            }),
            Err(error) => warnings.push(format!("{}: it is not watched: {error}", one.name)),
        }
    }
    specs
}

/// Reads what the kernel tells, and tells the host of it, until nobody can ask for a look any more.
async fn follow(
    mut tree: Tree,
    readable: AsyncFd<std::os::fd::OwnedFd>,
    mut looks: mpsc::Receiver<oneshot::Sender<()>>,
    book: &Book,
    outbox: &Outbox,
) {
    let mut due = None;
    // Whether there was more to read than one turn reads.
    let mut more = false;
    loop {
        let asked = tokio::select! {
            () = sleep(BREATH), if more => None,
            ready = readable.readable() => match ready {
                Ok(mut ready) => {
                    // Before the read: what comes behind it makes it ready again.
                    ready.clear_ready();
                    sleep(BREATH).await;
                    None
                }
                Err(error) => return log::failed(&error),
            },
            asked = looks.recv() => match asked {
                Some(done) => Some(done),
                None => return,
            },
            () = book.taken.notified() => {
                due.get_or_insert_with(Instant::now);
                continue;
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                due = None;
                book.tell(outbox);
                continue;
            }
        };
        // By turns, between which this task can be ended. Whoever asks for a look waits for some of them, and not for the
        // end of a flood.
        for _ in 0..if asked.is_some() { TURNS } else { 1 } {
            let read = tokio::task::spawn_blocking(move || {
                let read = tree.read();
                (tree, read)
            });
            let Ok((same, (notes, drained))) = read.await else { return };
            (tree, more) = (same, !drained);
            tree.take_warnings().iter().for_each(|warning| log::info(warning));
            if !notes.is_empty() {
                book.note(tree.specs(), notes);
                due.get_or_insert_with(|| Instant::now() + DEBOUNCE);
            }
            if drained {
                break;
            }
        }
        if let Some(done) = asked {
            let _gone = done.send(());
        }
    }
}

#[cfg(test)]
mod tests;
