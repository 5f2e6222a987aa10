//! Tells the user's desktop of a question, where there is a desktop and `notify-send`.

use std::{process::Stdio, time::Duration};

use camino::Utf8PathBuf;
use tokio::{process::Command, time::timeout};

use super::Question;
use crate::places::Surroundings;

/// How long `notify-send` may take; it waits for a desktop that may hang.
const LIMIT: Duration = Duration::from_secs(5);

/// The program that shows notifications.
#[derive(Debug, Clone)]
pub struct Notifier {
    program: Utf8PathBuf,
}

impl Notifier {
    /// Finds it; there is none without a desktop.
    #[must_use]
    pub fn find(surroundings: &Surroundings) -> Option<Self> {
        let program = surroundings.has_desktop.then(|| surroundings.find_program("notify-send")).flatten()?;
        Some(Self { program })
    }

    /// Shows a question. Nobody waits for it, and nothing depends on it.
    pub(super) fn show(&self, id: &str, question: &Question) {
        let mut command = Command::new(&self.program);
        command.args(["--app-name=Shed", "--expire-time=25000", "--", "A shed asks"]).arg(body(id, question));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        match command.spawn() {
            Ok(mut child) => drop(tokio::spawn(async move {
                if !matches!(timeout(LIMIT, child.wait()).await, Ok(Ok(status)) if status.success()) {
                    tracing::debug!("notify-send did not show a question");
                }
            })),
            Err(error) => {
                tracing::warn!(%error, program = %self.program, "the desktop cannot be told of a question");
            }
        }
    }
}

/// Desktops take the text for markup.
fn body(id: &str, question: &Question) -> String {
    let text = question.text().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!("{text}\nshed-host-agent approvals approve {id}")
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn a_shed_cannot_write_markup() {
        let question = Question {
            shed: "<b>a&</b>".into(),
            server: "s".into(),
            action: "sign".into(),
            asked_at: Timestamp::UNIX_EPOCH,
        };
        let body = body("7", &question);
        assert!(body.contains("&lt;b&gt;a&amp;&lt;/b&gt;") && !body.contains('<'), "{body}");
    }

    #[test]
    fn without_a_desktop_nobody_is_told() {
        let mut surroundings = Surroundings::of_home("/nowhere".into());
        surroundings.has_desktop = true;
        assert!(Notifier::find(&surroundings).is_none());
    }
}
