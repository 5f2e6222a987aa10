//! What of a file is taken, warned of and refused.

use shed_testkit::fuzz;

use super::*;

fn good(text: &str) -> Provision {
    let (provision, warnings) = parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"));
    assert!(warnings.is_empty(), "{text}: {warnings:?}");
    provision
}

fn bad(text: &str) -> String {
    match parse(text.as_bytes()) {
        Ok(read) => panic!("{text}: {read:?}"),
        Err(error) => error.to_string(),
    }
}

fn hook(path: &str) -> Option<HookPath> {
    Some(HookPath(path.to_owned()))
}

#[test]
fn a_whole_file() {
    let provision = good(
        "# of a project\nhooks:\n  install: ./scripts/install.sh\n  startup: \"scripts//start up.sh\"\n  shutdown: bye\nenv:\n  PORT: 8080\n  ON: yes\n  NO: no\n  MODE: 0644\n  RATIO: 1.50\n  FLAG: true\n  EMPTY:\n  QUOTED: \"a b\"\n  LONG: |\n    two\n    lines\ntimeout: 1h30m\n",
    );
    assert_eq!(provision.install, hook("scripts/install.sh"));
    assert_eq!(provision.startup, hook("scripts/start up.sh"));
    assert_eq!(provision.shutdown, hook("bye"));
    let expected = [
        ("PORT", "8080"),
        ("ON", "yes"),
        ("NO", "no"),
        ("MODE", "0644"),
        ("RATIO", "1.50"),
        ("FLAG", "true"),
        ("EMPTY", ""),
        ("QUOTED", "a b"),
        ("LONG", "two\nlines\n"),
    ];
    assert_eq!(provision.env, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(provision.timeout, Duration::from_secs(5400));
}

#[test]
fn nothing_is_nothing_to_do() {
    let empty = good("");
    assert_eq!((empty.install.as_ref(), empty.timeout), (None, TIMEOUT));
    for text in [
        "# nothing\n\n",
        "---\n",
        "{}",
        "hooks:\nenv:\ntimeout:\n",
        "hooks: {}\n",
        "hooks: {install: }\n",
        "hooks: {install: ''}\n",
        "\u{feff}# bom\n",
    ] {
        assert_eq!(good(text), empty, "{text:?}");
    }
}

#[test]
fn unknown_keys_are_named_and_nothing_more() {
    let text = "hook: {a: [1, {b: c}]}\nhooks: {instal: x, startup: s}\nversion: 2\n";
    let (provision, warnings) = parse(text.as_bytes()).unwrap();
    assert_eq!(provision.startup, hook("s"));
    assert_eq!(
        warnings,
        [
            "the key \"hook\" means nothing here",
            "the key \"version\" means nothing here",
            "the key \"hooks.instal\" means nothing here"
        ]
    );
    let many: String = (0..50).map(|n| format!("key{n}: 1\n")).collect();
    let (_, warnings) = parse(many.as_bytes()).unwrap();
    assert_eq!((warnings.len(), warnings[10].as_str()), (11, "40 more keys mean nothing here"));
}

#[test]
fn what_makes_no_sense_is_refused_with_its_place() {
    for (text, says) in [
        ("hooks: [a]\n", "line 1"),
        ("hooks: text\n", "line 1"),
        ("- a\n", "line 1"),
        ("just text", "line 1"),
        ("hooks:\n  install: a\n  install: b\n", "line 3"),
        ("env:\n  A: 1\n  A: 2\n", "line 3"),
        ("x: 1\nx: 2\n", "x"),
        ("env: [A=1]\n", "line 1"),
        ("env: {A: {b: c}}\n", "line 1"),
        ("hooks:\n\tinstall: x\n", "line 2"),
        ("hooks: {install: [a]}\n", "line 1"),
        ("a: 1\n---\nb: 2\n", "line"),
        ("hooks: {install: /etc/passwd}\n", "hooks.install: \"/etc/passwd\" is an absolute path"),
        ("hooks: {startup: ../x}\n", "hooks.startup: \"../x\" has .. in it"),
        ("hooks: {startup: a/../../x}\n", "has .. in it"),
        ("hooks: {startup: a/}\n", "is a directory"),
        ("hooks: {startup: ./.}\n", "is a directory"),
        ("hooks: {startup: \"a\\0b\"}\n", "is no path"),
        ("env: {1A: x}\n", "\"1A\" is no name"),
        ("env: {\"A B\": x}\n", "\"A B\" is no name"),
        ("env: {\"A=B\": x}\n", "\"A=B\" is no name"),
        ("env: {\"\": x}\n", "\"\" is no name"),
        ("env: {A: \"x\\0y\"}\n", "the value of A has a NUL"),
        ("timeout: 30\n", "it has no unit"),
        ("timeout: soon\n", "\"soon\""),
        ("timeout: 0s\n", "between 1s and 24h"),
        ("timeout: -5m\n", "between 1s and 24h"),
        ("timeout: 25h\n", "between 1s and 24h"),
        ("timeout: 999999999999h\n", "it is too long"),
        ("timeout: [1h]\n", "line 1"),
    ] {
        let error = bad(text);
        assert!(error.contains(says), "{text:?}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
    assert_eq!(parse(b"\xff\xfe").unwrap_err(), ProvisionError::NoText);
}

#[test]
fn an_error_quotes_no_other_line_of_the_file() {
    let error = bad("env:\n  TOKEN: hunter2\n  A: [\nhooks: {\n");
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn the_sheds_own_variables_stay() {
    let (provision, warnings) = parse(b"env: {SHED_NAME: x, HOME: y, SHELL: y, SHEDS: z}").unwrap();
    assert_eq!(provision.env, [("SHEDS".to_owned(), "z".to_owned())]);
    assert_eq!(
        warnings,
        [
            "env: SHED_NAME and 2 more are not taken: variables that begin with SHED_ are shed's own, and so are HOME, USER, LOGNAME, SHELL"
        ]
    );
}

#[test]
fn deep_and_explosive_documents_are_no_trouble() {
    let deep = format!("x: {}{}", "[".repeat(100_000), "]".repeat(100_000));
    let maps = format!("x: {}1{}", "{a: ".repeat(30_000), "}".repeat(30_000));
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
    for n in 1..12 {
        let aliases = vec![format!("*a{}", n - 1); 9].join(",");
        bomb += &format!("a{n}: &a{n} [{aliases}]\n");
    }
    let indented: String = (0..500).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
    for text in [deep, maps, bomb, indented] {
        // Refused or ignored; what counts is that it ends, and soon.
        let begun = std::time::Instant::now();
        let _either = parse(text.as_bytes());
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
}

#[test]
fn fuzz_provision_yaml() {
    let line = "[ ]{0,4}(hooks|env|timeout|install|startup|shutdown|A|SHED_X|x|- )?:? ?[-a-z0-9/.&*!|>\"'{}\\[\\],#%@ ]{0,12}\n";
    fuzz("provision.yaml", &proptest::collection::vec(line, 0..12), |lines| {
        if let Ok((provision, _)) = parse(lines.concat().as_bytes()) {
            for path in [provision.install, provision.startup, provision.shutdown].iter().flatten() {
                let path = path.as_str();
                assert!(
                    !path.starts_with('/') && !path.split('/').any(|part| matches!(part, "" | "." | ".."))
                );
            }
            assert!(provision.env.iter().all(|(name, _)| is_name(name) && !name.starts_with("SHED_")));
            assert!((MIN_TIMEOUT..=MAX_TIMEOUT).contains(&provision.timeout));
        }
    });
    fuzz(
        "provision.yaml, any bytes",
        &proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
        |bytes| {
            let _either = parse(&bytes);
        },
    );
}
