//! What may stand in extensions.yaml and what may not.

use super::*;

fn with(text: &str) -> Result<Config, LoadConfigError> {
    let home = tempfile::tempdir().unwrap();
    let home = Utf8Path::from_path(home.path()).unwrap();
    let path = home.join("extensions.yaml");
    std::fs::write(&path, text).unwrap();
    load(Some(&path), &Surroundings::of_home(home))
}

#[test]
fn a_file_that_is_not_there_means_the_defaults_unless_it_was_asked_for() {
    let home = tempfile::tempdir().unwrap();
    let home = Utf8Path::from_path(home.path()).unwrap();
    let surroundings = Surroundings::of_home(home);
    let config = load(None, &surroundings).unwrap();
    assert_eq!(config.servers, ["http://localhost:8080".parse().unwrap()]);
    assert_eq!(config.ssh, SshConfig { mode: None, approval: None });
    assert_eq!(config.logging.audit.unwrap(), home.join(".local/share/shed/extensions-audit.log"));
    assert_eq!(config.aws.source_profile, "default");
    assert_eq!(
        (config.aws.session_duration.as_secs(), config.aws.cache_refresh_before.as_secs()),
        (3600, 300)
    );
    assert_eq!(config.docker, DockerConfig::default());
    let error = load(Some("none.yaml".into()), &surroundings).unwrap_err();
    assert!(matches!(&error, LoadConfigError::NotThere { path } if path.starts_with(home)), "{error}");
}

#[test]
fn everything_that_the_specification_names_is_read() {
    let config = with(
        "servers: [http://mini:9000, box]
ssh:
  mode: local-keys
  approval: {enabled: true, policy: per-shed, session_ttl: 30m}
aws:
  source_profile: work
  default_role: arn:aws:iam::1:role/a
  session_duration: 2h
  cache_refresh_before: 10m
  sheds: {api: {role: 'arn:aws-cn:iam::1:role/b'}}
docker: {registries: [ghcr.io, 'https://index.docker.io/v1/'], allow_all: false, config_path: ~/d.json}
logging: {enabled: false}
",
    )
    .unwrap();
    assert_eq!(config.servers.iter().map(ToString::to_string).collect::<Vec<_>>(), ["mini:9000", "box:8080"]);
    assert_eq!(config.ssh.mode, Some(Mode::LocalKeys));
    let approval = ApprovalConfig { policy: Policy::PerShed, session_ttl: Duration::from_secs(1800) };
    assert_eq!(config.ssh.approval, Some(approval));
    assert_eq!(config.aws.sheds["api"].role, "arn:aws-cn:iam::1:role/b");
    assert_eq!(config.docker.registries.len(), 2);
    assert!(config.docker.config_path.unwrap().ends_with("d.json"));
    assert_eq!(config.logging.audit, None);
    for nothing in ["", "# a comment\n", "ssh: {mode: ''}\n", "ssh:\n"] {
        assert_eq!(with(nothing).unwrap().ssh.mode, None, "{nothing:?}");
    }
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    for (text, place, what) in [
        ("server: https://a\n", ":1:9", "https"),
        ("server: a b\n", ":1:9", "server"),
        ("server: a\nservers: [b]\n", ":2:", "keep one"),
        ("servers: []\n", ":1:", "empty"),
        ("servers: [a, 'http://a:8080/']\n", ":1:14", "twice"),
        ("ssh:\n  mode: magic\n", ":2:9", "agent-forward"),
        ("ssh:\n  approval: {policy: never}\n", ":2:22", "per-request"),
        ("ssh:\n  approval: {session_ttl: 4}\n", ":2:27", "session_ttl"),
        ("ssh:\n  approval: {session_ttl: -1s}\n", ":2:27", "from 1s"),
        ("ssh:\n  aproval: {enabled: true}\n", ":2:3", "aproval"),
        ("ssh:\n  approval: {enabled: sure}\n", ":2:", "sure"),
        ("aws: {session_duration: 1m}\n", ":1:25", "from 15m"),
        ("aws: {cache_refresh_before: 1h}\n", ":1:29", "59m"),
        ("aws: {default_role: admin}\n", ":1:21", "ARN"),
        ("aws: {sheds: {api: {}}}\n", ":1:", "aws.sheds.api.role"),
        ("docker: {registries: ['a b']}\n", ":1:23", "no registry"),
        ("docker: {config_path: a/b}\n", ":1:23", "absolute"),
        ("logging: {path: ''}\nssh: [\n", ":", "ssh: ["),
        ("- a\n", ":1:", "- a"),
    ] {
        let error = with(text).unwrap_err().to_string();
        assert!(error.contains(&format!("extensions.yaml{place}")), "{text:?}: {error}");
        assert!(error.to_lowercase().contains(&what.to_lowercase()), "{text:?}: {error}");
    }
}

#[test]
fn a_file_that_is_far_too_long_is_not_read() {
    let text = "#".repeat((1 << 20) + 1);
    assert!(matches!(with(&text), Err(LoadConfigError::TooLong { .. })));
}
