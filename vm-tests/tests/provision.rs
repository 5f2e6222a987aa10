//! A repository's hooks in real sheds: when they run and with what, what is said when they fail, hang or never stop
//! printing, and that neither a client nor a server that goes away ends them.

use std::{fs, time::Duration};

use rustix::process::Signal;
use serde_json::Value;
use vm_tests::{BOOT, Cli, Config, GitHost, Promises, SHORT, Stage, wait_for};

const SHED: &str = "hooks";

/// Bytes that a hook prints.
const FLOOD: usize = 50 << 20;

fn provision(more: &str) -> String {
    format!(
        "hooks:\n  install: .shed/install.sh\n  startup: .shed/startup.sh\n  shutdown: .shed/shutdown.sh\n\
         env:\n  COLOUR: blue\n  SHED_NAME: somebody\n{more}"
    )
}

#[track_caller]
fn create(cli: &Cli, repo: &str, more: &[&str]) -> vm_tests::Finished {
    let words = ["create", SHED, "--memory", "512", "--no-sync", "--repo", repo];
    let words: Vec<&str> = words.iter().chain(more).copied().collect();
    vm_tests::run(&mut cli.command(&words), b"", BOOT * 2).ok()
}

fn warnings(result: &Value) -> String {
    let list = result["details"]["warnings"].as_array().cloned().unwrap_or_default();
    list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n")
}

/// Install runs once, startup at each start, shutdown before each stop; each with its environment, as user shed, in
/// /workspace; their output is seen as it comes, and their failures are warnings.
#[test]
fn hooks_run_when_they_should_and_tell_how_they_end() {
    let Some(mut stage) = Stage::new() else { return };
    let mut git = GitHost::new(stage.dir().join("git"));
    let say = "echo \"$SHED_NAME $SHED_WORKSPACE $SHED_CONTAINER $COLOUR $FROM_SERVER $(id -un) $PWD\"";
    git.repository(
        "app.git",
        &[
            (".shed/provision.yaml", &provision("")),
            (".shed/install.sh", &format!("#!/bin/bash\n{say} | tee -a ~/installed\n")),
            (".shed/startup.sh", "#!/bin/bash\necho startup >> ~/started; echo starting up\n"),
            (".shed/shutdown.sh", "#!/bin/bash\necho shutdown >> ~/stopped\n"),
        ],
    );
    let url = format!("{}/app.git", git.serve_git());
    let env_file = stage.dir().join("env");
    fs::write(&env_file, "FROM_SERVER='a value'\n").expect("env_file");
    stage.configure(Config {
        env_file: Some(env_file.clone()),
        stop_timeout: Some("40s"),
        ..Config::default()
    });
    let server = stage.serve();
    let cli = stage.cli();
    let mut promises = Promises::new();
    let environment = "hooks /workspace true blue a value shed /workspace";
    promises.keep("at a create install and startup run, and what they write is seen", || {
        let ran = create(&cli, &url, &[]);
        let told = ran.err();
        for line in [format!("hooks | {environment}"), "hooks | starting up".to_owned()] {
            assert!(told.contains(&line), "{line:?} is not in {told}");
        }
        let warnings: Vec<&str> = told.lines().filter(|line| line.starts_with("warning")).collect();
        assert!(warnings.len() == 1 && warnings[0].contains("SHED_NAME"), "{told}");
        let seen = cli.sh(
            SHED,
            "cat ~/installed ~/started; cat /var/log/shed/install.log; stat -c '%U %a' /var/log/shed",
        );
        assert_eq!(seen, format!("{environment}\nstartup\n{environment}\nshed 755"));
        let phases = server.http().shed(SHED);
        assert_eq!(phases["repo"], url);
    });
    promises.keep("a stop runs shutdown, and a start runs startup and not install", || {
        cli.run(&["stop", SHED]).ok();
        let told = cli.run(&["start", SHED]).ok().err();
        assert!(told.contains("hooks | starting up"), "{told}");
        let seen = cli.sh(SHED, "cat ~/stopped; wc -l < ~/installed; wc -l < ~/started");
        assert_eq!(seen, "shutdown\n1\n2");
    });
    promises.keep("a shutdown hook that hangs costs half of stop_timeout and no more", || {
        cli.sh(SHED, "echo 'trap \"\" TERM HUP; sleep 10000' > /workspace/.shed/shutdown.sh");
        cli.sh(SHED, "printf 'echo one; echo two; exit 3\\n' > /workspace/.shed/startup.sh");
        let stopped = cli.run(&["stop", SHED]).ok();
        let told = stopped.err();
        assert!(told.contains("the shutdown hook did not end within 20 s"), "{told}");
        let took = stopped.took;
        // Half for the hook, and a slow guest may need all of it once more to power off.
        assert!(took > Duration::from_secs(15) && took < Duration::from_secs(75), "{took:?}");
        let log = fs::read_to_string(stage.server_log()).expect("the server's log");
        assert!(
            log.contains("the shutdown hook did not end within 20 s; the shed stops without it"),
            "the log does not say so"
        );
    });
    promises.keep("a startup hook that fails and an env_file that is gone are warnings of the start", || {
        fs::remove_file(&env_file).expect("env_file goes");
        let started = cli.run(&["start", SHED, "--json"]).ok().json();
        let told = warnings(&started);
        assert!(
            told.contains("startup.sh, ended with exit code 3\nits last lines:\n  one\n  two\n"),
            "{told}"
        );
        assert!(told.contains("shed exec hooks -- cat /var/log/shed/startup.log"), "{told}");
        assert!(told.contains("env_file"), "{told}");
        assert_eq!(started["details"]["status"], "running");
        cli.sh(SHED, "rm /workspace/.shed/shutdown.sh");
    });
    cli.delete(SHED);
    promises.keep("with --no-provision neither runs", || {
        create(&cli, &url, &["--no-provision"]);
        assert_eq!(
            cli.sh(SHED, "ls ~ /var/log/shed; ls /workspace/.shed | wc -l"),
            "/home/shed:\n\n/var/log/shed:\nclone.log\n4"
        );
        cli.delete(SHED);
    });
    drop(server);
    stage.finish();
    promises.finish();
}

/// A hook that prints 50 MB is shown as far as it can be and is whole in its log; one that never ends is ended by its
/// timeout, with everything it has started.
#[test]
fn hooks_that_never_stop_printing_or_never_end_are_survived() {
    let Some(stage) = Stage::new() else { return };
    let mut git = GitHost::new(stage.dir().join("git"));
    let flood = format!(
        "#!/bin/bash\necho first line\nyes 0123456789 | head -c {FLOOD}\necho; echo last line\nexit 7\n"
    );
    git.repository("flood.git", &[(".shed/provision.yaml", "hooks: {install: x.sh}\n"), ("x.sh", &flood)]);
    let hang = "#!/bin/bash\necho before\nsleep 10001 &\ntrap '' TERM\nsleep 10002\n";
    git.repository(
        "hang.git",
        &[(".shed/provision.yaml", "hooks: {install: x.sh}\ntimeout: 5s\nhoks: {}\n"), ("x.sh", hang)],
    );
    let daemon = git.serve_git();
    let server = stage.serve();
    let cli = stage.cli();
    let mut promises = Promises::new();
    promises.keep("50 MB: shown from the beginning on, whole in the log, and the create ends", || {
        let told = create(&cli, &format!("{daemon}/flood.git"), &[]).err();
        assert!(told.contains("hooks | first line"), "{told:.500}");
        assert!(told.contains("x.sh, ended with exit code 7"), "the failure is told");
        assert!(told.contains("\n    last line\n"), "the last lines are told");
        assert!(told.matches("hooks | 0123456789").count() > 1000, "the flood is shown, as far as it can be");
        let log = "stat -c %s /var/log/shed/install.log; tail -n 1 /var/log/shed/install.log";
        assert_eq!(cli.sh(SHED, log), format!("{}\nlast line", FLOOD + "first line\n\nlast line\n".len()));
        cli.delete(SHED);
    });
    promises.keep("a hook that hangs is ended by its timeout, and so is what it has started", || {
        let ran = create(&cli, &format!("{daemon}/hang.git"), &["--json"]);
        let told = warnings(&ran.json());
        assert!(told.contains("x.sh, took longer than 5s and was ended"), "{told}");
        assert!(told.contains("hoks"), "an unknown key is told: {told}");
        wait_for("the hook's processes to end", SHORT * 4, || {
            (cli.exec(SHED, &["pgrep", "-f", "sleep 1000[12]"]).code == 1).then_some(())
        });
        cli.delete(SHED);
    });
    drop(server);
    stage.finish();
    promises.finish();
}

/// Once a shed runs, its setup is the guest's: a client that is interrupted and a server that is killed leave the shed and
/// its install hook as they are, and the next server finds both.
#[test]
fn a_setup_goes_on_without_client_and_server() {
    let Some(stage) = Stage::new() else { return };
    let mut git = GitHost::new(stage.dir().join("git"));
    let install =
        "#!/bin/bash\necho waiting\nuntil [ -e ~/go ]; do sleep 0.2; done\necho done >> ~/installed\n";
    git.repository("slow.git", &[(".shed/provision.yaml", "hooks: {install: x.sh}\n"), ("x.sh", install)]);
    let url = format!("{}/slow.git", git.serve_git());
    let server = stage.serve();
    let cli = stage.cli();
    let mut promises = Promises::new();
    promises.keep("a client that is interrupted says that the shed is there, and leaves it", || {
        let client = cli.spawn(&["create", SHED, "--memory", "512", "--no-sync", "--repo", &url]);
        wait_for("the install hook to run", BOOT, || {
            client.stderr_so_far().contains("hooks | waiting").then_some(())
        });
        client.signal(Signal::INT);
        let ended = client.wait(SHORT);
        assert_eq!(ended.code, 130, "{}", ended.err());
        assert!(ended.err().contains("the shed is there and runs, and its setup goes on"), "{}", ended.err());
        assert_eq!(server.http().status(SHED), "running");
    });
    server.crash();
    let server = stage.serve();
    promises.keep("the server that comes after a kill has the shed, and its hook goes on", || {
        assert_eq!(server.http().status(SHED), "running");
        cli.sh(SHED, "test ! -e ~/installed && touch ~/go");
        wait_for("the install hook to end", SHORT * 2, || {
            (cli.exec(SHED, &["grep", "-q", "install_ran=true", "/var/log/shed/.provision_state"]).code == 0)
                .then_some(())
        });
        assert_eq!(cli.sh(SHED, "cat ~/installed"), "done");
    });
    promises.keep("it is not run again", || {
        cli.run(&["stop", SHED]).ok();
        cli.run(&["start", SHED]).ok();
        assert_eq!(cli.sh(SHED, "cat ~/installed"), "done");
    });
    cli.delete(SHED);
    drop(server);
    stage.finish();
    promises.finish();
}
