use std::{os::unix::fs::MetadataExt, time::Duration};

use futures::SinkExt;
use tokio::{
    io::{DuplexStream, duplex},
    time::timeout,
};
use tokio_util::codec::Framed;

use super::*;

type Host = Framed<DuplexStream, FrameCodec>;

/// Longer than anything here takes.
const SOON: Duration = Duration::from_secs(60);

fn begin(request: &serde_json::Value) -> (Vec<Frame>, Host, DuplexStream) {
    let (host, guest) = duplex(64 << 10);
    let first = Frame::new(FrameKind::FilesRequest, request.to_string().into());
    (vec![first], Framed::new(host, FrameCodec), guest)
}

fn put_request(target: &Path) -> serde_json::Value {
    serde_json::json!({ "op": "put", "target": target.to_str().unwrap() })
}

/// Sends the frames, and returns what the agent says in the end.
async fn talk(
    (frames, mut host, guest): (Vec<Frame>, Host, DuplexStream),
    hang_up: bool,
) -> Option<FilesReply> {
    let serving = tokio::spawn(async move { serve(guest, &State::new()).await });
    for frame in frames {
        if host.send(frame).await.is_err() {
            break;
        }
    }
    if hang_up {
        drop(host);
        timeout(SOON, serving).await.unwrap().unwrap();
        return None;
    }
    let reply = timeout(SOON, host.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(reply.kind, FrameKind::FilesReply);
    assert!(timeout(SOON, host.next()).await.unwrap().is_none(), "nothing comes behind the reply");
    Some(reply.parse().unwrap())
}

/// An archive of `names`, each 300 kB long.
fn archive(names: &[&str]) -> Vec<u8> {
    let source = tempfile::tempdir().unwrap();
    let mut writer = shed_files::TarWriter::new(Vec::new());
    for name in names {
        fs::write(source.path().join("f"), vec![7; 300_000]).unwrap();
        let scan = shed_files::scan_file(&source.path().join("f"), name).unwrap();
        shed_files::pack(scan, &mut writer, &mut |_| ()).unwrap();
    }
    writer.finish().unwrap()
}

fn data(bytes: &[u8]) -> Vec<Frame> {
    bytes.chunks(10_000).map(|piece| Frame::new(FrameKind::Data, Bytes::copy_from_slice(piece))).collect()
}

fn found(path: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn files_arrive_and_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("a/b");
    let mut talking = begin(&put_request(&target));
    talking.0.extend(data(&archive(&["x", "y"])));
    // Padding behind the end mark, and frames of a newer host, are no harm.
    talking
        .0
        .extend([Frame::new(FrameKind::Data, vec![0; 9000].into()), Frame::empty(FrameKind::HealthRequest)]);
    talking.0.push(Frame::empty(FrameKind::StdinEof));
    let reply = talk(talking, false).await.unwrap();
    assert_eq!((reply.error, reply.files, reply.bytes), (None, 2, 600_000));
    assert_eq!(found(&target), ["x", "y"]);
    if rustix::process::geteuid().is_root() {
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let user = users::default(&passwd, "", "");
        assert_eq!(fs::metadata(target.join("x")).unwrap().uid(), user.uid);
    }
}

#[tokio::test]
async fn a_host_that_goes_away_leaves_nothing_half_written() {
    let whole = archive(&["x", "y"]);
    for (length, names) in [(0, &[][..]), (100_000, &[]), (500_000, &["x"]), (whole.len(), &["x", "y"])] {
        let dir = tempfile::tempdir().unwrap();
        let mut talking = begin(&put_request(dir.path()));
        talking.0.extend(data(&whole[..length]));
        talk(talking, true).await;
        // The thread may still be at it for a moment when the stream's own task has ended.
        assert_eq!(found(dir.path()), names, "{length}");
    }
}

#[tokio::test]
async fn a_failure_is_told_before_the_archive_ends() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let whole = archive(&["x"; 20]);
    for (target, bytes, kind) in [
        (file.as_path(), &whole[..], FilesErrorKind::BadPath),
        (dir.path(), &vec![7; 1 << 20][..], FilesErrorKind::BadArchive),
    ] {
        let mut talking = begin(&put_request(target));
        talking.0.extend(data(bytes));
        let reply = talk(talking, false).await.unwrap();
        assert_eq!(reply.error.unwrap().kind, kind);
    }
    assert_eq!(found(dir.path()), ["file"]);
}

#[tokio::test]
async fn an_archive_that_is_cut_off_is_a_bad_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut talking = begin(&put_request(dir.path()));
    talking.0.extend(data(&archive(&["x"])[..200_000]));
    talking.0.push(Frame::empty(FrameKind::StdinEof));
    let error = talk(talking, false).await.unwrap().error.unwrap();
    assert_eq!(error.kind, FilesErrorKind::BadArchive);
    assert!(error.message.contains("cut off"), "{}", error.message);
    assert!(found(dir.path()).is_empty());
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused() {
    for request in [
        serde_json::json!({}),
        serde_json::json!({ "op": "put", "target": "relative" }),
        serde_json::json!({ "op": "put", "target": "/a/../b" }),
        serde_json::json!({ "op": "burn", "target": "/x" }),
    ] {
        let error = talk(begin(&request), false).await.unwrap().error.unwrap();
        assert_eq!(error.kind, FilesErrorKind::Failed, "{request}");
    }
    let (_, host, guest) = begin(&serde_json::json!({}));
    let reply = talk((vec![Frame::empty(FrameKind::StdinEof)], host, guest), false).await.unwrap();
    assert!(reply.error.is_some());
}

/// Asks for files, and returns the archive and what the agent says in the end.
async fn get_from(request: &serde_json::Value) -> (Vec<u8>, FilesReply) {
    let (frames, mut host, guest) = begin(request);
    tokio::spawn(async move { serve(guest, &State::new()).await });
    for frame in frames {
        host.send(frame).await.unwrap();
    }
    let mut archive = Vec::new();
    loop {
        let frame = timeout(SOON, host.next()).await.unwrap().unwrap().unwrap();
        match frame.kind {
            FrameKind::Data => archive.extend_from_slice(&frame.payload),
            FrameKind::FilesReply => return (archive, frame.parse().unwrap()),
            other => panic!("{other:?}"),
        }
    }
}

fn names_in(archive: &[u8]) -> Vec<String> {
    let mut reader = shed_files::TarReader::new(archive);
    let mut names = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        assert_eq!(entry.kind, shed_files::EntryKind::File);
        names.push(String::from_utf8(entry.name).unwrap());
    }
    names
}

#[tokio::test]
async fn files_are_sent_and_links_and_what_is_too_long_are_not() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    fs::create_dir_all(path.join("d/e")).unwrap();
    fs::create_dir(path.join("cache")).unwrap();
    for (name, length) in [("d/e/x", 100), ("y", 300_000), ("z", 20), ("long", 600_000), ("cache/c", 1)] {
        fs::write(path.join(name), vec![7; length]).unwrap();
    }
    fs::File::create(path.join("sparse")).unwrap().set_len(1 << 40).unwrap();
    symlink("/etc/passwd", path.join("link")).unwrap();
    symlink("/etc", path.join("etc")).unwrap();
    let all = serde_json::json!({
        "op": "get", "source": path, "excludes": ["cache/*"], "max_file": 500_000, "max_total": 300_110,
    });
    let (archive, reply) = get_from(&all).await;
    assert_eq!(names_in(&archive), ["d/e/x", "y"]);
    assert_eq!((reply.error, reply.files, reply.bytes, reply.warnings.len()), (None, 2, 300_100, 3));
    let some = serde_json::json!({
        "op": "get", "source": path, "excludes": ["cache/*"],
        "only": ["z", "gone", "link", "etc/passwd", "../x", "/etc/passwd", "", "d", "cache/c", "d/e/x", "./z"],
    });
    let (archive, reply) = get_from(&some).await;
    assert_eq!(names_in(&archive), ["z", "d/e/x"]);
    assert_eq!((reply.files, reply.warnings.len()), (2, 8), "{:?}", reply.warnings);
    for source in [path.join("etc"), path.join("none"), path.join("z")] {
        let (archive, reply) = get_from(&serde_json::json!({ "op": "get", "source": source })).await;
        assert!(archive.is_empty());
        assert_eq!(reply.error.unwrap().kind, FilesErrorKind::BadPath);
    }
    let (_, reply) = get_from(&serde_json::json!({ "op": "get", "source": path, "excludes": ["["] })).await;
    assert!(reply.error.is_some());
}

#[tokio::test]
async fn links_of_the_user_do_not_lead_root_out_of_the_home_directory() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let (home, outside) = (dir.path().join("home"), dir.path().join("outside"));
    fs::create_dir_all(outside.join("sub")).unwrap();
    fs::create_dir(&home).unwrap();
    fs::write(outside.join("sub/secret"), "secret").unwrap();
    symlink(&outside, home.join(".claude")).unwrap();
    let home = home.to_str().unwrap();
    for path in [".claude", ".claude/sub", ".claude/new"] {
        let place = || Place::of(format!("{home}/{path}"), home);
        let frames = [Frame::new(FrameKind::Data, archive(&["x"]).into()), Frame::empty(FrameKind::StdinEof)];
        let reply = put(futures::stream::iter(frames.map(Ok)), place(), None).await.unwrap();
        assert_eq!(reply.error.unwrap().kind, FilesErrorKind::BadPath, "{path}");
        let (ours, mut theirs) = duplex(64 << 10);
        let wanted = Wanted { source: place(), excludes: vec![], only: vec![], max_file: 0, max_total: 0 };
        let mut sent = Vec::new();
        let (_, read) = tokio::join!(
            get::get(ours, wanted),
            tokio::io::AsyncReadExt::read_to_end(&mut theirs, &mut sent)
        );
        read.unwrap();
        assert!(!String::from_utf8_lossy(&sent).contains("secret\0"), "{path}");
        assert!(String::from_utf8_lossy(&sent).contains("is no directory that can be read"), "{path}");
    }
    assert_eq!(found(&outside), ["sub"]);
    assert!(Place::of("/etc/x".into(), home).below().is_none());
    assert!(Place::of("/workspace/x".into(), home).below().is_some());
    assert!(Place::of("/etc/x".into(), "/").below().is_none());
}
