//! Live progress of creates and starts on stderr: a line that moves on a terminal, plain lines elsewhere.

use std::{
    cell::RefCell,
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use shed_api::{ImageTransfer, ProgressEvent};
use shed_image::ImageProgress;

use crate::{
    guest_output::GuestOutput,
    sizes, times,
    ui::{Format, Ui, clean},
};

/// How often the moving line is drawn.
const TICK: Duration = Duration::from_millis(100);

/// The moving line.
const LINE: &str = "{spinner} {prefix}: {wide_msg} {elapsed}";

/// The moving line of work whose end is known.
const BAR: &str = "{spinner} {prefix}: {bar:24} {wide_msg} {elapsed}";

/// Where nothing moves, an image is told of when its step changes, and after this time.
const SPARSE: Duration = Duration::from_secs(10);

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
    told: RefCell<Option<Told>>,
    output: RefCell<GuestOutput>,
    sends: bool,
}

/// What was last said of an image where nothing moves.
#[derive(Debug)]
struct Told {
    step: String,
    at: Instant,
}

/// How far an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageState {
    step: String,
    bytes: (u64, u64),
    layers: (u32, u32),
}

impl From<ImageProgress> for ImageState {
    fn from(progress: ImageProgress) -> Self {
        Self {
            step: progress.step.as_str().to_owned(),
            bytes: (progress.bytes_done, progress.bytes_total),
            layers: (progress.layers_done, progress.layers_total),
        }
    }
}

impl From<&ImageTransfer> for ImageState {
    fn from(transfer: &ImageTransfer) -> Self {
        Self {
            step: transfer.step.clone(),
            bytes: (transfer.bytes_done, transfer.bytes_total),
            layers: (transfer.layers_done, transfer.layers_total),
        }
    }
}

impl ImageState {
    /// Returns it in words: `downloading the image, 12.0MiB of 90.5MiB, layer 2 of 5`.
    fn words(&self, sends: bool) -> String {
        let mut words = match self.step.as_str() {
            "download" if sends => "sending the image",
            "wait" => "waiting for another process that makes the image",
            "resolve" => "asking the registry for the image",
            "download" => "downloading the image",
            "unpack" => "reading the image's layers",
            "write" => "writing the image",
            // Of a newer server.
            other => other,
        }
        .to_owned();
        let (done, total) = self.bytes;
        if total > 0 {
            words.push_str(&format!(", {} of {}", sizes::human(done.min(total)), sizes::human(total)));
        } else if done > 0 {
            words.push_str(&format!(", {}", sizes::human(done)));
        }
        let (done, total) = self.layers;
        if total > 1 {
            words.push_str(&format!(", {} of {total} layers done", done.min(total)));
        }
        words
    }
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
            let bar =
                bars.add(ProgressBar::new_spinner().with_style(style(LINE)).with_prefix(subject.to_owned()));
            bar.set_message(message.to_owned());
            bar.enable_steady_tick(TICK);
            (bars.clone(), bar)
        });
        Task {
            ui: self.ui,
            subject,
            started: Instant::now(),
            bars,
            warnings: RefCell::default(),
            told: RefCell::default(),
            output: RefCell::default(),
            sends: false,
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
        .progress_chars("=> ")
}

impl Task<'_> {
    /// Says that an image goes away from here, not to here.
    pub(crate) fn sending(mut self) -> Self {
        self.sends = true;
        self
    }

    /// Shows an event. A warning is kept for the end, where no output hides it.
    pub(crate) fn event(&self, event: &ProgressEvent) {
        if let Some(output) = &event.output {
            self.output(output);
            return;
        }
        self.end_output();
        if event.warning {
            self.warn(&event.message);
            return;
        }
        match &event.image {
            Some(image) => self.image(&image.into()),
            None => self.say(&event.message),
        }
    }

    /// Keeps a warning for the end; one that is known already is kept once.
    pub(crate) fn warn(&self, message: &str) {
        let mut warnings = self.warnings.borrow_mut();
        if !warnings.iter().any(|known| known == message) {
            warnings.push(message.to_owned());
        }
    }

    /// Shows what a program in the shed writes: whole lines stay, above the moving line; nothing for programs.
    fn output(&self, text: &str) {
        if self.ui.format() == Format::Json {
            return;
        }
        let shown = self.output.borrow_mut().take(text);
        self.lines(&shown.lines);
        if let (Some((_, bar)), Some(moving)) = (&self.bars, shown.moving) {
            bar.set_style(style(LINE));
            bar.set_message(clean(&moving).replace('\n', " "));
        }
    }

    /// What was begun is a line.
    fn end_output(&self) {
        let line = self.output.borrow_mut().end();
        self.lines(line.as_slice());
    }

    fn lines(&self, lines: &[String]) {
        if lines.is_empty() || self.ui.format() == Format::Json {
            return;
        }
        let text: Vec<String> = lines.iter().map(|line| format!("{} | {line}", self.subject)).collect();
        self.remark(&text.join("\n"));
    }

    /// Shows what is being done now.
    pub(crate) fn say(&self, text: &str) {
        match &self.bars {
            Some((_, bar)) => {
                bar.set_style(style(LINE));
                bar.set_message(clean(text).replace('\n', " "));
            }
            None => {
                let elapsed = times::elapsed(self.started.elapsed());
                self.ui.note(&format!("{}: {text} ({elapsed})", self.subject));
            }
        }
    }

    /// Shows how far an image is: as a bar that moves, or as a line now and then.
    pub(crate) fn image(&self, state: &ImageState) {
        match &self.bars {
            Some((_, bar)) => {
                let (done, total) = state.bytes;
                if total > 0 {
                    bar.set_length(total);
                    bar.set_position(done.min(total));
                    bar.set_style(style(BAR));
                } else {
                    bar.set_style(style(LINE));
                }
                bar.set_message(clean(&state.words(self.sends)).replace('\n', " "));
            }
            None => {
                let is_news = |told: &Told| told.step != state.step || told.at.elapsed() >= SPARSE;
                if self.told.borrow().as_ref().is_none_or(is_news) {
                    *self.told.borrow_mut() = Some(Told { step: state.step.clone(), at: Instant::now() });
                    self.say(&state.words(self.sends));
                }
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

    /// Ends the display, writes the warnings there were, and returns them; for programs, the result has them.
    pub(crate) fn finish(self) -> Vec<String> {
        self.end_output();
        let warnings = self.warnings.take();
        if self.ui.format() == Format::Text {
            for warning in &warnings {
                // What is behind its first line belongs to it.
                let text = format!("{}: {}", self.subject, warning.replace('\n', "\n  "));
                match &self.bars {
                    Some((bars, _)) => bars.suspend(|| self.ui.warning(&text)),
                    None => self.ui.warning(&text),
                }
            }
        }
        warnings
    }
}

impl Drop for Task<'_> {
    fn drop(&mut self) {
        if let Some((_, bar)) = &self.bars {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_told_of_in_bytes_and_layers_as_far_as_they_are_known() {
        let words =
            |step: &str, bytes, layers| ImageState { step: step.to_owned(), bytes, layers }.words(false);
        assert_eq!(
            words("download", (12 << 20, 90 << 20), (2, 5)),
            "downloading the image, 12.0MiB of 90.0MiB, 2 of 5 layers done"
        );
        assert_eq!(words("write", (1 << 20, 0), (0, 0)), "writing the image, 1.0MiB");
        assert_eq!(words("unpack", (0, 0), (0, 1)), "reading the image's layers");
        assert_eq!(words("polish", (9, 5), (7, 5)), "polish, 5B of 5B, 5 of 5 layers done");
    }
}
