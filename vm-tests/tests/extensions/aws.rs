//! AWS: `aws` and boto3 in a shed work with credentials of the shed's role, which end soon; the user's own stay on the host.

use std::fs;

use serde_json::{Value, json};
use vm_tests::{Finished, HostSettings, PACKAGES, Promises, ROLE, Sts, bring_aws_clients, run, wait_for};

use super::{BOOT, TIMEOUT, World};

/// The user's own keys: planted, and looked for.
pub(super) const OWN_ID: &str = "AKIAPLANTEDONHOST001";
pub(super) const OWN_SECRET: &str = "planted/aws/secret+of/the/user/0123456789";

/// A role for one shed alone.
const OTHER_ROLE: &str = "arn:aws:iam::123456789012:role/other";

/// How long credentials are kept by the host agent here, in seconds: as short as its configuration allows.
const KEPT: u32 = 60;

const IDENTITY: &[u8] = include_bytes!("../../extensions/identity.py");
const REFRESH: &[u8] = include_bytes!("../../extensions/refresh.py");

/// What the host agent is told: credentials last the 15 minutes that AWS has as the least, and are replaced after one.
pub(super) fn settings(sts: &Sts, world: &World, shed: &str) -> HostSettings {
    let aws = world.host.home().join(".aws");
    fs::create_dir_all(&aws).expect("a directory");
    let config = format!("[profile work]\nregion = eu-central-1\nendpoint_url = {}\n", sts.url());
    fs::write(aws.join("config"), config).expect("AWS's configuration");
    let keys = format!("[work]\naws_access_key_id = {OWN_ID}\naws_secret_access_key = {OWN_SECRET}\n");
    fs::write(aws.join("credentials"), keys).expect("AWS's credentials");
    HostSettings {
        aws: Some(json!({
            "source_profile": "work",
            "default_role": ROLE,
            "session_duration": "15m",
            "cache_refresh_before": "14m",
            "sheds": { shed: { "role": OTHER_ROLE } },
        })),
        namespaces: vec!["aws-credentials"],
        ..HostSettings::default()
    }
}

/// Runs a Python program in a shed, with AWS's clients and what `shed exec` gives.
fn python(world: &World, shed: &str, program: &[u8], words: &[&str]) -> Finished {
    let line = format!("PYTHONPATH={PACKAGES} exec python3 - {}", words.join(" "));
    run(&mut world.cli.exec_command(shed, &["sh", "-c", &line]), program, BOOT)
}

/// Asks for credentials as curl does, and returns what came.
fn credentials(world: &World, shed: &str) -> Value {
    let text = world.cli.sh(shed, "curl -sS \"$AWS_CONTAINER_CREDENTIALS_FULL_URI\"");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Proves what is promised of AWS. `first` has the role of all, `second` one of its own.
pub(super) fn prove(promises: &mut Promises, world: &mut World, sts: Sts, [first, second]: [&str; 2]) {
    promises.keep("boto3 finds the credentials by itself, and STS knows their role and shed", || {
        bring_aws_clients(&world.stage, &world.cli, first);
        let told = python(world, first, IDENTITY, &[&sts.url_in_guest()]).ok().json();
        let arn = told["arn"].as_str().expect("an ARN");
        assert!(
            arn.starts_with(&format!("arn:aws:sts::123456789012:assumed-role/shed/shed-{first}-")),
            "{told}"
        );
        assert_eq!(told["method"], "container-role");
        assert!(told["access_key"].as_str().is_some_and(|key| key.starts_with("ASIA")), "{told}");
    });
    promises.keep("so does `aws`", || {
        let url = sts.url_in_guest();
        let line = format!(
            "PYTHONPATH={PACKAGES} AWS_DEFAULT_REGION=us-east-1 python3 -m awscli sts get-caller-identity --endpoint-url {url}"
        );
        let told = run(&mut world.cli.exec_command(first, &["sh", "-c", &line]), b"", BOOT).ok().json();
        assert!(told["Arn"].as_str().is_some_and(|arn| arn.contains(":assumed-role/shed/")), "{told}");
    });
    promises.keep("credentials are kept, not made anew for each request", || {
        let before = sts.answered();
        let keys: Vec<Value> = (0..3).map(|_| credentials(world, first)["AccessKeyId"].clone()).collect();
        assert!(keys.iter().all(|key| key.as_str().is_some_and(|key| key.starts_with("ASIA"))), "{keys:?}");
        // A minute may end in between, once.
        assert!(sts.answered() <= before + 1, "{} of {before}", sts.answered());
    });
    promises.keep("a shed with a role of its own gets that one, and nobody else's credentials", || {
        let (one, other) = (credentials(world, first), credentials(world, second));
        assert_ne!(one["AccessKeyId"], other["AccessKeyId"]);
        let audit = world.host.audit();
        let of =
            |shed: &str| audit.iter().rev().find(|line| line["shed"] == shed).cloned().unwrap_or_default();
        assert!(of(second)["detail"].to_string().contains("role/other"), "{}", of(second));
        assert!(of(first)["detail"].to_string().contains("role/shed"), "{}", of(first));
    });
    promises.keep("one session of boto3 gets new credentials before the old ones end", || {
        let limit = (KEPT * 3).to_string();
        let told = python(world, first, REFRESH, &[&sts.url_in_guest(), &limit]).ok().json();
        assert_eq!(told["keys"].as_array().map(Vec::len), Some(2), "{told}");
        assert!(told["left"].as_f64().is_some_and(|left| left > 0.0), "{told}");
    });
    promises.keep("only programs of the shed itself can ask, and not in the name of a page", || {
        let line = "for more in '-H Host:evil.example' '-H Origin:http://127.0.0.1' '-X POST'; do \
                    curl -s -o /dev/null -w '%{http_code} ' $more \"$AWS_CONTAINER_CREDENTIALS_FULL_URI\"; done; \
                    ss -Hltn sport = :499 | awk '{print $4}'";
        assert_eq!(world.cli.sh(first, line), "403 403 405 127.0.0.1:499");
    });
    promises.keep("without STS there is a clear error soon, and credentials again once it is back", || {
        drop(sts);
        let line = "curl -s -w '\\n%{http_code}' --max-time 60 \"$AWS_CONTAINER_CREDENTIALS_FULL_URI\"";
        // What is kept may last a minute more.
        let told = wait_for("credentials to end", TIMEOUT * 3, || {
            Some(world.cli.sh(first, line)).filter(|told| !told.contains("AccessKeyId"))
        });
        assert!(told.ends_with("\n503") || told.ends_with("\n502"), "{told}");
        assert!(told.contains("role/shed") && !told.contains(OWN_SECRET) && !told.contains(OWN_ID), "{told}");
        let sts = Sts::start(&world.stage);
        let mut settings = settings(&sts, world, second);
        settings.docker = world.host.settings().docker.clone();
        settings.ssh = world.host.settings().ssh.clone();
        world.host.start(&world.server, settings);
        wait_for("credentials again", TIMEOUT, || {
            credentials(world, first)["AccessKeyId"].as_str().map(drop)
        });
    });
    promises.keep("a shed without a role is told so", || {
        let mut settings = world.host.settings().clone();
        settings.aws = Some(json!({ "source_profile": "work", "sheds": { second: { "role": OTHER_ROLE } } }));
        world.host.start(&world.server, settings);
        let told = credentials(world, first);
        assert_eq!(told["error"], "bad_reply", "{told}");
        assert!(told["message"].as_str().is_some_and(|text| text.contains("aws.sheds.")), "{told}");
    });
}
