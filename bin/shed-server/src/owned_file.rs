//! The one file that `install` writes: a unit of systemd, or a property list of launchd.
//!
//! `service` and `launchd` call it. It is written whole, and only when it is not so already; one that somebody else wrote is left
//! alone unless the user says otherwise, and a link is never looked through.

use std::{fs, io};

use camino::Utf8Path;
use shed_state::atomic;
use shed_types::error_chain;

use crate::step::Step;

/// A place for a file of ours.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OwnedFile<'a> {
    /// Where it is.
    pub(crate) path: &'a Utf8Path,
    /// What steps about it are called.
    pub(crate) item: &'static str,
    /// Whether `install` wrote a file with this text.
    pub(crate) is_ours: fn(&str) -> bool,
}

/// What is there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum There {
    /// Nothing.
    Nothing,
    /// What `install` wrote.
    Ours(String),
    /// A file that somebody else wrote, or no file.
    SomebodyElses,
}

impl OwnedFile<'_> {
    /// Writes it, unless it is so already.
    pub(crate) fn write(self, text: &str, force: bool) -> Step {
        let Self { path, item, .. } = self;
        if matches!(self.look(), Ok(There::Ours(there)) if there == text) {
            return Step::was_so(item, path.as_str());
        }
        if let Err(step) = self.replaceable(force) {
            return step;
        }
        let directory = path.parent().map_or(Ok(()), fs::create_dir_all);
        if let Err(error) = directory {
            return Step::failed(item, format!("the directory of {path} could not be made: {error}"));
        }
        match atomic::write(path, text.as_bytes(), 0o644) {
            Ok(()) => Step::done(item, format!("{path} is written")),
            Err(error) => Step::failed(item, error_chain(&error)),
        }
    }

    /// Whether a file can be written here; else what to tell instead.
    pub(crate) fn replaceable(self, force: bool) -> Result<(), Step> {
        match self.look() {
            Err(error) => Err(self.unreadable(&error)),
            Ok(There::SomebodyElses) if !force => Err(self.not_ours()),
            Ok(There::Nothing | There::Ours(_) | There::SomebodyElses) => Ok(()),
        }
    }

    /// Whether there is one that may be removed; else what to tell instead.
    pub(crate) fn removable(self, force: bool) -> Result<(), Step> {
        match self.look() {
            Err(error) => Err(self.unreadable(&error)),
            Ok(There::Nothing) => Err(Step::was_so(self.item, format!("there is no {}", self.path))),
            Ok(There::SomebodyElses) if !force => Err(self.not_ours()),
            Ok(There::SomebodyElses | There::Ours(_)) => Ok(()),
        }
    }

    /// Removes it.
    pub(crate) fn remove(self) -> Step {
        let Self { path, item, .. } = self;
        match fs::remove_file(path) {
            Ok(()) => Step::done(item, format!("{path} is removed")),
            Err(error) => Step::failed(item, format!("{path} cannot be removed: {error}")),
        }
    }

    /// Says what is there.
    pub(crate) fn look(self) -> io::Result<There> {
        // A file that is masked or linked is not looked through: whoever made it so has meant something by it.
        match fs::symlink_metadata(self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(There::Nothing),
            Err(error) => return Err(error),
            Ok(found) if !found.is_file() => return Ok(There::SomebodyElses),
            Ok(_file) => {}
        }
        let text = String::from_utf8_lossy(&fs::read(self.path)?).into_owned();
        Ok(if (self.is_ours)(&text) { There::Ours(text) } else { There::SomebodyElses })
    }

    fn unreadable(self, error: &io::Error) -> Step {
        Step::failed(self.item, format!("{} cannot be read: {error}", self.path))
    }

    fn not_ours(self) -> Step {
        let problem = format!("{} was not written by `shed-server install`, and is left alone", self.path);
        Step::failed(self.item, problem).hint("look at it, and move it away or use --force")
    }
}

#[cfg(test)]
mod tests {
    use camino::Utf8PathBuf;

    use super::*;
    use crate::step::Outcome;

    fn place(dir: &tempfile::TempDir) -> Utf8PathBuf {
        Utf8Path::from_path(dir.path()).unwrap().join("below/it/file")
    }

    fn owned(path: &Utf8Path) -> OwnedFile<'_> {
        OwnedFile { path, item: "file", is_ours: |text| text.starts_with("OURS\n") }
    }

    #[test]
    fn it_is_written_once_and_anew_when_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = place(&dir);
        let file = owned(&path);
        assert_eq!(file.write("OURS\none\n", false).outcome, Outcome::Done);
        assert_eq!(file.write("OURS\none\n", false).outcome, Outcome::WasSo);
        assert_eq!(file.write("OURS\ntwo\n", false).outcome, Outcome::Done);
        assert_eq!(fs::read_to_string(&path).unwrap(), "OURS\ntwo\n");
        assert!(file.removable(false).is_ok() && file.remove().outcome == Outcome::Done);
        assert_eq!(file.removable(false).unwrap_err().outcome, Outcome::WasSo);
    }

    #[test]
    fn somebody_elses_stays_unless_it_is_forced() {
        let dir = tempfile::tempdir().unwrap();
        let path = place(&dir);
        let file = owned(&path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "mine\n").unwrap();
        let step = file.write("OURS\n", false);
        assert!(step.outcome == Outcome::Failed && step.to_string().contains("--force"), "{step}");
        assert_eq!(file.removable(false).unwrap_err().outcome, Outcome::Failed);
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine\n");
        assert!(file.removable(true).is_ok());
        assert_eq!(file.write("OURS\n", true).outcome, Outcome::Done);
        // A masked unit is a link to /dev/null.
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert_eq!(file.write("OURS\n", false).outcome, Outcome::Failed);
        assert_eq!(fs::read_link(&path).unwrap().to_str(), Some("/dev/null"));
    }

    #[test]
    fn what_cannot_be_read_or_made_is_told_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = place(&dir);
        fs::write(dir.path().join("below"), "a file where a directory belongs").unwrap();
        let step = owned(&path).write("OURS\n", false);
        assert!(step.outcome == Outcome::Failed && step.text.contains(path.as_str()), "{step}");
        let step = owned(&path).removable(true).unwrap_err();
        assert!(step.outcome == Outcome::Failed && step.text.contains(path.as_str()), "{step}");
    }
}
