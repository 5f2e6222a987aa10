//! Repositories on their way into real sheds, from real git servers on this host: what arrives, whose it is, what is
//! said when it does not arrive, and that a password is seen by git and by nobody else.

use std::fs;

use serde_json::{Value, json};
use vm_tests::{Cli, Config, FROM_GUEST, GitHost, LOGIN, Promises, Server, Stage};

const SHED: &str = "repo";

/// Creates a shed of this repository and returns what the CLI says with `--json`.
#[track_caller]
fn create(cli: &Cli, repo: &str) -> Value {
    let ran = cli.run(&["create", SHED, "--memory", "512", "--no-sync", "--json", "--repo", repo]).ok();
    ran.json()
}

/// Returns the warnings of a create.
fn warnings(created: &Value) -> String {
    let list = created["details"]["warnings"].as_array().cloned().unwrap_or_default();
    list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n")
}

/// A clone over HTTPS with a password in its URL and one over SSH with a key among the credentials bring everything, as user shed, into
/// /workspace; the password is in no place but the shed.
#[test]
fn a_private_repository_is_cloned() {
    let Some(mut stage) = Stage::new() else { return };
    let mut git = GitHost::new(stage.dir().join("git"));
    git.repository("private/app.git", &[("src/main.rs", "fn main() {}\n"), ("run.sh", "echo ran\n")]);
    let https = git.serve_https();
    let ssh = git.serve_ssh();
    let env_file = stage.dir().join("env");
    let keys = stage.dir().join("keys");
    fs::create_dir(&keys).expect("a directory");
    fs::rename(&ssh.key, keys.join("id_ed25519")).expect("the key moves");
    fs::write(&env_file, "GIT_SSL_NO_VERIFY=true\n").expect("env_file");
    stage.configure(Config {
        env_file: Some(env_file),
        git: Some(json!({ "extra_known_hosts": [ssh.known_host] })),
        credentials: Some(json!({ "git": { "source": keys, "target": "~/.ssh", "readonly": true } })),
        ..Config::default()
    });
    let server = stage.serve();
    let cli = stage.cli();
    let mut promises = Promises::new();
    let (user, password) = LOGIN;
    let url = format!("https://{user}:{password}@{https}/private/app.git");
    promises.keep("over HTTPS all of it arrives and belongs to user shed", || {
        let created = create(&cli, &url);
        assert_eq!(warnings(&created), "");
        assert_eq!(
            cli.sh(SHED, "cd /workspace && cat src/main.rs && ./run.sh && git status --porcelain && stat -c '%U %G' . src .git"),
            "fn main() {}\nran\nshed shed\nshed shed\nshed shed"
        );
        let shown = format!("https://{user}:***@{https}/private/app.git");
        assert_eq!(created["details"]["repo"], shown);
        assert_eq!(server.http().shed(SHED)["repo"], shown);
    });
    promises.keep("the password is nowhere but in the shed", || {
        let record = fs::read_to_string(stage.shed_file(SHED, "metadata.json")).expect("the record");
        let log = fs::read_to_string(stage.server_log()).expect("the server's log");
        let console = fs::read(stage.shed_file(SHED, "console.log")).expect("the console");
        let console = String::from_utf8_lossy(&console).into_owned();
        let guest = cli.sh(SHED, "cat /var/log/shed/*.log; sudo journalctl --no-pager -o cat || true");
        for (place, text) in [("record", record), ("log", log), ("console", console), ("guest's logs", guest)]
        {
            assert!(!text.contains(password), "the {place} has the password");
        }
    });
    cli.delete(SHED);
    promises.keep(
        "over SSH a key among the credentials and the host's own key are enough, and nobody is asked",
        || {
            let path = git.path("private/app.git");
            let login = std::env::var("USER").unwrap_or_else(|_| "root".to_owned());
            let created = create(&cli, &format!("ssh://{login}@{FROM_GUEST}:{}{path}", ssh.port));
            assert_eq!(warnings(&created), "");
            assert_eq!(cli.sh(SHED, "cat /workspace/src/main.rs"), "fn main() {}");
            let known =
                cli.sh(SHED, "stat -c '%a %U' ~/.ssh/known_hosts; grep -c github.com ~/.ssh/known_hosts");
            assert_eq!(known, "600 shed\n3");
            cli.delete(SHED);
        },
    );
    drop(server);
    stage.finish();
    promises.finish();
}

/// A repository that cannot be cloned is a warning with git's own reason, and the shed is there all the same.
#[test]
fn a_clone_that_fails_is_a_warning_with_its_reason() {
    let Some(stage) = Stage::new() else { return };
    let mut git = GitHost::new(stage.dir().join("git"));
    git.repository("app.git", &[("a", "a\n")]);
    let https = git.serve_https();
    let ssh = git.serve_ssh();
    let daemon = git.serve_git();
    let server = stage.serve();
    let cli = stage.cli();
    let closed = vm_tests::free_port();
    let mut promises = Promises::new();
    for (what, repo, reason) in [
        ("a repository that is not there", format!("{daemon}/nosuch.git"), "nosuch.git"),
        ("a port where nobody listens", format!("git://{FROM_GUEST}:{closed}/app.git"), "refused"),
        ("a certificate that nobody has signed", format!("https://{https}/app.git"), "certificate"),
        (
            "a host whose key is not known",
            format!("ssh://git@{FROM_GUEST}:{}/app.git", ssh.port),
            "Host key verification failed",
        ),
    ] {
        promises.keep(what, || {
            let created = create(&cli, &repo);
            let told = warnings(&created);
            assert!(told.contains("the clone of") && told.contains(reason), "{told}");
            assert!(told.contains("shed exec repo -- cat /var/log/shed/clone.log"), "{told}");
            assert_eq!(created["details"]["status"], "running");
            assert_eq!(cli.sh(SHED, "ls -A /workspace; tail -n 1 /var/log/shed/clone.log | wc -l"), "1");
            assert_eq!(server.http().shed(SHED)["repo"], repo.as_str());
            log_tells(&stage, "the clone of");
            cli.delete(SHED);
        });
    }
    promises.keep("what is no repository is refused before anything is made", || {
        refused(&server, &cli);
    });
    drop(server);
    stage.finish();
    promises.finish();
}

#[track_caller]
fn log_tells(stage: &Stage, text: &str) {
    let log = fs::read_to_string(stage.server_log()).expect("the server's log");
    assert!(log.contains(text), "{text:?} is not in the server's log");
}

#[track_caller]
fn refused(server: &Server, cli: &Cli) {
    for repo in [
        "--upload-pack=touch /tmp/x",
        "-o/x",
        "file:///etc",
        "ext::sh -c id",
        "/etc",
        "../x",
        "a b/c",
        "https://",
    ] {
        let body = json!({ "name": SHED, "repo": repo });
        assert_eq!(server.http().create(&body).is(400).error().0, "INVALID_REPO_URL", "{repo}");
        let ran = cli.run(&["create", SHED, "--no-sync", &format!("--repo={repo}")]);
        assert!(ran.code != 0 && ran.err().contains("is not a repository"), "{repo}: {}", ran.err());
    }
    assert_eq!(server.http().get(&format!("/api/sheds/{SHED}")).status, 404);
}
