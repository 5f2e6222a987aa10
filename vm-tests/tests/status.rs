//! What a shed says of itself: what it uses, what fails in it, what it writes; live, after a crash of the server, and
//! whatever a guest puts into its journal.

use std::time::Instant;

use rustix::process::Signal;
use serde_json::Value;
use vm_tests::{BOOT, Cli, Expect, Http, Promises, SHORT, Stage, wait_for};

/// The shed that all promises of this file are proved on.
const SHED: &str = "watched";

const STATUS: &str = "/api/sheds/watched/status";
const EVENTS: &str = "/api/sheds/watched/events";
const LOGS: &str = "/api/sheds/watched/logs";

fn status(http: &Http) -> Value {
    http.get(STATUS).is(200).json()
}

fn metric(http: &Http, name: &str) -> f64 {
    let report = status(http);
    report["metrics"][name].as_f64().unwrap_or_else(|| panic!("no {name} in {report}"))
}

/// Returns the messages of the lines at a path.
fn lines(http: &Http, query: &str) -> Vec<Value> {
    let events = http.events(&format!("{LOGS}?{query}")).all();
    assert_eq!(events.last().map(|event| event.name.as_str()), Some("end"), "{events:?}");
    events.into_iter().filter(|event| event.name == "line").map(|event| event.data).collect()
}

fn messages(http: &Http, query: &str) -> Vec<String> {
    lines(http, query).iter().map(|line| line["message"].as_str().expect("a message").to_owned()).collect()
}

/// Makes a unit fail.
fn fail(cli: &Cli, unit: &str) {
    let _failed = cli.exec(SHED, &["sudo", "systemd-run", "--quiet", "--unit", unit, "false"]);
}

fn tells_of(report: &Value, unit: &str) -> bool {
    let events = report["events"].as_array().into_iter().flatten();
    events.into_iter().any(|event| event["unit"] == unit && event["kind"] == "unit_failed")
}

/// How many journalctl run in the shed for the host: one always follows units that fail.
fn readers(cli: &Cli) -> usize {
    let count = cli.sh(SHED, "pgrep -cx journalctl || true");
    count.parse::<usize>().expect("a number").saturating_sub(1)
}

fn wait_for_no_reader(cli: &Cli) {
    wait_for("the readers in the guest to end", SHORT * 2, || (readers(cli) == 0).then_some(()));
}

/// A shed tells what it uses, what fails in it and what it writes, and nothing it says does harm.
#[test]
fn a_shed_says_how_it_is_and_what_it_writes() {
    let Some(stage) = Stage::new() else { return };
    let server = stage.serve();
    let (cli, http) = (stage.cli(), server.http());
    cli.create(SHED, &[]);
    let mut promises = Promises::new();

    promises.keep("what a shed uses is plausible", || {
        let report = status(&http);
        assert_eq!(
            (&report["status"], &report["channel"], &report["health"]),
            (&"running".into(), &"open".into(), &"ok".into()),
            "{report}"
        );
        let metrics = &report["metrics"];
        let number = |name: &str| metrics[name].as_u64().unwrap_or_else(|| panic!("no {name} in {metrics}"));
        let nproc: u64 = cli.sh(SHED, "nproc").parse().expect("a number");
        assert_eq!(number("cpus"), nproc);
        let total: u64 = cli.sh(SHED, "awk '/MemTotal/ {print $2}' /proc/meminfo").parse().expect("a number");
        assert_eq!(number("memory_total"), total * 1024);
        assert!(number("memory_used") > 0 && number("memory_used") < number("memory_total"), "{metrics}");
        let size: u64 = cli.sh(SHED, "df -B1 --output=size / | tail -n 1").trim().parse().expect("a number");
        assert_eq!(number("disk_total"), size);
        assert!(number("disk_used") < size && number("tasks") > 10 && number("uptime_s") > 0, "{metrics}");
    });
    promises.keep("a busy loop and a large file are seen", || {
        let before = metric(&http, "disk_used");
        cli.sh(SHED, "dd if=/dev/zero of=large bs=1M count=100 conv=fsync status=none");
        let grown = metric(&http, "disk_used") - before;
        assert!((90e6..130e6).contains(&grown), "{grown} bytes more");
        cli.sh(SHED, "rm large");
        let busy = "for i in $(seq $(nproc)); do while :; do :; done & done; wait";
        cli.exec(SHED, &["sudo", "systemd-run", "--quiet", "--unit", "busy", "sh", "-c", busy]).ok();
        wait_for("the processors to be busy", SHORT * 2, || {
            (metric(&http, "cpu_percent") > 80.0).then_some(())
        });
        cli.sh(SHED, "sudo systemctl stop busy");
        wait_for("the processors to rest", SHORT * 2, || (metric(&http, "cpu_percent") < 50.0).then_some(()));
    });
    promises.keep("a unit that fails is told at once, and shown later", || {
        let mut events = http.events(EVENTS);
        events.wait_for("the first status", SHORT, |event| (event.name == "status").then_some(()));
        fail(&cli, "broken-one");
        let event = events.wait_for("the failure", SHORT * 2, |event| {
            (event.name == "event" && event.data["unit"] == "broken-one.service").then(|| event.data.clone())
        });
        assert_eq!(
            (&event["kind"], &event["result"]),
            (&"unit_failed".into(), &"exit-code".into()),
            "{event}"
        );
        assert!(tells_of(&status(&http), "broken-one.service"));
    });
    promises.keep("a unit that fails in a loop is told of at once, and then seldom", || {
        for _ in 0..8 {
            fail(&cli, "loop");
            cli.sh(SHED, "sudo systemctl reset-failed loop.service || true");
        }
        wait_for("the first of them", SHORT, || tells_of(&status(&http), "loop.service").then_some(()));
        let report = status(&http);
        let told = report["events"].as_array().expect("events");
        assert_eq!(told.iter().filter(|event| event["unit"] == "loop.service").count(), 1, "{report}");
    });
    promises.keep("a process that runs out of memory is told of", || {
        let script = "sudo systemd-run --quiet --wait -p MemoryMax=30M -p MemorySwapMax=0 \
                      tail /dev/zero; true";
        cli.sh(SHED, script);
        wait_for("the event", SHORT * 2, || {
            let report = status(&http);
            let events = report["events"].as_array().cloned().unwrap_or_default();
            events
                .iter()
                .any(|event| {
                    event["kind"] == "out_of_memory"
                        && event["process"].as_str().is_some_and(|text| text.contains("tail"))
                })
                .then_some(())
        });
    });
    promises.keep("watching costs the guest little memory", || {
        let script = "sudo sh -c 'for pid in $(pgrep -x shed-agent) $(pgrep -x journalctl); do \
                      echo $(cat /proc/$pid/comm) $(grep -E \"^Pss(_Anon)?:\" /proc/$pid/smaps_rollup | tr -s \" \"); done'";
        let usage = cli.sh(SHED, script);
        let anonymous: u64 = usage
            .lines()
            .filter_map(|line| line.split_once("Pss_Anon: ")?.1.split(' ').next()?.parse::<u64>().ok())
            .sum();
        assert!((1..16 << 10).contains(&anonymous), "{anonymous} KiB that are nobody else's: {usage}");
    });
    promises.keep("somebody who watches gets a report every other second", || {
        let mut events = http.events(EVENTS);
        let begun = Instant::now();
        for _ in 0..4 {
            events.wait_for("a status", SHORT, |event| (event.name == "status").then_some(()));
        }
        assert!(begun.elapsed() < SHORT, "{:?}", begun.elapsed());
    });
    promises.keep("the journal has what was written, all of it or of one unit", || {
        cli.sh(SHED, "logger -t speaker 'hello from the shed'");
        wait_for("the line", SHORT, || {
            let line = lines(&http, "lines=200")
                .into_iter()
                .find(|line| line["message"] == "hello from the shed")?;
            assert_eq!(line["identifier"], "speaker");
            Some(())
        });
        cli.sh(SHED, "sudo systemd-run --quiet --wait --unit speaking echo only this");
        wait_for("the unit's line", SHORT, || {
            messages(&http, "unit=speaking.service").contains(&"only this".to_owned()).then_some(())
        });
        let of_unit = lines(&http, "unit=speaking");
        assert!(of_unit.iter().all(|line| line["unit"] == "speaking.service"), "{of_unit:?}");
        assert_eq!(messages(&http, "unit=speaking&lines=1").len(), 1);
        assert!(messages(&http, "").len() > 100, "this boot has written more");
        assert_eq!(http.get(&format!("{LOGS}?unit=nothing")).is(404).error().0, "UNIT_NOT_FOUND");
        for query in ["unit=", "lines=x", "unit=-x", "unit=a*", "follow=maybe", "source=file"] {
            assert_eq!(http.get(&format!("{LOGS}?{query}")).is(400).error().0, "INVALID_REQUEST", "{query}");
        }
        wait_for_no_reader(&cli);
    });
    promises.keep("what is written is seen at once by who follows, who leaves nothing behind", || {
        let following = cli.spawn(&["logs", SHED, "-f"]);
        wait_for("the reader in the guest", SHORT, || (readers(&cli) == 1).then_some(()));
        cli.sh(SHED, "logger -t speaker followed-line");
        following.wait_for_stdout("speaker", SHORT);
        following.wait_for_stdout("followed-line", SHORT);
        following.signal(Signal::INT);
        let end = following.wait(SHORT);
        assert_eq!((end.code, end.err().as_str()), (130, ""));
        wait_for_no_reader(&cli);
    });
    promises.keep("nothing in a journal steers a terminal or fills the memory", || {
        let script = r#"
            printf 'clear\033[2J\033]0;title\007 end\n' | systemd-cat -t hostile
            printf 'bad \377\376 bytes\n' | systemd-cat -t hostile
            printf 'nul \000 here\n' | systemd-cat -t hostile
            { printf 'SYSLOG_IDENTIFIER=hostile\nMESSAGE='; head -c 1000000 /dev/zero | tr '\0' x; echo; } | logger --journald
            python3 -c "
import socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.sendto(b'MESSAGE\n' + (8).to_bytes(8, 'little') + b'a\n\x00\x1b[2Jb' + b'\nSYSLOG_IDENTIFIER=hostile\nPRIORITY=99\n', '/run/systemd/journal/socket')
"
            logger -t hostile last-hostile-line"#;
        cli.sh(SHED, script);
        let mine = wait_for("the last line", SHORT, || {
            let mine: Vec<Value> =
                lines(&http, "lines=1000").into_iter().filter(|line| line["identifier"] == "hostile").collect();
            mine.iter().any(|line| line["message"] == "last-hostile-line").then_some(mine)
        });
        for line in &mine {
            let message = line["message"].as_str().expect("a message");
            assert!(message.len() <= 8 << 10, "{} bytes", message.len());
            assert!(!message.chars().any(|c| c.is_control() && c != '\n' && c != '\t'), "{message:?}");
        }
        let all = mine.iter().map(|line| line["message"].as_str().unwrap_or_default()).collect::<Vec<_>>();
        assert!(all.iter().any(|text| text.starts_with("bad ") && text.ends_with(" bytes")), "{all:?}");
        assert!(all.iter().any(|text| text.len() == 8 << 10), "the beginning of a long line is there");
        let shown = cli.run(&["logs", SHED, "-n", "100"]).ok();
        assert!(!shown.out().chars().any(|c| c.is_control() && c != '\n' && c != '\t'), "{:?}", shown.out());
        wait_for_no_reader(&cli);
    });
    promises.keep("a flood of lines delays neither health nor commands", || {
        let flood = "timeout 600 sh -c 'yes the flood | systemd-cat -t flood' >/dev/null 2>&1 & sleep 1";
        let following = cli.spawn(&["logs", SHED, "-f"]);
        cli.sh(SHED, flood);
        following.wait_for_stdout("the flood", SHORT);
        for _ in 0..5 {
            let begun = Instant::now();
            let report = status(&http);
            cli.sh(SHED, "true");
            assert_eq!(report["channel"], "open");
            assert!(begun.elapsed() < SHORT / 2, "{:?}", begun.elapsed());
        }
        cli.sh(SHED, "pkill -x timeout; pkill -x yes || true");
        following.signal(Signal::INT);
        assert_eq!(following.wait(SHORT).code, 130);
        wait_for_no_reader(&cli);
    });
    promises.keep("the status is there for people and programs, once and live", || {
        let text = cli.run(&["status", SHED]).ok().out();
        for word in [
            "Status:     running",
            "CPU:",
            "Memory:",
            "Disk:",
            "Load:",
            "broken-one.service failed (exit-code)",
        ] {
            assert!(text.contains(word), "no {word:?} in {text}");
        }
        assert_eq!(cli.run(&["status", SHED, "--json"]).ok().json()["name"], SHED);
        let watching = cli.spawn(&["status", SHED, "--watch"]);
        watching.wait_for_stdout("running, cpu", SHORT);
        fail(&cli, "broken-two");
        watching.wait_for_stdout("broken-two.service failed (exit-code)", SHORT * 2);
        watching.signal(Signal::INT);
        assert_eq!(watching.wait(SHORT).code, 130);
        assert_eq!(cli.run(&["status", "nobody"]).code, 4);
    });
    promises.keep("the console is there, and what is written on it is seen", || {
        assert!(messages(&http, "source=console").iter().any(|line| line.contains("shed-agent: ready")));
        let following = cli.spawn(&["logs", SHED, "--console", "-f", "-n", "1"]);
        wait_for("the follower to wait", SHORT, || {
            cli.sh(SHED, "echo on-the-console | sudo tee /dev/console >/dev/null");
            following.stdout_so_far().contains("on-the-console").then_some(())
        });
        following.signal(Signal::INT);
        assert_eq!(following.wait(SHORT).code, 130);
    });

    server.crash();
    let fails = "broken-meanwhile";
    let server = stage.serve();
    let http = server.http();
    promises.keep("what happened before a server crashed is known to the next one", || {
        wait_for("the old events", SHORT * 2, || {
            tells_of(&status(&http), "broken-two.service").then_some(())
        });
    });
    // A timer makes it fail once nobody listens; its console is a file of this host.
    let mark = "failed-while-nobody-listened";
    let script = format!("sleep 1; echo {mark} >/dev/console; false");
    let timer = ["sudo", "systemd-run", "--quiet", "--on-active=5s", "--timer-property=AccuracySec=100ms"];
    let unit = ["--unit", fails, "sh", "-c", script.as_str()];
    cli.exec(SHED, &[&timer[..], &unit].concat()).ok();
    server.crash();
    let console = stage.shed_file(SHED, "console.log");
    wait_for("the unit to fail", BOOT, || {
        std::fs::read_to_string(&console).ok()?.contains(mark).then_some(())
    });
    let server = stage.serve();
    let http = server.http();
    promises.keep("what failed while no server ran is told to the next one, whose channel is open", || {
        wait_for("the event", BOOT, || {
            let report = status(&http);
            (report["channel"] == "open" && tells_of(&report, &format!("{fails}.service"))).then_some(())
        });
    });
    promises.keep("a clock that stood still while the host slept is put right", || {
        cli.assert_clock_comes_right(SHED);
    });
    promises.keep("a shed that is stopped says so, and its console stays", || {
        let mut events = http.events(EVENTS);
        cli.run(&["stop", SHED]).ok();
        events.wait_for("the news", SHORT, |event| {
            (event.name == "state" && event.data["status"] == "stopped").then_some(())
        });
        let report = status(&http);
        assert_eq!(report, serde_json::json!({ "name": SHED, "status": "stopped" }));
        assert!(cli.run(&["status", SHED]).ok().out().contains("stopped"));
        let refused = cli.run(&["logs", SHED]);
        assert!(refused.code == 1 && refused.err().contains("--console"), "{}", refused.err());
        assert_eq!(http.get(LOGS).is(503).error().0, "SHED_NOT_RUNNING");
        assert!(messages(&http, "source=console&lines=5").len() == 5);
        stage.assert_only(&[Expect::Stopped(SHED)]);
        cli.delete(SHED);
        let last =
            events.wait_for("the end", SHORT, |event| (event.name == "error").then(|| event.data.clone()));
        assert_eq!(last["code"], "SHED_NOT_FOUND");
    });
    promises.keep("nothing is left", || stage.assert_only(&[]));
    promises.finish();
}
