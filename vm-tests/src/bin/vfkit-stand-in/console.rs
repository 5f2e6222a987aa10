//! A console of the guest on the terminal of this program (`virtio-serial,stdio`).
//!
//! Called before QEMU is started, whose own standard input and output are its monitor: QEMU connects to a socket here, and
//! the bytes go between it and the terminal, which is made raw as vfkit does it: keys come one by one, and the guest's
//! system echoes them.

use anyhow::Context;
use camino::Utf8Path;
use rustix::termios::{InputModes, LocalModes, OptionalActions, tcgetattr, tcsetattr};
use tokio::{
    io::{copy, stdin, stdout},
    net::UnixListener,
};
use tokio_util::task::AbortOnDropHandle;

/// A terminal that is the guest's console for as long as the value lives.
#[derive(Debug)]
pub(crate) struct Terminal {
    _task: AbortOnDropHandle<()>,
}

impl Terminal {
    /// Listens for QEMU on a socket.
    ///
    /// # Errors
    /// When standard input is no terminal, or the socket cannot be made.
    pub(crate) fn at(socket: &Utf8Path) -> anyhow::Result<Self> {
        let terminal = std::io::stdin();
        let mut modes = tcgetattr(&terminal).context("standard input")?;
        modes.input_modes.remove(InputModes::ICRNL);
        modes.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        tcsetattr(&terminal, OptionalActions::Now, &modes).context("standard input")?;
        let listener = UnixListener::bind(socket).with_context(|| format!("cannot listen on {socket}"))?;
        let task = async move {
            if let Ok((guest, _)) = listener.accept().await {
                let (mut output, mut input) = guest.into_split();
                let typed = async { copy(&mut stdin(), &mut input).await };
                let said = async { copy(&mut output, &mut stdout()).await };
                // Keys may end while the guest goes on speaking.
                let _ended = tokio::join!(typed, said);
            }
        };
        Ok(Self { _task: AbortOnDropHandle::new(tokio::spawn(task)) })
    }
}
