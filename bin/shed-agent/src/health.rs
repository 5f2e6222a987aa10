//! The health service (port 1025, spec B.4), and how healthy the guest is.

use futures::{SinkExt, StreamExt};
use rustix::{
    fs::{Mode, OFlags, StatVfsMountFlags},
    io::Errno,
};
use shed_protocol::{Frame, FrameCodec, FrameKind, HealthReport, HealthStatus};
use tokio_util::codec::Framed;

use crate::{serve::ByteStream, state::State};

/// Answers health requests until the host closes the stream.
pub(crate) async fn serve(stream: impl ByteStream) {
    let mut frames = Framed::new(stream, FrameCodec);
    while let Some(Ok(frame)) = frames.next().await {
        if frame.kind == FrameKind::HealthRequest
            && frames.send(Frame::empty(FrameKind::HealthResponse)).await.is_err()
        {
            return;
        }
    }
}

/// Looks at the guest.
pub(crate) fn report(state: &State) -> HealthReport {
    let status = if root_is_writable() { HealthStatus::Ok } else { HealthStatus::Degraded };
    HealthReport {
        status,
        started_at: state.started_at,
        metrics: Some(state.meter.measure()),
        setup: state.setups.report(),
        extensions: state.extensions.report(),
    }
}

/// Tries it with a file that has no name: below an overlay the mount flags do not tell that the disk has become
/// read-only after an error.
fn root_is_writable() -> bool {
    match rustix::fs::open("/", OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::RUSR) {
        Ok(_file) => true,
        // Not every file system can make such a file.
        Err(Errno::OPNOTSUPP | Errno::ISDIR) => {
            rustix::fs::statvfs("/").is_ok_and(|fs| !fs.f_flag.contains(StatVfsMountFlags::RDONLY))
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_request_gets_one_answer_and_other_frames_none() {
        let (ours, theirs) = tokio::io::duplex(1024);
        let server = tokio::spawn(serve(theirs));
        let mut frames = Framed::new(ours, FrameCodec);
        for _ in 0..2 {
            frames.send(Frame::empty(FrameKind::StdinEof)).await.unwrap();
            frames.send(Frame::empty(FrameKind::HealthRequest)).await.unwrap();
            assert_eq!(frames.next().await.unwrap().unwrap(), Frame::empty(FrameKind::HealthResponse));
        }
        drop(frames);
        server.await.unwrap();
    }
}
