//! The PATH for what an install hook has installed: version managers add theirs to the files of interactive shells, and
//! logins that are not interactive should find the same tools (spec D).

use std::{io, path::Path, time::Duration};

use tokio::{io::AsyncReadExt, time::timeout};

use super::{as_user::as_user, run::Run, session};
use crate::{
    apart::apart,
    exec::spawn::{Apart, start_apart},
    whole_file,
};

/// The piece of the profile, below /etc.
const FILE: &str = "profile.d/shed-installed-tools.sh";

/// How long a shell may take to tell, and the file system to answer.
const LIMIT: Duration = Duration::from_secs(30);

/// Most bytes that a shell prints before one stops to listen, and the longest PATH that is kept.
const MAX_OUTPUT: u64 = 1 << 20;
const MAX_PATH: usize = 16 << 10;

/// Stands before the PATH, so that it is found behind whatever the files of the shell print.
const MARK: &str = "shed-path:";

/// Writes the piece when an interactive login has another PATH than one that is not.
pub(super) async fn keep(run: &Run) -> io::Result<()> {
    let profile = run.ground().etc.join(FILE);
    if !profile.parent().is_some_and(Path::is_dir) || !crate::exec::plan::shell().ends_with("bash") {
        return Ok(());
    }
    let plain = ask(run, &[]).await?;
    let interactive = ask(run, &["-i"]).await?;
    let shims = format!("{}/.local/share/mise/shims", run.user.home);
    // As the user: some of them are the user's, and may be anything.
    let look = move || {
        let path = directories(&interactive, &shims);
        (path != directories(&plain, "") && !path.is_empty()).then_some(path)
    };
    let Some(path) = as_user(&run.user, LIMIT, look).await.map_err(io::Error::other)? else { return Ok(()) };
    let text = format!(
        "# Written by shed-agent after the install hook: the PATH of an interactive login.\nexport PATH='{}'\n",
        path.replace('\'', r"'\''")
    );
    apart(LIMIT, move || whole_file::replace(&profile, text.as_bytes(), 0o644), drop).await?
}

/// The directories of a PATH that are there, each once; `shims` come first when they are there and not among them.
fn directories(path: &str, shims: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let is_one = |entry: &&str| {
        entry.starts_with('/')
            && !entry.contains(|c: char| c.is_control() || c == ':')
            && Path::new(entry).is_dir()
    };
    if is_one(&shims) && !path.split(':').any(|entry| entry == shims) {
        kept.push(shims);
    }
    for entry in path.split(':').filter(is_one) {
        if !kept.contains(&entry) {
            kept.push(entry);
        }
    }
    let joined = kept.join(":");
    if joined.len() <= MAX_PATH { joined } else { String::new() }
}

/// Asks a login shell for its PATH; it is empty when the shell does not say.
async fn ask(run: &Run, options: &[&str]) -> io::Result<String> {
    let script = format!("printf '\\n{MARK}%s\\n' \"$PATH\"");
    let words = [options, &["-c", &script]].concat();
    let Apart { mut child, leader, output } = start_apart(run.shell_plan(&words)).await?;
    let mut text = Vec::new();
    let mut output = output.take(MAX_OUTPUT);
    let heard = timeout(LIMIT, async {
        // What the shell leaves in the background may hold the pipe, so the mark ends it as well.
        let mut piece = [0; 4096];
        while found(&text).is_none() {
            match output.read(&mut piece).await {
                Ok(length @ 1..) => text.extend_from_slice(&piece[..length]),
                Ok(0) | Err(_) => break,
            }
        }
    });
    let ((), ()) = {
        tokio::select! {
            _ = heard => {}
            () = run.stop.cancelled() => {}
        }
        tokio::join!(session::end(leader), async {
            let _code = child.wait().await;
        })
    };
    Ok(found(&text).unwrap_or_default())
}

/// The whole line behind the mark.
fn found(text: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(text);
    let (_, behind) = text.rsplit_once(&format!("\n{MARK}"))?;
    behind.split_once('\n').map(|(path, _)| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_are_kept_and_each_once() {
        let dir = tempfile::tempdir().unwrap();
        let shims = dir.path().join("it's shims");
        std::fs::create_dir(&shims).unwrap();
        let shims = shims.to_str().unwrap();
        let path = "/usr/bin:relative::.:/no/such:/etc/passwd:/bin:/usr/bin:/usr/\u{1b}[2J";
        assert_eq!(directories(path, "/no/shims"), "/usr/bin:/bin");
        assert_eq!(directories(path, shims), format!("{shims}:/usr/bin:/bin"));
        assert_eq!(directories(&format!("/bin:{shims}"), shims), format!("/bin:{shims}"));
        assert_eq!(directories("/usr/bin/", ""), "/usr/bin/");
    }

    #[test]
    fn the_path_is_found_behind_a_banner() {
        assert_eq!(found(b"hello\nshed-path:/x\n").unwrap(), "/x");
        assert_eq!(found(b"\nshed-path:/a\n\nshed-path:/b\n").unwrap(), "/b");
        assert_eq!(found(b"\nshed-path:/half"), None);
        assert_eq!(found(b"\xff"), None);
    }
}
