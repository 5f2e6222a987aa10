//! What the environment says. It belongs to the whole process, so each case is this test program once more, as a child that
//! runs the one test which is otherwise left out.

use std::{path::PathBuf, time::Duration};

use serde_json::json;
use tokio::process::Command;

use super::fake_sts::{Behaviour, FakeSts};
use crate::{Aws, Options, ProfileFiles};

const CHILD: &str = "tests::environment::asks_for_credentials";
const PROFILE: &str = "[default]\naws_access_key_id = AKIAFILE\naws_secret_access_key = secret\n";

/// The child: asks with what its environment says.
#[tokio::test]
#[ignore = "it is run by the tests of this file, with an environment"]
async fn asks_for_credentials() {
    let Some(home) = std::env::var_os("HOME").map(PathBuf::from) else { return };
    let options = Options {
        source_profile: "default".to_owned(),
        default_role: Some("arn:aws:iam::123456789012:role/dev".to_owned()),
        roles: [].into(),
        session_duration: Duration::from_hours(1),
        refresh_before: Duration::from_mins(5),
        files: ProfileFiles::of_environment(&home),
    };
    let aws = Aws::new(options);
    aws.available().await.unwrap();
    let answer = aws.answer("s", "web", &json!({"operation": "get_credentials"})).await;
    assert_eq!(answer.result.unwrap()["access_key_id"], "ASIA1", "{:?}", answer.detail);
}

/// Runs the child, and returns which key signed its request, and for which region.
async fn signed_with(file: Option<(&str, &str)>, variables: &[(&str, &str)]) -> String {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join(".aws")).unwrap();
    if let Some((name, contents)) = file {
        std::fs::write(home.path().join(name), contents).unwrap();
    }
    let sts = FakeSts::start(Behaviour::Gives(3600)).await;
    let mut child = Command::new(std::env::current_exe().unwrap());
    let child =
        child.args(["--exact", CHILD, "--ignored"]).env_clear().env("HOME", home.path()).kill_on_drop(true);
    for (name, value) in variables {
        let _same = child.env(name, value.replace("URL", &sts.url));
    }
    let output = child.output().await.unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    let call = sts.calls().remove(0);
    let scope = call.authorization.split("Credential=").nth(1).unwrap().split(',').next().unwrap();
    let [key, _day, region, ..] = scope.split('/').collect::<Vec<_>>()[..] else { panic!("{scope}") };
    format!("{key} {region}")
}

#[tokio::test]
async fn a_stand_in_for_sts_is_named_by_the_environment() {
    let file = Some((".aws/credentials", PROFILE));
    assert_eq!(signed_with(file, &[("AWS_ENDPOINT_URL_STS", "URL")]).await, "AKIAFILE us-east-1");
    let both = [("AWS_ENDPOINT_URL", "URL"), ("AWS_REGION", "eu-west-1")];
    assert_eq!(signed_with(file, &both).await, "AKIAFILE eu-west-1");
    let first = [("AWS_ENDPOINT_URL", "http://127.0.0.1:1"), ("AWS_ENDPOINT_URL_STS", "URL")];
    assert_eq!(signed_with(file, &first).await, "AKIAFILE us-east-1");
}

#[tokio::test]
async fn keys_of_the_environment_stand_in_for_a_default_profile_that_is_not_there() {
    let keys =
        [("AWS_ACCESS_KEY_ID", "AKIAENV"), ("AWS_SECRET_ACCESS_KEY", "s"), ("AWS_ENDPOINT_URL", "URL")];
    assert_eq!(signed_with(None, &keys).await, "AKIAENV us-east-1");
    assert_eq!(signed_with(Some((".aws/credentials", PROFILE)), &keys).await, "AKIAFILE us-east-1");
}

#[tokio::test]
async fn profiles_are_where_the_environment_says() {
    let elsewhere = [("AWS_SHARED_CREDENTIALS_FILE", "~/elsewhere"), ("AWS_ENDPOINT_URL", "URL")];
    assert_eq!(signed_with(Some(("elsewhere", PROFILE)), &elsewhere).await, "AKIAFILE us-east-1");
}

#[tokio::test]
async fn a_program_may_give_the_keys_of_a_profile() {
    let keys = r#"{"Version": 1, "AccessKeyId": "AKIAPROC", "SecretAccessKey": "s"}"#;
    let profile = format!("[default]\nregion = eu-central-1\ncredential_process = echo '{keys}'\n");
    let variables = [("AWS_ENDPOINT_URL", "URL"), ("PATH", "/usr/bin:/bin")];
    assert_eq!(signed_with(Some((".aws/config", &profile)), &variables).await, "AKIAPROC eu-central-1");
}
