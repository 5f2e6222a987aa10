//! The whole of the room with helpers that are scripts.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use shed_extensions::{Answer, Code, Failure};

use super::*;

const NOT_FOUND: &str = "echo 'credentials not found in native keychain'; echo 'stderr-secret' >&2; exit 1";

struct Stage {
    dir: tempfile::TempDir,
    docker: Docker,
}

impl Stage {
    /// A host whose Docker has this configuration, with r.example, docker.io and s.example allowed.
    fn new(config: &Value) -> Self {
        Self::with_limit(config, helper::LIMIT)
    }

    fn with_limit(config: &Value, limit: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config_path = dir.path().join("config.json");
        fs::write(&config_path, config.to_string()).unwrap();
        let registries =
            ["r.example", "docker.io", "s.example"].map(|name| Registry::parse(name).unwrap()).into();
        let search_path = format!("relative:{}:/usr/bin:/bin", dir.path().display());
        let options =
            Options { registries, allow_all: false, config_path, search_path: Some(search_path.into()) };
        Self { dir, docker: Docker::with_limit(options, limit) }
    }

    /// Puts a helper in its place. The script finds the directory in `$0`.
    fn helper(self, name: &str, script: &str) -> Self {
        let path = self.path(&format!("docker-credential-{name}"));
        // Written under another name: a script that is still open for writing cannot be run.
        let new = self.path("new");
        fs::write(&new, format!("#!/bin/sh\ncd \"$(dirname \"$0\")\"\n{script}\n")).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(new, path).unwrap();
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn ask(&self, payload: Value) -> Answer {
        self.docker.answer("http://server:8080", "web", &payload).await
    }

    async fn get(&self, server_url: &str) -> Answer {
        self.ask(json!({"operation": "get", "server_url": server_url})).await
    }

    async fn failure(&self, server_url: &str) -> (Failure, String) {
        let answer = self.get(server_url).await;
        (answer.result.unwrap_err(), answer.detail.unwrap())
    }
}

/// One that answers `get` and keeps what it was asked.
const GOOD: &str = r#"cat > asked; printf '{"ServerURL":"x","Username":"me","Secret":"hunter2"}'"#;

#[tokio::test]
async fn a_helper_is_asked_as_docker_asks_it() {
    let stage = Stage::new(&json!({"auths": {"https://r.example/v2/": {}}, "credsStore": "good"}))
        .helper("good", GOOD);
    stage.docker.available().await.unwrap();
    let answer = stage.get("https://R.example/v2/\n").await;
    let golden = json!({"server_url": "https://R.example/v2/", "username": "me", "secret": "hunter2"});
    assert_eq!(answer.result, Ok(golden));
    assert_eq!((answer.operation.as_str(), answer.detail.as_deref()), ("get", Some("r.example")));
    assert!(!format!("{answer:?}{:?}", stage.docker).contains("hunter2"));
    assert_eq!(fs::read_to_string(stage.path("asked")).unwrap(), "https://r.example/v2/");
    assert!(stage.get("registry-1.docker.io").await.result.is_ok());
    assert_eq!(fs::read_to_string(stage.path("asked")).unwrap(), "https://index.docker.io/v1/");
}

#[tokio::test]
async fn what_is_not_allowed_is_not_looked_up() {
    let stage = Stage::new(&json!({"credsStore": "good"})).helper("good", GOOD);
    let long = "x".repeat(1 << 20);
    for hostile in [
        "other.example",
        "r.example.other",
        "r.example/team",
        "r.example:5000",
        "r.example\nother",
        "r.example\0",
        "../r.example",
        "user@r.example",
        "r.example?",
        "",
        "\u{1b}[2J",
        "--help",
        &long,
    ] {
        let (failure, detail) = stage.failure(hostile).await;
        assert_eq!(failure.code, Code::RegistryNotAllowed, "{hostile:?}");
        for text in [failure.error, detail] {
            assert!(text.len() < 700 && !text.contains(char::is_control), "{text:?}");
        }
    }
    assert!(!stage.path("asked").exists());
}

#[tokio::test]
async fn the_next_place_is_asked_only_when_one_has_nothing() {
    let auth = json!({"auth": base64::Engine::encode(&base64::prelude::BASE64_STANDARD, "file:pw")});
    let config = json!({
        "auths": {"r.example": auth, "s.example": {"identitytoken": "idtok"}},
        "credHelpers": {"r.example": "empty"}, "credsStore": "store"
    });
    let stage = Stage::new(&config).helper("empty", NOT_FOUND).helper("store", NOT_FOUND);
    let user = |answer: Answer| answer.result.unwrap()["username"].as_str().unwrap().to_owned();
    assert_eq!(user(stage.get("r.example").await), "file");
    assert_eq!(stage.get("s.example").await.result.unwrap()["secret"], "idtok");
    let (failure, detail) = stage.failure("docker.io").await;
    assert_eq!(failure.code, Code::CredentialsNotFound);
    assert!(!format!("{failure:?}{detail}").contains("stderr-secret"));
    let stage = stage.helper("store", GOOD);
    assert_eq!(user(stage.get("r.example").await), "me");
    let stage = stage.helper("empty", "echo broken hunter2; echo stderr-secret >&2; exit 3");
    let (failure, detail) = stage.failure("r.example").await;
    assert_eq!(failure.code, Code::HelperFailed);
    assert!(failure.error.contains("docker-credential-empty") && failure.error.contains('3'), "{failure:?}");
    assert!(!format!("{failure:?}{detail}").contains("hunter2") && !detail.contains("stderr"));
}

#[tokio::test]
async fn helpers_that_misbehave_fail_and_leave_nothing() {
    let stage = Stage::new(&json!({"credsStore": "x"}));
    let garbage = [
        "",
        "[]",
        "{",
        r#"{"Username":"me"}"#,
        r#"{"Username":"me","Secret":""}"#,
        r#"{"Username":"a\n","Secret":"hunter2"}"#,
    ];
    let mut stage = stage;
    for output in garbage {
        fs::write(stage.path("output"), output).unwrap();
        stage = stage.helper("x", "cat output");
        let (failure, detail) = stage.failure("r.example").await;
        assert_eq!(failure.code, Code::HelperFailed, "{output}");
        assert!(!format!("{failure:?}{detail}").contains("hunter2"));
    }
    for endless in ["exec yes", "yes & yes", "exec cat /dev/zero"] {
        stage = stage.helper("x", endless);
        let (failure, _detail) = stage.failure("r.example").await;
        assert!(failure.error.contains("more than"), "{failure:?}");
    }
    // A megabyte of errors is read by nobody, and what is left running does not hold up the answer.
    let noisy = format!("head -c 1000000 /dev/zero >&2; sleep 1000 & echo $! > left; {GOOD}");
    stage = stage.helper("x", &noisy);
    let begun = Instant::now();
    assert!(stage.get("r.example").await.result.is_ok());
    assert!(begun.elapsed() < helper::LIMIT, "{:?}", begun.elapsed());
    ends(&stage, "left").await;
}

#[tokio::test]
async fn a_helper_that_hangs_is_killed_with_all_it_started() {
    let config = json!({"credsStore": "x"});
    let hanging = "sleep 1000 & echo $! > left; mv left child; wait";
    let stage = Stage::with_limit(&config, Duration::from_secs(2)).helper("x", hanging);
    let (failure, _detail) = stage.failure("r.example").await;
    assert_eq!(failure.code, Code::HelperFailed);
    assert!(failure.error.contains("within 2 s"), "{failure:?}");
    ends(&stage, "child").await;

    let stage = Stage::new(&config).helper("x", hanging);
    tokio::select! {
        _answer = stage.get("r.example") => panic!("it hangs"),
        () = async { while !stage.path("child").exists() { tokio::task::yield_now().await } } => {}
    }
    ends(&stage, "child").await;
}

/// Waits until the process whose number is in a file has ended.
async fn ends(stage: &Stage, file: &str) {
    let pid: u32 = fs::read_to_string(stage.path(file)).unwrap().trim().parse().unwrap();
    let process = shed_process::ProcessId::of(pid).unwrap();
    let Some(process) = process.and_then(|id| shed_process::WatchedProcess::open(id).unwrap()) else {
        return;
    };
    let ended = tokio::time::timeout(Duration::from_secs(10), process.dead()).await;
    ended.expect("what a helper has started still runs").unwrap();
}

#[tokio::test]
async fn the_name_of_a_helper_is_a_plain_name() {
    let long = "x".repeat(65);
    for (name, why) in [
        ("../../bin/sh", "no name"),
        ("a b", "no name"),
        ("a/b", "no name"),
        ("x\n", "no name"),
        (&long, "no name"),
        ("shed", "asks Shed itself"),
        ("SHED", "asks Shed itself"),
        ("missing", "not on the host"),
        ("plain", "not on the host"),
    ] {
        let stage = Stage::new(&json!({"credsStore": name}));
        fs::write(stage.path("docker-credential-plain"), "not executable").unwrap();
        let (failure, _detail) = stage.failure("r.example").await;
        assert_eq!(failure.code, Code::HelperFailed);
        assert!(failure.error.contains(why) && failure.error.len() < 300, "{name}: {failure:?}");
    }
    let stage = Stage::new(&json!({"credsStore": "x"}));
    fs::write(stage.path("docker-credential-x"), "\0\0").unwrap();
    fs::set_permissions(stage.path("docker-credential-x"), fs::Permissions::from_mode(0o755)).unwrap();
    assert!(stage.failure("r.example").await.0.error.contains("could not be run"));
}

#[tokio::test]
async fn a_list_names_what_is_allowed() {
    let auth = json!({"auth": base64::Engine::encode(&base64::prelude::BASE64_STANDARD, "file:pw")});
    let config = json!({
        "auths": {"https://index.docker.io/v1/": auth, "hidden.example": auth},
        "credHelpers": {"s.example": "own", "hidden.example": "broken"}, "credsStore": "store"
    });
    let stage = Stage::new(&config)
        .helper("own", r#"printf '{"s.example":"own","r.example":"not-its-own"}'"#)
        .helper("store", r#"printf '{"https://r.example":"store","other.example":"x","bad\\n":"y"}'"#)
        .helper("broken", "exit 1");
    let answer = stage.ask(json!({"operation": "list"})).await;
    let golden =
        json!({"https://index.docker.io/v1/": "file", "https://r.example": "store", "s.example": "own"});
    assert_eq!(answer.result, Ok(json!({"registries": golden})));
    assert_eq!(answer.detail.as_deref(), Some("3 registries"));
}

#[tokio::test]
async fn nothing_is_stored_or_erased() {
    let stage = Stage::new(&json!({"credsStore": "good"})).helper("good", GOOD);
    for operation in ["store", "erase"] {
        let answer =
            stage.ask(json!({"operation": operation, "server_url": "r.example", "secret": "hunter2"})).await;
        assert_eq!(answer.result.unwrap_err().code, Code::ReadOnly);
    }
    for payload in [
        Value::Null,
        json!({"operation": "login"}),
        json!({"operation": "get"}),
        json!({"operation": "get", "server_url": 7}),
    ] {
        assert_eq!(stage.ask(payload).await.result.unwrap_err().code, Code::InternalError);
    }
    assert!(!stage.path("asked").exists());
    assert_eq!(stage.ask(json!({"operation": "ping"})).await.result, Ok(json!({"status": "ok"})));
    let status = stage.ask(json!({"operation": "status"})).await.result;
    assert_eq!(status, Ok(json!({"connected": true, "allow_all": false, "registry_count": 3})));
}

#[tokio::test]
async fn the_configuration_is_read_anew() {
    let stage = Stage::new(&json!({"auths": {"r.example": {"username": "old", "password": "p"}}}));
    assert_eq!(stage.get("r.example").await.result.unwrap()["username"], "old");
    let config = stage.path("config.json");
    fs::write(&config, json!({"auths": {"r.example": {"username": "newer", "password": "p"}}}).to_string())
        .unwrap();
    assert_eq!(stage.get("r.example").await.result.unwrap()["username"], "newer");
    let secret = "{\"auths\": {\"r.example\": \"hunter2\"}}".to_owned();
    for (contents, why) in
        [(secret, "line 1"), ("x".repeat((4 << 20) + 1), "more than"), (String::new(), "line 1")]
    {
        fs::write(&config, contents).unwrap();
        let (failure, detail) = stage.failure("r.example").await;
        assert_eq!(failure.code, Code::InternalError);
        assert!(detail.contains(why) && !detail.contains("hunter2"), "{detail}");
        assert!(!failure.error.contains(&*stage.dir.path().to_string_lossy()), "{failure:?}");
    }
    fs::remove_file(&config).unwrap();
    assert!(stage.docker.available().await.unwrap_err().to_string().contains("docker login"));
}

#[tokio::test]
async fn without_an_allowlist_there_is_nothing_unless_all_is_allowed() {
    let stage = Stage::new(&json!({"auths": {"any.example": {"username": "u", "password": "p"}}}));
    let options = Options { registries: BTreeSet::new(), ..stage.docker.options.clone() };
    let none = Docker::new(options.clone());
    assert!(none.available().await.unwrap_err().to_string().contains("docker.registries"));
    let all = Docker::new(Options { allow_all: true, ..options });
    all.available().await.unwrap();
    let get = json!({"operation": "get", "server_url": "any.example"});
    assert_eq!(all.answer("s", "web", &get).await.result.unwrap()["username"], "u");
}
