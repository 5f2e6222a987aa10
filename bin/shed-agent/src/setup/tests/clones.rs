//! Clones: what they leave, how they fail, and what they never show.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use shed_protocol::{CloneRequest, Step};

use super::{git, host::*};
use crate::setup::*;

fn clone(url: &str) -> SetupRequest {
    let clone = CloneRequest { url: url.to_owned(), known_hosts: Vec::new() };
    SetupRequest { clone: Some(clone), ..request(Occasion::Create) }
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).unwrap().next().is_none()
}

/// Every file below a directory, one behind the other.
fn everything(directory: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text += &everything(&path);
        } else {
            text += &format!("{}\n{}\n", path.display(), String::from_utf8_lossy(&fs::read(&path).unwrap()));
        }
    }
    text
}

#[tokio::test]
async fn a_clone_is_the_users_and_its_hooks_run() {
    let repository = git::repository(&[
        (".shed/provision.yaml", "hooks: {install: setup/install}\n"),
        ("setup/install", "echo installed in $PWD > done; git log --oneline | cat"),
        ("README", "hello"),
    ]);
    let address = git::git_server(repository.path());
    let guest = Guest::new();
    let told = guest.set_up(&clone(&format!("git://{address}/repo.git"))).await;
    assert_eq!(told.ends(), "clone:done provision:done install:done startup:skipped", "{told:?}");
    assert_eq!(guest.read("workspace/README"), "hello");
    assert_eq!(
        guest.read("workspace/done").trim(),
        format!("installed in {}", guest.path("workspace").display())
    );
    for path in ["workspace/README", "workspace/.git/config", "workspace/.git/objects"] {
        assert_eq!(fs::metadata(guest.path(path)).unwrap().uid(), guest.user().uid, "{path}");
    }
    // Progress is a terminal's, as git writes it.
    assert!(told.text().contains("Cloning into '.'") && told.text().contains('\r'), "{}", told.text());
    assert!(guest.read("logs/clone.log").contains("Cloning into '.'"));
}

#[tokio::test]
async fn a_workspace_that_is_not_empty_is_left_alone() {
    let repository = git::repository(&[("README", "hello")]);
    let address = git::git_server(repository.path());
    let guest = Guest::new();
    guest.write("workspace/.hidden", "mine");
    let told = guest.set_up(&clone(&format!("git://{address}/repo.git"))).await;
    assert_eq!(told.ends(), "clone:failed");
    let message = &told.failure().1.message;
    assert!(message.contains("is not empty, \".hidden\" is there"), "{message}");
    assert_eq!(guest.read("workspace/.hidden"), "mine");
    assert_eq!(fs::read_dir(guest.path("workspace")).unwrap().count(), 1);
}

#[tokio::test]
async fn each_way_to_fail_says_why_and_leaves_nothing() {
    let repository = git::repository(&[("README", "hello")]);
    let (git, http) = (git::git_server(repository.path()), git::http_server(repository.path(), &[]));
    let (private, nobody) = (git::http_server(repository.path(), &["eDp5"]), git::nobody());
    for (url, says) in [
        (format!("git://{git}/none.git"), "repository not exported"),
        (format!("http://{http}/none.git"), "not found"),
        (format!("http://{private}/repo.git"), "terminal prompts disabled"),
        (format!("http://me:wrong@{private}/repo.git"), "Authentication failed"),
        (format!("git://{nobody}/repo.git"), "Connection refused"),
        ("http://no-such-host.invalid/repo.git".to_owned(), "Could not resolve host"),
        (format!("ssh://me@127.0.0.1:{}/repo.git", nobody.port()), "Connection refused"),
        ("me@no-such-host.invalid:repo.git".to_owned(), "Could not resolve hostname"),
    ] {
        let guest = Guest::new();
        let told = guest.set_up(&clone(&url)).await;
        assert_eq!(told.ends(), "clone:failed", "{url}: {told:?}");
        let (step, failure) = told.failure();
        assert_eq!((step, failure.code, failure.timed_out), (Step::Clone, Some(128), false), "{url}");
        let shown = url.replace("wrong", "***");
        assert_eq!(failure.message, format!("the clone of {shown} ended with exit code 128"));
        let lines = failure.last_lines.join("\n");
        assert!(lines.to_lowercase().contains(&says.to_lowercase()), "{url}: {lines}");
        assert!(is_empty(&guest.path("workspace")), "{url}");
    }
}

#[tokio::test]
async fn a_clone_that_hangs_is_ended_and_leaves_nothing() {
    let address = git::silent_server();
    let guest = Guest::new();
    let request = SetupRequest { limit_ms: Some(1500), ..clone(&format!("git://{address}/repo.git")) };
    let told = guest.set_up(&request).await;
    let (_, failure) = told.failure();
    assert!(failure.timed_out && failure.message.contains("took longer than"), "{failure:?}");
    assert!(is_empty(&guest.path("workspace")));

    // A stop does not wait for it.
    let host = guest.ask(&clone(&format!("git://{address}/repo.git")), 1 << 20).await;
    until(|| guest.path("workspace/.git").exists().then_some(())).await;
    assert_eq!(guest.occasion(Occasion::Stop).await.ends(), "provision:skipped shutdown:skipped");
    assert_eq!(host.told().await.ends(), "clone:failed");
    assert!(is_empty(&guest.path("workspace")));
}

#[tokio::test]
async fn what_was_checked_out_goes_and_what_others_have_put_there_stays() {
    let repository = git::repository(&[("README", "hello"), ("src/main", "x")]);
    let address = git::git_server(repository.path());
    let guest = Guest::new();
    // A hook of git's that fails after the checkout, and meanwhile somebody works in the shed.
    let hooks = "home/template/hooks/post-checkout";
    guest.write(hooks, "#!/bin/sh\necho mine > theirs; exit 1\n");
    fs::set_permissions(guest.path(hooks), fs::Permissions::from_mode(0o755)).unwrap();
    guest.write(
        "home/.gitconfig",
        &format!("[init]\n\ttemplateDir = {}\n", guest.path("home/template").display()),
    );
    let told = guest.set_up(&clone(&format!("git://{address}/repo.git"))).await;
    assert_eq!(told.ends(), "clone:failed", "{told:?}");
    let left: Vec<_> =
        fs::read_dir(guest.path("workspace")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["theirs"]);
}

#[tokio::test]
async fn no_password_is_shown_or_kept_but_by_git() {
    // me:p@w:s3cret as a header has it, and me:p%40w:s3cret of a git that does not decode it.
    let repository = git::repository(&[("README", "hello")]);
    let private = git::http_server(repository.path(), &["bWU6cEB3OnMzY3JldA==", "bWU6cCU0MHc6czNjcmV0"]);
    let (spelt, real) = ("p%40w:s3cret", "p@w:s3cret");
    for (path, ends) in [
        ("repo.git", "clone:done provision:skipped install:skipped startup:skipped"),
        ("none.git", "clone:failed"),
    ] {
        let guest = Guest::new();
        let url = format!("http://me:{spelt}@{private}/{path}");
        let request =
            SetupRequest { env: vec!["GIT_TRACE=1".into(), "GIT_TRACE_CURL=1".into()], ..clone(&url) };
        let told = guest.set_up(&request).await;
        assert_eq!(told.ends(), ends, "{}", told.text());
        assert!(told.text().contains("me:***@"), "{}", told.text());
        let report = serde_json::to_string(&guest.state.setups.report().unwrap()).unwrap();
        let seen = format!(
            "{}{:?}{report}{}{}",
            told.text(),
            told.events,
            everything(&guest.path("logs")),
            everything(&guest.path("run"))
        );
        assert!(!seen.contains(spelt) && !seen.contains(real), "{seen}");
        if ends.starts_with("clone:done") {
            // Where a push will look for it.
            assert!(guest.read("workspace/.git/config").contains(spelt));
        }
    }
}

#[tokio::test]
async fn ssh_knows_the_hosts_and_asks_nobody() {
    let repository = git::repository(&[("README", "hello")]);
    let guest = Guest::new();
    // Stands in for ssh: notes how it was called, and is the server.
    guest.write(
        "home/bin/ssh",
        &format!(
            "#!/bin/sh\necho \"$GIT_TERMINAL_PROMPT $@\" >> ~/calls\ncd {} && exec git -c safe.directory='*' upload-pack repo.git\n",
            repository.path().display()
        ),
    );
    fs::set_permissions(guest.path("home/bin/ssh"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("PATH={}:{}", guest.path("home/bin").display(), std::env::var("PATH").unwrap());
    let known_hosts = vec!["git.example ssh-ed25519 AAAA".to_owned()];
    let request = SetupRequest {
        clone: Some(CloneRequest { url: "git@git.example:repo.git".into(), known_hosts }),
        env: vec![path],
        ..request(Occasion::Create)
    };
    let told = guest.set_up(&request).await;
    assert_eq!(
        told.ends(),
        "clone:done provision:skipped install:skipped startup:skipped",
        "{}",
        told.text()
    );
    let calls = guest.read("home/calls");
    assert!(
        calls.starts_with("0 ") && calls.contains("BatchMode=yes") && calls.contains("ConnectTimeout"),
        "{calls}"
    );
    assert_eq!(guest.read("home/.ssh/known_hosts"), "git.example ssh-ed25519 AAAA\n");
    assert_eq!(fs::metadata(guest.path("home/.ssh/known_hosts")).unwrap().uid(), guest.user().uid);

    // Whoever has said which ssh it is to be gets that one; known hosts that cannot be written cost a warning.
    for configured in ["environment", "config"] {
        fs::remove_dir_all(guest.path("workspace")).unwrap();
        guest.write("workspace/x", "");
        fs::remove_file(guest.path("workspace/x")).unwrap();
        fs::remove_file(guest.path("home/calls")).unwrap();
        let _absent = fs::remove_dir_all(guest.path("home/.ssh"));
        let _absent = fs::remove_file(guest.path("home/.ssh"));
        fs::write(guest.path("home/.ssh"), "no directory").unwrap();
        let mut request = request.clone();
        if configured == "environment" {
            request.env.push("GIT_SSH_COMMAND=ssh --mine".into());
        } else {
            guest.write("home/.gitconfig", "[core]\n\tsshCommand = ssh --mine\n");
        }
        let told = guest.set_up(&request).await;
        assert!(told.ends().starts_with("clone:done"), "{told:?}");
        assert!(told.warnings().contains("known hosts are not written"), "{told:?}");
        let calls = guest.read("home/calls");
        assert!(calls.contains("--mine") && !calls.contains("BatchMode"), "{configured}: {calls}");
    }
}

#[tokio::test]
async fn without_git_it_says_so() {
    let guest = Guest::new();
    let request = SetupRequest { env: vec!["PATH=/nowhere".into()], ..clone("git://127.0.0.1:1/x") };
    let told = guest.set_up(&request).await;
    assert!(told.failure().1.message.ends_with("there is no git in this shed's image"), "{told:?}");
}
