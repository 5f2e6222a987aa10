//! QEMU's monitor, on its standard input and output: a line of JSON is a command, an answer or an event (QEMU,
//! docs/interop/qmp-spec).
//!
//! Called when the machine is started, by the REST interface and by signals. It keeps the machine's [`State`] and decides
//! nothing.

use std::collections::VecDeque;

use anyhow::{Context, anyhow, bail};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{ChildStdin, ChildStdout},
    sync::{mpsc, oneshot, watch},
};

use crate::{log::Log, state::State};

/// Commands that wait to be sent.
const WAITING: usize = 16;

/// Sends commands to a machine. Clones speak to the same one.
#[derive(Debug, Clone)]
pub(crate) struct Monitor {
    commands: mpsc::Sender<Command>,
    /// When QEMU has said all: whether it ended because the guest reset its machine.
    reset: watch::Receiver<Option<bool>>,
}

#[derive(Debug)]
struct Command {
    name: &'static str,
    answer: oneshot::Sender<anyhow::Result<()>>,
}

impl Monitor {
    /// Greets QEMU; returns when it takes commands, and the guest runs.
    ///
    /// # Errors
    /// When it does not greet, as when it has ended.
    pub(crate) async fn greet(
        mut input: ChildStdin,
        output: ChildStdout,
        state: watch::Sender<State>,
        log: Log,
    ) -> anyhow::Result<Self> {
        let mut lines = BufReader::new(output).lines();
        let greeting = next(&mut lines).await?;
        if greeting.get("QMP").is_none() {
            bail!("QEMU did not greet: {greeting}");
        }
        write(&mut input, "qmp_capabilities").await?;
        loop {
            let line = next(&mut lines).await?;
            if line.get("return").is_some() {
                break;
            }
            if line.get("error").is_some() {
                bail!("QEMU refused its monitor: {line}");
            }
        }
        state.send_replace(State::Running);
        let (commands, waiting) = mpsc::channel(WAITING);
        let (end, reset) = watch::channel(None);
        tokio::spawn(async move {
            let mut was_reset = false;
            if let Err(error) = serve(input, lines, waiting, &state, &mut was_reset, log).await {
                log.debug(&format!("the monitor is gone: {error:#}"));
            }
            end.send_replace(Some(was_reset));
        });
        Ok(Self { commands, reset })
    }

    /// Returns whether the machine ended because its guest reset it, when it has ended.
    pub(crate) async fn was_reset(&self) -> bool {
        let mut reset = self.reset.clone();
        reset.wait_for(Option::is_some).await.is_ok_and(|reset| *reset == Some(true))
    }

    /// Asks the guest to power itself off, as by the button.
    pub(crate) async fn press_button(&self) -> anyhow::Result<()> {
        self.run("system_powerdown").await
    }

    /// Ends the machine without asking its guest.
    pub(crate) async fn quit(&self) -> anyhow::Result<()> {
        self.run("quit").await
    }

    /// Stops the guest's processors.
    pub(crate) async fn pause(&self) -> anyhow::Result<()> {
        self.run("stop").await
    }

    /// Lets them go on.
    pub(crate) async fn resume(&self) -> anyhow::Result<()> {
        self.run("cont").await
    }

    async fn run(&self, name: &'static str) -> anyhow::Result<()> {
        let (answer, answered) = oneshot::channel();
        let gone = || format!("the machine ended before it did `{name}`");
        self.commands.send(Command { name, answer }).await.with_context(gone)?;
        answered.await.with_context(gone)?
    }
}

/// Sends what is asked for; QEMU answers in the same order.
async fn serve(
    mut input: ChildStdin,
    mut lines: Lines<BufReader<ChildStdout>>,
    mut commands: mpsc::Receiver<Command>,
    state: &watch::Sender<State>,
    was_reset: &mut bool,
    log: Log,
) -> anyhow::Result<()> {
    let mut asked: VecDeque<oneshot::Sender<anyhow::Result<()>>> = VecDeque::new();
    loop {
        let line = tokio::select! {
            line = next(&mut lines) => line?,
            Some(Command { name, answer }) = commands.recv() => {
                asked.push_back(answer);
                write(&mut input, name).await?;
                continue;
            }
        };
        if let Some(event) = line.get("event").and_then(Value::as_str) {
            log.debug(&format!("QEMU: {line}"));
            // The machine of a guest that reboots runs on, as far as the users of vfkit can see.
            *was_reset |= line["data"]["reason"] == "guest-reset";
            if let Some(new) = after(event).filter(|_| !*was_reset) {
                state.send_replace(new);
            }
            continue;
        }
        let outcome = match line.get("error") {
            Some(error) => Err(anyhow!("QEMU refused: {error}")),
            None => Ok(()),
        };
        if let Some(answer) = asked.pop_front() {
            // Whoever asked may have gone.
            let _unheard = answer.send(outcome);
        }
    }
}

/// The state after an event (QEMU, qapi/run-state.json).
fn after(event: &str) -> Option<State> {
    match event {
        "STOP" => Some(State::Paused),
        "RESUME" => Some(State::Running),
        "SHUTDOWN" => Some(State::Stopping),
        _ => None,
    }
}

async fn next(lines: &mut Lines<BufReader<ChildStdout>>) -> anyhow::Result<Value> {
    let line = lines.next_line().await?.context("QEMU has ended")?;
    serde_json::from_str(&line).with_context(|| format!("QEMU said {line:?}"))
}

async fn write(input: &mut ChildStdin, name: &str) -> anyhow::Result<()> {
    input.write_all(format!("{}\n", json!({ "execute": name })).as_bytes()).await?;
    Ok(input.flush().await?)
}
