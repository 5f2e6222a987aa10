use super::*;

fn entry(name: &str, port: u16) -> Entry {
    Entry {
        alias: format!("shed-{name}"),
        text: format!("Host shed-{name}\n  # on server mini\n  Port {port}\n"),
    }
}

fn entries_of(list: &[Entry]) -> Entries {
    list.iter().map(|entry| (entry.alias.clone(), entry.clone())).collect()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

#[track_caller]
fn written(file: &[u8], wanted: &[Entry]) -> Vec<u8> {
    match put(&split(file).unwrap(), &entries_of(wanted), at(0)) {
        Outcome::Written(bytes) => bytes,
        Outcome::Same => panic!("it is written"),
    }
}

#[test]
fn the_block_begins_the_file_and_gives_it_back_its_meaning() {
    let file = written(b"ServerAliveInterval 5\nHost *\n  User me\n", &[entry("web", 2), entry("api", 1)]);
    insta::assert_snapshot!(String::from_utf8(file).unwrap(), @r"
    # --- BEGIN SHED MANAGED BLOCK ---
    # Do not edit: `shed ssh-config --install` writes this block anew.
    # Last updated: 1970-01-01T00:00:00Z

    Host shed-api
      # on server mini
      Port 1

    Host shed-web
      # on server mini
      Port 2

    # What follows is for all hosts again.
    Host *
    # --- END SHED MANAGED BLOCK ---
    ServerAliveInterval 5
    Host *
      User me
    ");
}

#[test]
fn what_goes_in_comes_out_again_by_the_byte() {
    for file in [
        &b""[..],
        b"Host a",
        b"Host a\n",
        b"\n\n  # x\n\n",
        b"Host a\r\n  Port 1\r\n",
        b"Host a\r\n  Port 1",
        b"# \xff\xfe not UTF-8\n",
    ] {
        let with = written(file, &[entry("web", 2)]);
        assert!(with.ends_with(file));
        assert_eq!(entries(split(&with).unwrap().block.unwrap()).keys().collect::<Vec<_>>(), ["shed-web"]);
        let is_crlf = file.starts_with(b"Host a\r\n");
        assert_eq!(with.windows(2).filter(|two| *two == b"\r\n").count() > 5, is_crlf);
        assert_eq!(written(&with, &[]), file, "{file:?}");
        // A second time changes nothing, whatever the time is.
        assert_eq!(put(&split(&with).unwrap(), &entries_of(&[entry("web", 2)]), at(99)), Outcome::Same);
    }
}

#[test]
fn a_block_that_was_moved_stays_there_and_a_changed_port_is_written() {
    let block = written(b"", &[entry("web", 2)]);
    let file = [&b"Host a\n"[..], &block, b"Host b"].concat();
    let changed = String::from_utf8(written(&file, &[entry("web", 3)])).unwrap();
    assert!(changed.starts_with("Host a\n# --- BEGIN") && changed.ends_with("---\nHost b"), "{changed}");
    assert!(changed.contains("Port 3") && !changed.contains("Port 2"), "{changed}");
    let found = entries(split(changed.as_bytes()).unwrap().block.unwrap());
    assert_eq!(found, entries_of(&[entry("web", 3)]));
}

#[test]
fn what_somebody_wrote_into_the_block_is_written_anew() {
    let block = String::from_utf8(written(b"", &[entry("web", 2)])).unwrap();
    for (from, to) in
        [("Host *", "Host x"), ("# Do not", "# Do"), ("Port 2", "Port 2 "), ("\n\nHost", "\nHost b\n\nHost")]
    {
        let edited = block.replacen(from, to, 1);
        assert_ne!(edited, block);
        assert_eq!(written(edited.as_bytes(), &[entry("web", 2)]), block.as_bytes());
    }
    assert_eq!(put(&split(block.as_bytes()).unwrap(), &entries_of(&[entry("web", 2)]), at(7)), Outcome::Same);
}

#[test]
fn marks_that_do_not_pair_are_refused_with_their_line() {
    let (begin, end) = (BEGIN, END);
    for (file, error) in [
        (format!("a\n{begin}\nb"), BlockError::NoEnd { line: 2 }),
        (format!("{end}\n"), BlockError::NoBegin { line: 1 }),
        (format!("{end}\n{begin}\n"), BlockError::NoBegin { line: 1 }),
        (format!("{begin}\n{begin}\n{end}\n{end}\n"), BlockError::Twice { line: 2 }),
        (format!("{begin}\n{end}\n{begin}\n{end}\n"), BlockError::Twice { line: 3 }),
        (format!("{begin}\n{end}\n{begin}\n"), BlockError::Twice { line: 3 }),
        (format!("{begin}\n{end}\n{end}\n"), BlockError::NoBegin { line: 3 }),
        (format!("  {begin}\r\n\t{begin} \r\n"), BlockError::Twice { line: 2 }),
    ] {
        assert_eq!(split(file.as_bytes()).unwrap_err(), error, "{file}");
    }
    // A mark in the middle of a line is none.
    assert_eq!(split(format!("# see {begin}\n").as_bytes()).unwrap().block, None);
}

#[test]
fn fuzz_ssh_config() {
    let lines = [BEGIN, END, "Host shed-web", "  Port 1", "Host *", "\u{ff}", "", "\r"];
    let file = proptest::collection::vec((0..lines.len(), proptest::bool::ANY), 0..12);
    shed_testkit::fuzz("ssh_config", &file, |parts| {
        let text: String = parts
            .iter()
            .map(|(line, ends)| format!("{}{}", lines[*line], if *ends { "\n" } else { "" }))
            .collect();
        let Ok(parts) = split(text.as_bytes()) else { return };
        let outside = [parts.before, parts.after].concat();
        let Outcome::Written(with) = put(&parts, &entries_of(&[entry("web", 2)]), at(0)) else { return };
        let again = split(&with).expect("what is written is read");
        assert_eq!([again.before, again.after].concat(), outside);
        assert_eq!(entries(again.block.unwrap()), entries_of(&[entry("web", 2)]));
    });
}
