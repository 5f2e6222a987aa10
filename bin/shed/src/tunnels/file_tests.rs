use super::*;

const BOTH: &str = "
ssh:
  server_alive_interval: 15
profiles:
  default:
    description: what every web shed has
    ports:
      - {local: 3000, remote: 3000}
      - local: 8080
        remote: 80
  db: [5432, '15432:5432', 9000:90]
sheds:
  api:
    profiles:
      default: [\"3001:3000\"]
      debug: {ports: [9229]}
";

fn resolve(
    file: &TunnelsFile,
    shed: &str,
    profiles: &[&str],
    explicit: &[&str],
) -> Result<(String, String), ResolveError> {
    let profiles: Vec<ProfileName> = profiles.iter().map(|text| text.parse().unwrap()).collect();
    let explicit: Vec<Mapping> = explicit.iter().map(|text| text.parse().unwrap()).collect();
    let resolved = file.resolve(&shed.parse().unwrap(), &profiles, &explicit)?;
    Ok((resolved.label, mapping::list(&resolved.ports)))
}

#[track_caller]
fn resolved(shed: &str, profiles: &[&str], explicit: &[&str]) -> (String, String) {
    resolve(&TunnelsFile::parse(BOTH).unwrap(), shed, profiles, explicit).unwrap()
}

fn pair(label: &str, ports: &str) -> (String, String) {
    (label.to_owned(), ports.to_owned())
}

#[test]
fn both_forms_are_read_and_the_shed_s_own_profile_wins() {
    assert_eq!(resolved("web", &[], &[]), pair("default", "3000, 8080:80"));
    assert_eq!(resolved("api", &[], &[]), pair("default", "3001:3000"));
    assert_eq!(resolved("api", &["db", "debug"], &[]), pair("db+debug", "5432, 9000:90, 9229, 15432:5432"));
    let settings = TunnelsFile::parse(BOTH).unwrap().ssh;
    assert_eq!(settings, Settings { server_alive_interval: 15, ..Settings::default() });
}

#[test]
fn later_mappings_win_and_the_label_tells_what_was_used() {
    assert_eq!(resolved("web", &[], &["3000:4000"]), pair("explicit", "3000:4000"));
    assert_eq!(
        resolved("web", &["default", "db", "default"], &["3000:4000", "3000:5000"]),
        pair("default+db+explicit", "3000:5000, 5432, 8080:80, 9000:90, 15432:5432")
    );
}

#[test]
fn a_missing_profile_is_named_with_those_there_are() {
    let file = TunnelsFile::parse(BOTH).unwrap();
    let Err(ResolveError::NoProfile { profile, known, .. }) = resolve(&file, "api", &["nosuch"], &["1"])
    else {
        panic!("there is none")
    };
    let known: Vec<String> = known.iter().map(ToString::to_string).collect();
    assert_eq!((profile.to_string().as_str(), known.join(" ").as_str()), ("nosuch", "db debug default"));
    let empty = TunnelsFile::parse("profiles: {default: []}").unwrap();
    assert!(matches!(resolve(&empty, "api", &[], &[]), Err(ResolveError::NoPorts { .. })));
    assert!(matches!(resolve(&TunnelsFile::default(), "api", &[], &[]), Err(ResolveError::NoProfile { .. })));
}

#[test]
fn what_breaks_the_rules_is_refused_with_line_and_key() {
    for (text, line, what) in [
        ("profile: {}", 1, "profile"),
        ("profiles:\n  default:\n    port: []", 3, "port"),
        ("profiles:\n  default:\n    ports: []\n    descripton: x", 4, "descripton"),
        ("profiles:\n  default:\n    - 3000\n    - 70000", 4, "70000"),
        ("profiles:\n  default:\n    - '3000:x'", 3, "3000:x"),
        ("profiles:\n  default: {ports: [{local: 3000}]}", 2, "remote"),
        ("profiles:\n  default: {ports: [{local: 3000, remote: 0}]}", 2, "0"),
        ("profiles:\n  default: {ports: [{local: 3000, remote: 1, host: x}]}", 2, "host"),
        ("profiles:\n  'a+b': []", 2, "a+b"),
        ("profiles:\n  a: []\n  a: []", 3, "a"),
        ("sheds:\n  Web: {}", 2, "Web"),
        ("sheds:\n  web:\n    ports: []", 3, "ports"),
        ("ssh:\n  server_alive_interval: 3601", 2, "3601"),
        ("ssh:\n  server_alive_count_max: 101", 2, "101"),
        ("ssh:\n  connect_timeout: 301", 2, "301"),
        ("ssh:\n  connect_timeout: -1", 2, "-1"),
        ("ssh:\n  connect_timout: 1", 2, "connect_timout"),
        ("- 3000", 1, ""),
        ("profiles: {default: {ports: [", 1, ""),
    ] {
        let error = TunnelsFile::parse(text).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(&format!("line {line}")) && error.contains(what), "{text:?}: {error}");
    }
}

#[test]
fn a_file_that_grows_when_it_is_read_is_refused() {
    let mut bomb = "a: &a [3000,3000,3000,3000,3000,3000,3000,3000,3000]\n".to_owned();
    for (name, before) in
        ["b", "c", "d", "e", "f", "g", "h", "i"].iter().zip(["a", "b", "c", "d", "e", "f", "g", "h"])
    {
        bomb.push_str(&format!("{name}: &{name} [{}]\n", vec![format!("*{before}"); 9].join(",")));
    }
    assert!(TunnelsFile::parse(&format!("profiles:\n  {}", bomb.trim_end().replace('\n', "\n  "))).is_err());
}

#[test]
fn settings_of_zero_mean_never() {
    let read = |text: &str| TunnelsFile::parse(text).unwrap().ssh;
    assert_eq!(read("ssh: {server_alive_interval: 0}").keep_alive(), None);
    assert_eq!(read("ssh: {server_alive_count_max: 0}").keep_alive(), None);
    assert_eq!(read("ssh: {connect_timeout: 0}").connect_timeout(), None);
    assert_eq!(read("ssh: {}").connect_timeout(), Some(Duration::from_secs(10)));
}

#[test]
fn fuzz_tunnels_file() {
    let text = "(ssh|profiles|sheds|default|ports|local|remote|[-:{}\\[\\], \n'\"&*|>#!3]|[ -~]){0,60}";
    shed_testkit::fuzz("tunnels.yaml", &text, |text| {
        // Whatever it says, it is read or refused.
        let _either = TunnelsFile::parse(&text).map(|file| resolve(&file, "web", &[], &[]));
    });
}
