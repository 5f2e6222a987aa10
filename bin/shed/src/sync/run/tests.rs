use super::*;

fn lines(pieces: &[&[u8]]) -> Vec<String> {
    let mut all = Vec::new();
    let mut lines = Lines::default();
    for piece in pieces {
        lines.take(piece, &mut |line| all.push(line.to_owned()));
    }
    lines.end(&mut |line| all.push(line.to_owned()));
    all
}

#[test]
fn output_is_shown_line_by_line_however_it_comes() {
    assert_eq!(lines(&[b"on", b"e\ntw", b"o\r\n\nthree"]), ["one", "two", "three"]);
    assert_eq!(lines(&["ü".as_bytes()]), ["ü"]);
    assert_eq!(lines(&[&"ü".as_bytes()[..1], &"ü".as_bytes()[1..]]), ["ü"]);
    assert_eq!(lines(&[&vec![b'x'; 3 * MAX_LINE]]).len(), 3);
    assert!(lines(&[b"\n\n"]).is_empty());
}

#[test]
fn the_log_has_a_line_for_each_thing_and_bounded_output() {
    let mut log = Log::begin("git");
    log.output(b"no line feed");
    log.line("next");
    log.output(&vec![b'x'; MAX_LOGGED * 2]);
    log.output(b"more");
    log.line("last");
    let text = String::from_utf8(log.text).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].ends_with(&format!(" feature git, shed {}", env!("CARGO_PKG_VERSION"))), "{}", lines[0]);
    assert_eq!(lines[1], "no line feed");
    assert_eq!(lines[3].len(), MAX_LOGGED);
    assert_eq!(lines[4], "(cut off here)");
    assert!(lines[5].ends_with(" last") && lines.len() == 6);
}

#[test]
fn a_command_of_several_lines_is_shown_by_its_first() {
    assert_eq!(first_line("  echo a\n"), "echo a");
    assert_eq!(first_line("echo a\necho b"), "echo a …");
    assert_eq!(first_line("\u{1b}[2J"), "\u{fffd}[2J");
}
