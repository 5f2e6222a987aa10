//! Git servers on loopback, on ports of the system's choice, which end with their tests.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Runs git for a test's own repository.
pub(super) fn git(dir: &Path, args: &[&str]) {
    let output = Command::new("git")
        .args(["-c", "user.name=t", "-c", "user.email=t@example", "-c", "init.defaultBranch=main"])
        .args(args)
        .current_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap();
    assert!(output.status.success(), "git {args:?}: {output:?}");
}

/// A bare repository `repo.git` below a directory, with these files.
pub(super) fn repository(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    fs::create_dir(&work).unwrap();
    git(&work, &["init", "-q"]);
    for (name, content) in files {
        let file = work.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap();
    }
    git(&work, &["add", "-A"]);
    git(&work, &["commit", "-qm", "one"]);
    git(dir.path(), &["clone", "-q", "--bare", "work", "repo.git"]);
    git(&dir.path().join("repo.git"), &["update-server-info"]);
    dir
}

/// Serves each connection in a thread of its own, until the tests end.
fn serve(each: impl Fn(TcpStream) + Send + Sync + Clone + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let each = each.clone();
            std::thread::spawn(move || each(stream));
        }
    });
    address
}

/// `git://`, by git's own daemon, one for each connection.
pub(super) fn git_server(base: &Path) -> SocketAddr {
    let base: PathBuf = base.to_owned();
    serve(move |stream| {
        let socket = || Stdio::from(std::os::fd::OwnedFd::from(stream.try_clone().unwrap()));
        let _status = Command::new("git")
            .args(["daemon", "--inetd", "--export-all"])
            .arg(format!("--base-path={}", base.display()))
            .arg(&base)
            .stdin(socket())
            .stdout(socket())
            .stderr(Stdio::null())
            .status();
    })
}

/// `http://`, the files of the repository for whoever says one of these passwords, or for anybody.
pub(super) fn http_server(base: &Path, basic: &'static [&'static str]) -> SocketAddr {
    let base: PathBuf = base.to_owned();
    serve(move |mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let says = |basic: &&str| head.contains(&format!("Authorization: Basic {basic}\r\n"));
        let authorised = basic.is_empty() || basic.iter().any(says);
        let target = head.split(' ').nth(1).unwrap_or("/").split('?').next().unwrap_or("/");
        let file = base.join(target.trim_start_matches('/'));
        let (status, body) = match fs::read(file) {
            _ if !authorised => ("401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"", Vec::new()),
            Ok(body) => ("200 OK", body),
            Err(_) => ("404 Not Found", Vec::new()),
        };
        let head =
            format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        let _gone = stream.write_all(&[head.into_bytes(), body].concat());
    })
}

/// Accepts and never says anything.
pub(super) fn silent_server() -> SocketAddr {
    serve(|mut stream| {
        let _until_it_goes = stream.read_to_end(&mut Vec::new());
    })
}

/// An address where nobody listens.
pub(super) fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
