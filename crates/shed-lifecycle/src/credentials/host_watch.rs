//! Watches the sources of writable credentials on the host, one watcher for each, for all sheds together.
//!
//! A source may come, go, and be replaced by another with its name, as editors do with single files. So the nearest
//! directory above it that is there is watched as well, and when something happens there to the source or what leads to it,
//! the watch is put where the source is now. Nothing is missed between two watches: after a new one all files are compared.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use notify::{
    Config, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};
use shed_files::is_temporary;
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};

use super::{
    follower::Followers,
    mail::Names,
    source::{Entry, Kind},
};
use crate::context::blocking;

/// From the first change to the push (spec E.2): a tool writes more than one file.
const DEBOUNCE: Duration = Duration::from_millis(500);

/// Pause before a source is watched once more that could not be.
const AGAIN: Duration = Duration::from_secs(30);

/// Watches one source until it is dropped.
pub(super) async fn watch_source(entry: Arc<Entry>, followers: Arc<Followers>, kinds: watch::Sender<u64>) {
    let mut before = None;
    let mut complained = false;
    loop {
        let heard = Arc::new(Heard::default());
        let (of, to) = (Arc::clone(&entry), Arc::clone(&heard));
        let placed = blocking(move || place(&of, to)).await;
        let (watcher, place) = match placed {
            Ok(placed) => placed,
            Err(error) => {
                if !complained {
                    tracing::warn!(credential = %entry.name, %error, "its source is not watched; changes there reach sheds when they start");
                }
                complained = true;
                sleep(AGAIN).await;
                continue;
            }
        };
        complained = false;
        if before.as_ref() != Some(&place.is) {
            let became = before.replace(place.is.clone());
            if became.is_some() {
                kinds.send_modify(|times| *times += 1);
            }
        }
        // What changed while nothing was watched.
        followers.tell(&Names::All);
        loop {
            heard.something.notified().await;
            sleep(DEBOUNCE).await;
            let (names, moved) = heard.take();
            if !names.is_empty() {
                followers.tell(&names);
            }
            let of = Arc::clone(&entry);
            if moved && blocking(move || identity(&of)).await != place.is {
                break;
            }
        }
        drop(watcher);
    }
}

/// What a source is: its kind, its real path, and which directory it or its file is in.
type Is = (Kind, Option<PathBuf>, Option<(u64, u64)>);

/// What the watcher has heard.
#[derive(Debug, Default)]
struct Heard {
    gathered: Mutex<(Names, bool)>,
    something: Notify,
}

impl Heard {
    fn add(&self, name: Option<String>, moved: bool) {
        {
            let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(name) = name {
                gathered.0.add(name);
            }
            gathered.1 |= moved;
        }
        self.something.notify_one();
    }

    fn all(&self) {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner).0 = Names::All;
        self.something.notify_one();
    }

    fn take(&self) -> (Names, bool) {
        std::mem::take(&mut *self.gathered.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Where a source is watched.
#[derive(Debug, Clone)]
struct Place {
    is: Is,
    /// Directories above the source, and above what it is a link to, and the names there that lead on.
    above: Vec<(PathBuf, std::ffi::OsString)>,
}

fn identity(entry: &Entry) -> Is {
    let kind = entry.kind();
    let of = |meta: fs::Metadata| (meta.dev(), meta.ino());
    let real = fs::canonicalize(&entry.credential.source).ok().filter(|_| kind != Kind::Missing);
    // A single file is another one after each replacement; its directory tells of that.
    let inode = match kind {
        Kind::Directory => real.as_deref().and_then(|real| fs::metadata(real).ok()),
        Kind::File => real.as_deref().and_then(|real| fs::metadata(real.parent()?).ok()),
        Kind::Missing => {
            nearest(entry.credential.source.as_std_path()).and_then(|(above, _)| fs::metadata(above).ok())
        }
    };
    (kind, real, inode.map(of))
}

fn place(entry: &Arc<Entry>, heard: Arc<Heard>) -> io::Result<(RecommendedWatcher, Place)> {
    let source = entry.credential.source.as_std_path();
    let is = identity(entry);
    let real = is.1.clone();
    let mut above: Vec<_> = nearest(source).into_iter().collect();
    above.extend(real.as_deref().and_then(nearest));
    above.dedup();
    let place = Place { is, above };
    let (of, listening) = (Arc::clone(entry), place.clone());
    let listener = move |event: notify::Result<Event>| hear(&of, &listening, &heard, event);
    let config = Config::default().with_follow_symlinks(false);
    let mut watcher = RecommendedWatcher::new(listener, config).map_err(io::Error::other)?;
    for (directory, _) in &place.above {
        watcher.watch(directory, RecursiveMode::NonRecursive).map_err(io::Error::other)?;
    }
    if let Some(real) = real.filter(|_| place.is.0 == Kind::Directory) {
        watcher.watch(&real, RecursiveMode::Recursive).map_err(io::Error::other)?;
    }
    Ok((watcher, place))
}

fn hear(entry: &Entry, place: &Place, heard: &Heard, event: notify::Result<Event>) {
    let Ok(event) = event else { return heard.all() };
    if event.need_rescan() {
        return heard.add(None, true);
    }
    let (written, moved) = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) | EventKind::Modify(ModifyKind::Data(_)) => {
            (true, false)
        }
        EventKind::Create(_)
        | EventKind::Modify(ModifyKind::Name(_) | ModifyKind::Any | ModifyKind::Other)
        | EventKind::Any => (true, true),
        EventKind::Remove(_) => (false, true),
        EventKind::Access(_) | EventKind::Modify(ModifyKind::Metadata(_)) | EventKind::Other => return,
    };
    for path in &event.paths {
        let leads = place.above.iter().any(|(above, name)| path == above || *path == above.join(name));
        let name = match (&place.is.1, place.is.0) {
            (Some(real), Kind::Directory) => {
                path.strip_prefix(real).ok().and_then(|name| synced(entry, name))
            }
            (Some(real), Kind::File) if path == real => entry.guest_name().map(str::to_owned),
            (Some(_), Kind::File) | (None, _) | (_, Kind::Missing) => None,
        };
        let name = name.filter(|_| written);
        if name.is_some() || (leads && moved) {
            heard.add(name, leads && moved);
        }
    }
    // A directory that has come brings files that nobody has told of.
    if moved
        && place.is.0 == Kind::Directory
        && event.paths.iter().any(|path| path.is_dir())
        && event_is_within(place, &event)
    {
        heard.all();
    }
}

fn event_is_within(place: &Place, event: &Event) -> bool {
    place.is.1.as_deref().is_some_and(|real| event.paths.iter().any(|path| path.starts_with(real)))
}

/// Returns the name of a file that is synced, relative to the source.
fn synced(entry: &Entry, name: &Path) -> Option<String> {
    let plain = !name.as_os_str().is_empty()
        && !entry.excludes.leave_out(name)
        && !name.file_name().is_some_and(|name| is_temporary(name.as_encoded_bytes()));
    name.to_str().filter(|_| plain).map(str::to_owned)
}

/// Returns the nearest directory above that is there, and the name of the next part of the path in it.
fn nearest(path: &Path) -> Option<(PathBuf, std::ffi::OsString)> {
    let mut path = path;
    loop {
        let (above, name) = (path.parent()?, path.file_name()?);
        if above.is_dir() {
            return Some((above.to_owned(), name.to_owned()));
        }
        path = above;
    }
}
