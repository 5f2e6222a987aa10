//! Logins with name and password: a real registry with a password file, Docker's config in all its forms.

use std::{os::unix::fs::PermissionsExt as _, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use shed_image::Unwatched;
use shed_registry::{PullError, RequestError};

use crate::{
    Home, amd64, chain,
    images::{layout, skopeo_copy, skopeo_digest},
    reference, run,
    server::Server,
};

const PASSWORD: &str = "correct-horse";

/// A registry with one account, and where its passwords are.
fn locked() -> (Server, Home) {
    let home = Home::new();
    let file = run("htpasswd", &["-nbB", "user", PASSWORD], &home.path);
    std::fs::write(home.path.join("htpasswd"), file).unwrap();
    let auth = format!("auth: {{htpasswd: {{realm: test, path: {}/htpasswd}}}}\n", home.path);
    (Server::with_auth(&auth), home)
}

/// Fills it with skopeo and returns the digest.
fn fill(server: &Server, home: &Home) {
    let image = layout(home, &[b"content".to_vec()]);
    let target = format!("docker://{}/image:v1", server.address);
    skopeo_copy(&image, &target, &["--dest-creds", &format!("user:{PASSWORD}")], &home.path);
}

async fn pull(home: &Home, server: &Server) -> Result<shed_types::Digest, PullError> {
    let image = reference(&format!("{}/image:v1", server.address));
    home.registry().pull(&image, &amd64(), &home.blobs(), Arc::new(Unwatched)).await
}

fn auths(server: &Server, password: &str) -> String {
    let auth = STANDARD.encode(format!("user:{password}"));
    format!(r#"{{"auths": {{"{}": {{"auth": "{auth}"}}}}}}"#, server.address)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_login_of_dockers_config_is_used_and_never_told() {
    let (server, registry_home) = locked();
    fill(&server, &registry_home);
    let home = Home::new();
    let error = pull(&home, &server).await.unwrap_err();
    let text = chain(&error);
    for part in ["wants a login", "UNAUTHORIZED", "config.json", &format!("docker login {}", server.address)]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let _config = home.docker_config(&auths(&server, "wrong-horse"));
    let text = chain(&pull(&home, &server).await.unwrap_err());
    assert!(text.contains("did not accept the login") && !text.contains("horse"), "{text}");

    let _config = home.docker_config(&auths(&server, PASSWORD));
    let digest = pull(&home, &server).await.unwrap();
    let target = reference(&format!("{}/copy:v1", server.address));
    home.registry().push(&digest, &home.blobs(), &target, Arc::new(Unwatched)).await.unwrap();
    let arguments = ["inspect", "--tls-verify=false", "--creds", &format!("user:{PASSWORD}")];
    let image = format!("docker://{target}");
    let arguments: Vec<&str> = arguments.into_iter().chain(["--format", "{{.Digest}}", &image]).collect();
    assert_eq!(run("skopeo", &arguments, &home.path).trim(), digest.as_str());
}

/// Runs in a process of its own whose search path has the helpers.
#[test]
fn helpers_are_programs() {
    let helpers = Home::new();
    let path = format!("{}:{}", helpers.path, std::env::var("PATH").unwrap());
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "logins::with_helpers"])
        .env("PATH", path)
        .env("SHED_TEST_HELPERS", helpers.path.as_str())
        .output()
        .unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by helpers_are_programs, with helpers in the search path"]
async fn with_helpers() {
    let (server, registry_home) = locked();
    fill(&server, &registry_home);
    let address = &server.address;
    let home = Home::new();
    let dir = std::env::var("SHED_TEST_HELPERS").unwrap();
    let write = |name: &str, script: &str| {
        let path = format!("{dir}/docker-credential-{name}");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    write(
        "good",
        &format!(
            r#"read key; [ "$1 $key" = "get {address}" ] || exit 3; echo '{{"ServerURL":"","Username":"user","Secret":"{PASSWORD}"}}'"#
        ),
    );
    write(
        "scheme",
        &format!(
            r#"read key; case $key in https://{address}) echo '{{"Username":"user","Secret":"{PASSWORD}"}}';; *) echo credentials not found in native keychain; exit 1;; esac"#
        ),
    );
    write("empty", "echo credentials not found in native keychain; exit 1");
    write("broken", &format!("echo {PASSWORD}; echo {PASSWORD} >&2; exit 7"));
    write("odd", &format!("echo '{{\"Secret\":\"{PASSWORD}\"}}'"));
    for (config, expected) in [
        (format!(r#"{{"credHelpers": {{"{address}": "good"}}, "credsStore": "broken"}}"#), None),
        (r#"{"credsStore": "good"}"#.to_owned(), None),
        (r#"{"credsStore": "scheme"}"#.to_owned(), None),
        (r#"{"credsStore": "empty"}"#.to_owned(), Some("wants a login")),
        (r#"{"credsStore": "broken"}"#.to_owned(), Some("exit status: 7")),
        (r#"{"credsStore": "odd"}"#.to_owned(), Some("no Username and Secret")),
        (r#"{"credsStore": "missing"}"#.to_owned(), Some("cannot run docker-credential-missing")),
        (r#"{"credsStore": "../good"}"#.to_owned(), Some("its name is a path")),
        ("{".to_owned(), Some("is not a config of Docker: line 1")),
    ] {
        let file = home.docker_config(&config);
        let result = pull(&home, &server).await;
        match expected {
            None => assert!(result.is_ok(), "{config}: {}", chain(&result.unwrap_err())),
            Some(expected) => {
                let text = chain(&result.unwrap_err());
                assert!(text.contains(expected) && text.contains(file.as_str()), "{config}: {text}");
                assert!(!text.contains(PASSWORD), "{text}");
            }
        }
    }
    // One that never answers is ended.
    write("stuck", "exec sleep 1000");
    let _file = home.docker_config(r#"{"credsStore": "stuck"}"#);
    let patience =
        shed_registry::Patience { helper: std::time::Duration::from_millis(300), ..crate::patience() };
    let registry = shed_registry::Registry::with_patience(home.settings(), patience);
    let image = reference(&format!("{address}/image:v1"));
    let error = registry.pull(&image, &amd64(), &home.blobs(), Arc::new(Unwatched)).await.unwrap_err();
    assert!(chain(&error).contains("did not answer within 0.3 seconds"), "{}", chain(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_config_harms_nobody_who_needs_no_login() {
    let (server, source, home) = (Server::open(), Home::new(), Home::new());
    let image = layout(&source, &[b"content".to_vec()]);
    let target = format!("docker://{}/image:v1", server.address);
    skopeo_copy(&image, &target, &[], &source.path);
    let _config = home.docker_config("{ this is no JSON");
    assert_eq!(pull(&home, &server).await.unwrap().to_string(), skopeo_digest(&target, &source.path));
    // Somebody who needs one hears of the file.
    let (locked, locked_home) = locked();
    fill(&locked, &locked_home);
    let error = pull(&home, &locked).await.unwrap_err();
    let PullError::Request { source, .. } = &error else { panic!("{error}") };
    assert!(matches!(**source, RequestError::Credentials(_)), "{source}");
}
