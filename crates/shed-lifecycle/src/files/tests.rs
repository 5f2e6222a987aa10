use std::io;

use futures::stream;
use tokio::io::DuplexStream;

use super::*;

type Guest = Framed<DuplexStream, FrameCodec>;

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

/// Puts these pieces into a guest that `serve` plays, after it has read the request.
async fn put_into<F: Future<Output = ()>>(
    pieces: Vec<io::Result<Bytes>>,
    stall: Duration,
    serve: impl FnOnce(Guest) -> F,
) -> Result<FilesPut, PutFilesError> {
    let (host, guest) = tokio::io::duplex(64 << 10);
    let guest = async {
        let mut guest = Framed::new(guest, FrameCodec);
        let request: FilesRequest = guest.next().await.unwrap().unwrap().parse().unwrap();
        assert_eq!(request, FilesRequest::Put { target: "~/x".parse().unwrap() });
        serve(guest).await;
    };
    let (shed, target) = ("api".parse().unwrap(), "~/x".parse().unwrap());
    let whose = Whose { shed: &shed, target: &target };
    let (result, ()) = tokio::join!(put(host, stream::iter(pieces), &whose, stall), guest);
    result
}

fn piece(length: usize) -> io::Result<Bytes> {
    Ok(Bytes::from(vec![7; length]))
}

/// Reads the archive to its end, and returns how long it was and in how many frames it came.
async fn read(guest: &mut Guest) -> (usize, usize) {
    let (mut bytes, mut frames) = (0, 0);
    loop {
        let frame = guest.next().await.unwrap().unwrap();
        if frame.kind == FrameKind::StdinEof {
            return (bytes, frames);
        }
        assert_eq!(frame.kind, FrameKind::Data);
        bytes += frame.payload.len();
        frames += 1;
    }
}

fn reply(reply: &FilesReply) -> Frame {
    Frame::json(FrameKind::FilesReply, reply)
}

#[tokio::test]
async fn an_archive_arrives_whole_and_in_few_frames() {
    let pieces = (0..300).map(|_| piece(1000)).chain([piece(1 << 20), piece(0), piece(1)]).collect();
    let put = put_into(pieces, LONG, |mut guest| async move {
        let (bytes, frames) = read(&mut guest).await;
        assert_eq!(bytes, 300_000 + (1 << 20) + 1);
        assert!(frames <= bytes / PIECE + 1, "{frames} frames");
        let done = FilesReply {
            files: 3,
            directories: 2,
            links: 1,
            bytes: 9,
            warnings: vec!["a\u{1b}[2Jb".into(), "y".repeat(5000)],
            error: None,
        };
        guest.send(reply(&done)).await.unwrap();
    })
    .await
    .unwrap();
    assert_eq!((put.files, put.directories, put.links, put.bytes), (3, 2, 1, 9));
    assert!(!put.warnings[0].contains('\u{1b}') && put.warnings[1].len() < 1000, "{:?}", put.warnings);
}

#[tokio::test]
async fn a_guest_that_refuses_is_not_sent_the_rest() {
    for (kind, text) in [
        (FilesErrorKind::BadArchive, "is refused: \u{fffd}full\u{fffd}"),
        (FilesErrorKind::BadPath, "~/x in shed `api` cannot be written to"),
        (FilesErrorKind::NoSpace, "the disk of shed `api` is full"),
        (FilesErrorKind::Failed, "could not take the files"),
    ] {
        // Far more than the stream holds.
        let pieces = (0..1000).map(|_| piece(64 << 10)).collect();
        let error = put_into(pieces, LONG, |mut guest| async move {
            guest.send(reply(&FilesReply::failed(kind, "\u{7}full\u{1b}"))).await.unwrap();
        })
        .await
        .unwrap_err();
        let said = error.to_string();
        assert!(said.contains(text) || said.contains("full"), "{said:?}");
        assert!(!said.contains(char::is_control), "{said:?}");
    }
}

#[tokio::test]
async fn an_archive_that_breaks_off_is_never_ended() {
    let pieces = vec![piece(100), Err(io::ErrorKind::ConnectionReset.into())];
    let error = put_into(pieces, LONG, |mut guest| async move {
        while let Some(Ok(frame)) = guest.next().await {
            assert_ne!(frame.kind, FrameKind::StdinEof);
        }
    })
    .await
    .unwrap_err();
    assert!(matches!(error, PutFilesError::Body(_)), "{error}");
}

#[tokio::test]
async fn guests_that_answer_badly_are_errors_of_the_guest() {
    let hung_up = put_into(vec![piece(1)], LONG, |guest| async { drop(guest) }).await.unwrap_err();
    assert!(matches!(hung_up, PutFilesError::HungUp { .. }), "{hung_up}");
    let nonsense = put_into(vec![piece(1)], LONG, |mut guest| async move {
        read(&mut guest).await;
        guest.send(Frame::new(FrameKind::Data, Bytes::from_static(b"ignored"))).await.unwrap();
        guest.send(Frame::new(FrameKind::FilesReply, Bytes::from_static(b"\x1b nonsense"))).await.unwrap();
    })
    .await
    .unwrap_err();
    assert!(matches!(nonsense, PutFilesError::Unreadable { .. }), "{nonsense}");
    assert!(!nonsense.to_string().contains('\u{1b}'));
    let too_long = put_into(vec![piece(1)], LONG, |guest| async move {
        let mut stream = guest.into_inner();
        tokio::io::AsyncWriteExt::write_all(&mut stream, &[0x31, 0xff, 0, 0, 0]).await.unwrap();
        std::future::ready(()).await;
    })
    .await
    .unwrap_err();
    assert!(matches!(too_long, PutFilesError::Broken { .. }), "{too_long}");
}

#[tokio::test]
async fn a_guest_that_takes_nothing_or_says_nothing_is_not_waited_for_for_ever() {
    let stall = Duration::from_millis(200);
    for read_it in [false, true] {
        let pieces = (0..100).map(|_| piece(64 << 10)).collect();
        let error = put_into(pieces, stall, |mut guest| async move {
            if read_it {
                read(&mut guest).await;
            }
            // Longer than the host waits, and the stream stays open.
            tokio::time::sleep(stall * 10).await;
        })
        .await
        .unwrap_err();
        assert!(matches!(error, PutFilesError::Stalled { .. }), "{error}");
    }
}
