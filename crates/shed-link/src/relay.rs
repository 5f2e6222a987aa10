//! Moves bytes both ways between a TCP connection and a stream of the guest link, with half-close (spec A.8, B.6).
//!
//! The server calls it between its client and the guest, the agent between the host and a service. A pair that is idle
//! costs no buffer: see [`flow`]. Nothing here dials, knows what the bytes mean, or waits for ever on a side that is
//! known to be gone.

mod flow;
mod tcp;

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::{Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, sleep},
};

use flow::{Flow, FlowError};

pub use flow::BUFFER;
pub use tcp::TcpSide;

/// How many bytes went each way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// From the near side to the far side.
    pub out: u64,
    /// From the far side to the near side.
    pub back: u64,
}

/// Which side broke off, and how.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The one that asked for the connection.
    #[error("the side that asked for the connection broke off")]
    Near(#[source] io::Error),
    /// The one that was asked.
    #[error("the side that was asked for the connection broke off")]
    Far(#[source] io::Error),
}

/// What it means to the near side that the far side breaks off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FarBreak {
    /// The end, like any other: the protocol inside says itself whether it was complete.
    IsAnEnd,
    /// An error, which the near side must be able to tell from a complete answer.
    IsAnError,
}

/// How one pair is to be treated.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// What a break of the far side is.
    pub far_break: FarBreak,
    /// How long the near side may take to read the last of what a far side said that takes no more input. Closing a
    /// socket that has unread input resets it (RFC 9293 §3.10.7.1), and the reset takes with it what the peer has not
    /// read yet.
    pub linger: Duration,
}

/// Sends `early` and then all that comes from `near` to `far`, and all that comes from `far` to `near`.
///
/// The end of one direction is passed on as the shutdown of the other side's input; the other direction goes on. A far
/// side that takes no more input is still heard to its end, while the near side's input is read and dropped. Returns
/// when both directions have ended.
///
/// # Errors
/// With the side that broke off. The other one was told nothing yet: the caller decides how it learns of it.
pub async fn relay<N, F>(mut near: N, early: &[u8], mut far: F, rules: Rules) -> Result<Moved, Broken>
where
    N: AsyncRead + AsyncWrite + Unpin,
    F: AsyncRead + AsyncWrite + Unpin,
{
    let (mut out, mut back) = (Flow::beginning_with(early), Flow::beginning_with(b""));
    let mut refused = false;
    let mut linger = pin!(sleep(rules.linger));
    let mut lingers = false;
    poll_fn(|cx| {
        let (near, far) = (&mut near, &mut far);
        if !refused {
            match out.poll(cx, Pin::new(&mut *near), Pin::new(&mut *far)) {
                Poll::Ready(Ok(())) | Poll::Pending => {}
                Poll::Ready(Err(FlowError::Read(error))) => return Poll::Ready(Err(Broken::Near(error))),
                Poll::Ready(Err(FlowError::Write(_))) => refused = true,
            }
        }
        if refused && let Poll::Ready(Err(error)) = out.poll_drop(cx, Pin::new(&mut *near)) {
            return Poll::Ready(Err(Broken::Near(error)));
        }
        match back.poll(cx, Pin::new(&mut *far), Pin::new(&mut *near)) {
            Poll::Ready(Ok(())) | Poll::Pending => {}
            Poll::Ready(Err(FlowError::Write(error))) => return Poll::Ready(Err(Broken::Near(error))),
            Poll::Ready(Err(FlowError::Read(error))) => match rules.far_break {
                FarBreak::IsAnError => return Poll::Ready(Err(Broken::Far(error))),
                FarBreak::IsAnEnd => ready!(back.end(cx, Pin::new(&mut *near))),
            },
        }
        if !back.has_ended() {
            return Poll::Pending;
        }
        if !out.has_ended() {
            if !refused {
                return Poll::Pending;
            }
            if !lingers {
                lingers = true;
                linger.as_mut().reset(Instant::now() + rules.linger);
            }
            ready!(linger.as_mut().poll(cx));
        }
        Poll::Ready(Ok(Moved { out: out.moved(), back: back.moved() }))
    })
    .await
}

#[cfg(test)]
mod tests;
