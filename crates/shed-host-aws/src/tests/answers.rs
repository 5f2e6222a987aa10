//! What a shed is answered, by what AWS does.

use std::{path::Path, time::Duration};

use axum::http::StatusCode;
use serde_json::{Value, json};
use shed_extensions::{Answer, Code, Failure};

use super::fake_sts::{Behaviour, FakeSts};
use crate::{Aws, Options, ProfileFiles};

const DEV: &str = "arn:aws:iam::123456789012:role/dev";
const WEB: &str = "arn:aws:iam::123456789012:role/web";
const SERVER: &str = "http://server:8080";

/// Profiles `work`, which asks the fake service, and `default`, which has nothing.
fn profiles(dir: &Path, url: &str) -> ProfileFiles {
    let files = ProfileFiles { config: dir.join("config"), credentials: dir.join("credentials") };
    let config = format!("[profile work]\nregion = eu-central-1\nendpoint_url = {url}\n");
    std::fs::write(&files.config, config).unwrap();
    let keys = "[work]\naws_access_key_id = AKIAUSER\naws_secret_access_key = users-own-secret\n";
    std::fs::write(&files.credentials, keys).unwrap();
    files
}

fn options(files: ProfileFiles) -> Options {
    Options {
        source_profile: "work".to_owned(),
        default_role: Some(DEV.to_owned()),
        roles: [("web".to_owned(), WEB.to_owned())].into(),
        session_duration: Duration::from_hours(1),
        refresh_before: Duration::from_mins(5),
        files,
    }
}

struct Stage {
    dir: tempfile::TempDir,
    sts: FakeSts,
    aws: Aws,
}

impl Stage {
    async fn new(behaviour: Behaviour) -> Self {
        Self::with_limits(behaviour, crate::LIMIT, crate::ENTRIES).await
    }

    async fn with_limits(behaviour: Behaviour, limit: Duration, entries: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sts = FakeSts::start(behaviour).await;
        let aws = Aws::with_limits(options(profiles(dir.path(), &sts.url)), limit, entries);
        Self { dir, sts, aws }
    }

    async fn ask(&self, shed: &str) -> Answer {
        self.aws.answer(SERVER, shed, &json!({"operation": "get_credentials"})).await
    }

    async fn key(&self, shed: &str) -> String {
        self.ask(shed).await.result.unwrap()["access_key_id"].as_str().unwrap().to_owned()
    }

    async fn failure(&self, shed: &str) -> (Failure, String) {
        let answer = self.ask(shed).await;
        (answer.result.unwrap_err(), answer.detail.unwrap())
    }
}

#[tokio::test]
async fn a_shed_gets_credentials_of_its_role() {
    let stage = Stage::new(Behaviour::Gives(3600)).await;
    stage.aws.available().await.unwrap();
    let answer = stage.ask("web").await;
    let payload = answer.result.as_ref().unwrap();
    assert_eq!(payload["access_key_id"], "ASIA1");
    assert_eq!(payload["secret_access_key"], "hunter1");
    assert_eq!(payload["session_token"], "token1");
    let expiration = payload["expiration"].as_str().unwrap();
    assert!(expiration.parse::<jiff::Timestamp>().unwrap() > jiff::Timestamp::now());
    assert_eq!(answer.operation, "get_credentials");
    assert_eq!(answer.detail.as_deref(), Some(format!("expires {expiration}, role {WEB}").as_str()));
    assert!(!format!("{answer:?}{:?}", stage.aws).contains("hunter"));

    let _other = stage.key("other").await;
    let calls = stage.sts.calls();
    let [web, other] = calls.as_slice() else { panic!("{calls:?}") };
    assert_eq!((web.form["Action"].as_str(), web.form["RoleArn"].as_str()), ("AssumeRole", WEB));
    assert_eq!((other.form["RoleArn"].as_str(), other.form["DurationSeconds"].as_str()), (DEV, "3600"));
    let session = web.form["RoleSessionName"].strip_prefix("shed-web-").unwrap();
    assert!(session.parse::<i64>().unwrap() > 1_700_000_000, "{session}");
    assert!(
        web.authorization.contains("Credential=AKIAUSER/")
            && web.authorization.contains("/eu-central-1/sts/")
    );
}

#[tokio::test]
async fn credentials_are_kept_by_server_and_shed() {
    let stage = Stage::new(Behaviour::Gives(3600)).await;
    let status = json!({"operation": "status"});
    let before = stage.aws.answer(SERVER, "web", &status).await.result.unwrap();
    assert_eq!(before, json!({"connected": true, "role": WEB}));
    assert_eq!([stage.key("web").await, stage.key("web").await], ["ASIA1", "ASIA1"]);
    let elsewhere = stage.aws.answer("http://other", "web", &json!({"operation": "get_credentials"})).await;
    assert_eq!(elsewhere.result.unwrap()["access_key_id"], "ASIA2");
    let after = stage.aws.answer(SERVER, "web", &status).await.result.unwrap();
    let until: jiff::Timestamp = after["cached_until"].as_str().unwrap().parse().unwrap();
    let minutes = (until - jiff::Timestamp::now()).total(jiff::Unit::Minute).unwrap();
    assert!((50.0..=55.0).contains(&minutes), "{minutes}");
}

#[tokio::test]
async fn credentials_near_their_end_are_replaced() {
    let stage = Stage::new(Behaviour::Gives(299)).await;
    assert_eq!([stage.key("web").await, stage.key("web").await], ["ASIA1", "ASIA2"]);
    stage.sts.behave(Behaviour::Gives(3600));
    assert_eq!([stage.key("web").await, stage.key("web").await], ["ASIA3", "ASIA3"]);
}

#[tokio::test]
async fn credentials_that_have_ended_are_not_handed_out() {
    let stage = Stage::new(Behaviour::Gives(-3600)).await;
    let (failure, _detail) = stage.failure("web").await;
    assert_eq!(failure.code, Code::AssumeRoleFailed);
    assert!(failure.error.contains("clock"), "{failure:?}");
}

#[tokio::test]
async fn a_hundred_requests_are_one_assume_role() {
    let gate = std::sync::Arc::new(tokio::sync::Notify::new());
    let stage = std::sync::Arc::new(Stage::new(Behaviour::Holds(std::sync::Arc::clone(&gate))).await);
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let stage = std::sync::Arc::clone(&stage);
        drop(all.spawn(async move { stage.key("web").await }));
    }
    stage.sts.called().await;
    gate.notify_one();
    let keys = all.join_all().await;
    assert_eq!(keys, vec!["ASIA1"; 100]);
    assert_eq!(stage.sts.calls().len(), 1);
}

#[tokio::test]
async fn who_goes_away_loses_nothing_for_the_next() {
    let gate = std::sync::Arc::new(tokio::sync::Notify::new());
    let stage = Stage::new(Behaviour::Holds(std::sync::Arc::clone(&gate))).await;
    tokio::select! {
        _answer = stage.ask("web") => panic!("nothing was given yet"),
        () = stage.sts.called() => {}
    }
    gate.notify_one();
    assert_eq!(stage.key("web").await, "ASIA1");
    assert_eq!(stage.sts.calls().len(), 1);
}

#[tokio::test]
async fn a_refusal_comes_in_awss_own_words_and_is_told_again() {
    let words = "User: arn:aws:iam::1:user/me is not authorized to perform: sts:AssumeRole";
    let stage = Stage::new(Behaviour::Refuses(StatusCode::FORBIDDEN, "AccessDenied", words.to_owned())).await;
    let (failure, detail) = stage.failure("web").await;
    assert_eq!(
        failure,
        Failure::new(Code::AssumeRoleFailed, format!("AWS refuses to assume {WEB}: AccessDenied: {words}"))
    );
    assert_eq!(detail, failure.error);
    assert_eq!(stage.failure("web").await.0, failure);
    assert_eq!(stage.sts.calls().len(), 1, "a guest that asks on is no flood for AWS");
}

#[tokio::test]
async fn a_hostile_message_is_cleaned_and_bounded() {
    let long = format!("&#27;[2J&#10;{}", "x".repeat(1 << 20));
    let stage = Stage::new(Behaviour::Refuses(StatusCode::BAD_REQUEST, "ValidationError", long)).await;
    let (failure, detail) = stage.failure("web").await;
    assert!(failure.error.contains("ValidationError: \u{fffd}"), "{failure:?}");
    for text in [failure.error, detail] {
        assert!(text.len() < 1000 && !text.contains(char::is_control), "{text:?}");
    }
}

#[tokio::test]
async fn garbage_is_a_failure_that_the_log_explains() {
    let whole = "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>A</AccessKeyId>";
    let empty = "<AssumeRoleResponse><AssumeRoleResult/></AssumeRoleResponse>";
    let bad_time = "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>A</AccessKeyId><SecretAccessKey>hunter2</SecretAccessKey><SessionToken>t</SessionToken><Expiration>soon</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>";
    for text in ["", "{}", "\0\0", "<html>", whole, empty, bad_time] {
        let stage = Stage::new(Behaviour::Says(StatusCode::OK, text.to_owned())).await;
        let (failure, detail) = stage.failure("web").await;
        assert_eq!(failure.code, Code::AssumeRoleFailed, "{text}");
        assert!(failure.error.contains("could not ask AWS"), "{text}: {failure:?}");
        assert!(!detail.is_empty() && !detail.contains("hunter2"), "{text}: {detail}");
    }
}

#[tokio::test]
async fn a_slow_service_is_given_up() {
    let stage = Stage::with_limits(Behaviour::Hangs, Duration::from_millis(200), 8).await;
    let (failure, _detail) = stage.failure("web").await;
    assert_eq!(failure.code, Code::AssumeRoleFailed);
    assert!(failure.error.contains("within"), "{failure:?}");
}

#[tokio::test]
async fn what_is_kept_is_bounded() {
    let stage = Stage::with_limits(Behaviour::Gives(3600), crate::LIMIT, 2).await;
    for shed in ["a", "b", "c"] {
        let _key = stage.key(shed).await;
    }
    assert_eq!(stage.key("c").await, "ASIA3");
    let kept = ["a", "b", "c"].map(|shed| stage.aws.flights.kept_until(&crate::key(SERVER, shed)).is_some());
    assert_eq!(kept.into_iter().filter(|kept| *kept).count(), 2);

    let full = Stage::with_limits(Behaviour::Hangs, crate::LIMIT, 1).await;
    tokio::select! {
        _answer = full.ask("a") => panic!("the service hangs"),
        () = full.sts.called() => {}
    }
    let (failure, _detail) = full.failure("b").await;
    assert!(failure.error.contains("too many sheds"), "{failure:?}");
}

#[tokio::test]
async fn keys_that_the_user_replaces_are_seen() {
    let stage = Stage::new(Behaviour::Gives(3600)).await;
    let _key = stage.key("a").await;
    let keys = "[work]\naws_access_key_id = AKIANEWER\naws_secret_access_key = other\n";
    std::fs::write(stage.dir.path().join("credentials"), keys).unwrap();
    let _key = stage.key("b").await;
    assert!(stage.sts.calls()[1].authorization.contains("Credential=AKIANEWER/"));
}

#[tokio::test]
async fn without_a_role_or_a_profile_there_is_nothing() {
    let stage = Stage::new(Behaviour::Gives(3600)).await;
    let files = || profiles(stage.dir.path(), &stage.sts.url);
    let ask = json!({"operation": "get_credentials"});

    let only_web = Options { default_role: None, ..options(files()) };
    let aws = Aws::new(only_web.clone());
    aws.available().await.unwrap();
    let answer = aws.answer(SERVER, "other\u{1b}", &ask).await;
    let failure = answer.result.unwrap_err();
    assert_eq!(failure.code, Code::RoleNotFound);
    assert!(failure.error.contains("aws.default_role") && !failure.error.contains('\u{1b}'), "{failure:?}");

    let none = Aws::new(Options { roles: [].into(), ..only_web });
    assert!(none.available().await.unwrap_err().to_string().contains("aws.default_role"));

    let elsewhere = Aws::new(Options { source_profile: "missing".to_owned(), ..options(files()) });
    let why = elsewhere.available().await.unwrap_err().to_string();
    assert!(why.contains("no AWS profile `missing`") && why.contains("credentials"), "{why}");
    let answer = elsewhere.answer(SERVER, "web", &ask).await;
    assert!(answer.detail.unwrap().contains("no AWS profile `missing`"));
    let failure = answer.result.unwrap_err();
    assert_eq!(failure.code, Code::AssumeRoleFailed);
    assert!(!failure.error.contains(&*stage.dir.path().to_string_lossy()), "{failure:?}");
    assert_eq!(stage.sts.calls().len(), 0);
}

#[tokio::test]
async fn a_profile_that_makes_no_sense_is_told_without_its_contents() {
    let stage = Stage::new(Behaviour::Gives(3600)).await;
    for bad in [b"[work\nhunter2".as_slice(), b"[work]\n\xff\xfe", &[b'#'; (4 << 20) + 1]] {
        std::fs::write(stage.dir.path().join("credentials"), bad).unwrap();
        let why = stage.aws.available().await.unwrap_err().to_string();
        assert!(!why.contains("hunter2") && why.len() < 600, "{why}");
    }
}

#[tokio::test]
async fn what_is_no_request_is_an_internal_error() {
    let stage = Stage::new(Behaviour::Gives(3600)).await;
    let ping = stage.aws.answer(SERVER, "web", &json!({"operation": "ping"})).await;
    assert_eq!(ping.result, Ok(json!({"status": "ok"})));
    for payload in
        [Value::Null, json!({"operation": "delete"}), json!([7]), json!({"operation": "x".repeat(1 << 20)})]
    {
        let answer = stage.aws.answer(SERVER, "web", &payload).await;
        assert_eq!(answer.result.unwrap_err().code, Code::InternalError);
        assert!(answer.operation.len() < 100);
    }
}
