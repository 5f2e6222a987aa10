//! The property list that launchd runs the server by, as text.
//!
//! A function of what was asked for, the same on every system: `install` writes it, `install --print` shows it. It reads no file
//! and asks nobody. Machines are processes of the server's that outlive it, so nothing here may have launchd end with the server
//! what it has started, or slow it down.

use std::fmt::Write as _;

use camino::{Utf8Path, Utf8PathBuf};

/// Name of the agent for launchd, and of its file.
pub const LABEL: &str = "dev.shed.server";

/// Second line of a list that `install` wrote; one without it is somebody else's.
pub(super) const MARK: &str =
    "<!-- Written by `shed-server install`, which writes it anew; `shed-server uninstall` removes it. -->";

/// Where programs are found: launchd's own `PATH` has no Homebrew in it, and so no vfkit. The first is Homebrew's on Apple
/// silicon, the second its directory on Intel.
const PATH: &str = "/opt/homebrew/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// How long a server that was told to end may take, in seconds: requests in progress have half a minute.
const EXIT_TIMEOUT: u32 = 60;

/// What an agent is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// The program.
    pub program: Utf8PathBuf,
    /// The configuration; none means that the server looks for it.
    pub config: Option<Utf8PathBuf>,
    /// Where the log goes: both outputs of the server.
    pub log: Utf8PathBuf,
    /// `XDG_DATA_HOME`, which the defaults of the configuration depend on.
    pub data_home: Option<Utf8PathBuf>,
}

/// Says why launchd could not be told a path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a property list cannot hold the control characters in {path:?}, the path of {what}; move it to a path without them, and \
     run install again"
)]
pub struct BadPathError {
    what: &'static str,
    path: Utf8PathBuf,
}

impl Agent {
    /// Returns the text of the property list.
    ///
    /// # Errors
    /// When a path has characters in it that XML has no way to write.
    pub fn text(&self) -> Result<String, BadPathError> {
        let mut arguments = vec![word("this program", &self.program)?, "serve".to_owned()];
        if let Some(config) = &self.config {
            arguments.push("--config".to_owned());
            arguments.push(word("the configuration", config)?);
        }
        let mut environment = vec![("PATH", PATH.to_owned())];
        if let Some(data_home) = &self.data_home {
            environment.push(("XDG_DATA_HOME", word("the data directory (XDG_DATA_HOME)", data_home)?));
        }
        let log = word("the log", &self.log)?;
        let mut list = List::begin();
        list.string("Label", LABEL);
        list.strings("ProgramArguments", &arguments);
        list.dictionary("EnvironmentVariables", &environment);
        list.string("WorkingDirectory", "/");
        list.string("StandardOutPath", &log);
        list.string("StandardErrorPath", &log);
        // At each login, and when the agent is loaded.
        list.value("RunAtLoad", "<true/>");
        // After a failure; a server that was told to end has succeeded.
        list.value("KeepAlive", "<dict><key>SuccessfulExit</key><false/></dict>");
        // Without it launchd ends what is left of the server's process group.
        list.value("AbandonProcessGroup", "<true/>");
        // Anything else is slowed down while somebody works at the Mac, and machines with it.
        list.string("ProcessType", "Interactive");
        list.value("ExitTimeOut", &format!("<integer>{EXIT_TIMEOUT}</integer>"));
        Ok(list.end())
    }
}

/// A property list in the making.
#[derive(Debug)]
struct List(String);

impl List {
    fn begin() -> Self {
        Self(format!(
            r#"<?xml version="1.0" encoding="UTF-8"?>
{MARK}
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
"#
        ))
    }

    /// Adds a value that is XML already.
    fn value(&mut self, key: &str, xml: &str) {
        let _infallible = write!(self.0, "  <key>{key}</key>\n  {xml}\n");
    }

    fn string(&mut self, key: &str, text: &str) {
        self.value(key, &string(text));
    }

    fn strings(&mut self, key: &str, texts: &[String]) {
        let lines: String = texts.iter().map(|text| format!("    {}\n", string(text))).collect();
        self.value(key, &format!("<array>\n{lines}  </array>"));
    }

    fn dictionary(&mut self, key: &str, entries: &[(&str, String)]) {
        let line = |(key, text): &(&str, String)| format!("    <key>{key}</key>\n    {}\n", string(text));
        let lines: String = entries.iter().map(line).collect();
        self.value(key, &format!("<dict>\n{lines}  </dict>"));
    }

    fn end(self) -> String {
        self.0 + "</dict>\n</plist>\n"
    }
}

fn string(text: &str) -> String {
    let mut written = String::from("<string>");
    for character in text.chars() {
        match character {
            '&' => written.push_str("&amp;"),
            '<' => written.push_str("&lt;"),
            '>' => written.push_str("&gt;"),
            '"' => written.push_str("&quot;"),
            '\'' => written.push_str("&apos;"),
            other => written.push(other),
        }
    }
    written + "</string>"
}

/// Returns a path as text for the list, as long as XML can hold it: of control characters it knows three, and those a reader may
/// change; two characters are in no document (XML 1.0, production 2).
fn word(what: &'static str, path: &Utf8Path) -> Result<String, BadPathError> {
    let fits = |c: char| !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}');
    if path.as_str().chars().all(fits) {
        Ok(path.to_string())
    } else {
        Err(BadPathError { what, path: path.to_owned() })
    }
}

/// Whether a file is a list that `install` wrote.
pub(super) fn is_ours(text: &str) -> bool {
    text.lines().nth(1) == Some(MARK)
}

#[cfg(test)]
mod tests;
