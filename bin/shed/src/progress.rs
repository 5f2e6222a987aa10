//! Live progress of creates and starts on stderr: a line that moves on a terminal, plain lines elsewhere.

use std::{
    cell::RefCell,
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use shed_api::ProgressEvent;

use crate::{
    times,
    ui::{Format, Ui, clean},
};

/// How often the moving line is drawn.
const TICK: Duration = Duration::from_millis(100);

/// Shows the progress of one command, which may work on several sheds or servers.
#[derive(Debug)]
pub(crate) struct Progress<'a> {
    ui: &'a Ui,
    bars: Option<MultiProgress>,
}

/// Shows the progress on one of them; its line goes away with it.
#[derive(Debug)]
pub(crate) struct Task<'a> {
    ui: &'a Ui,
    subject: &'a str,
    started: Instant,
    bars: Option<(MultiProgress, ProgressBar)>,
    warnings: RefCell<Vec<String>>,
}

/// Changes the moving line of a task; there is none but on a terminal.
#[derive(Debug, Clone)]
pub(crate) struct Live(Option<ProgressBar>);

impl Live {
    /// Shows this until there is something else to show.
    pub(crate) fn say(&self, text: &str) {
        if let Some(bar) = &self.0 {
            bar.set_message(clean(text).replace('\n', " "));
        }
    }
}

impl<'a> Progress<'a> {
    /// Makes the display that fits where stderr goes.
    pub(crate) fn new(ui: &'a Ui) -> Self {
        let live = ui.format() == Format::Text && ui.stderr_is_terminal();
        Self { ui, bars: live.then(MultiProgress::new) }
    }

    /// Begins the work on a shed, an image or a server.
    pub(crate) fn task<N: AsRef<str> + ?Sized>(&self, subject: &'a N, message: &str) -> Task<'a> {
        let subject = subject.as_ref();
        let bars = self.bars.as_ref().map(|bars| {
            let style = ProgressStyle::with_template("{spinner} {prefix}: {wide_msg} {elapsed}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner());
            let bar = bars.add(ProgressBar::new_spinner().with_style(style).with_prefix(subject.to_owned()));
            bar.set_message(message.to_owned());
            bar.enable_steady_tick(TICK);
            (bars.clone(), bar)
        });
        Task { ui: self.ui, subject, started: Instant::now(), bars, warnings: RefCell::default() }
    }
}

impl Task<'_> {
    /// Shows an event.
    pub(crate) fn event(&self, event: &ProgressEvent) {
        if event.warning {
            self.warnings.borrow_mut().push(event.message.clone());
            let text = format!("{}: {}", self.subject, event.message);
            match (&self.bars, self.ui.format()) {
                (Some((bars, _)), _) => bars.suspend(|| self.ui.warning(&text)),
                (None, Format::Text) => self.ui.warning(&text),
                // The result carries them.
                (None, Format::Json) => {}
            }
            return;
        }
        match &self.bars {
            Some((_, bar)) => bar.set_message(clean(&event.message).replace('\n', " ")),
            None => {
                let elapsed = times::elapsed(self.started.elapsed());
                self.ui.note(&format!("{}: {} ({elapsed})", self.subject, event.message));
            }
        }
    }

    /// Writes a line that stays; nothing for programs.
    pub(crate) fn remark(&self, text: &str) {
        match &self.bars {
            Some((bars, _)) => bars.suspend(|| self.ui.note(text)),
            None => self.ui.note(text),
        }
    }

    /// Returns what changes the moving line from another thread.
    pub(crate) fn live(&self) -> Live {
        Live(self.bars.as_ref().map(|(_, bar)| bar.clone()))
    }

    /// Ends the display and returns the warnings there were.
    pub(crate) fn finish(self) -> Vec<String> {
        self.warnings.take()
    }
}

impl Drop for Task<'_> {
    fn drop(&mut self) {
        if let Some((_, bar)) = &self.bars {
            bar.finish_and_clear();
        }
    }
}
