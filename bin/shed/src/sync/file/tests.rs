use shed_files::Choice;

use super::*;

const EXAMPLE: &str = "\
features:
  git:
    paths:
      - {source: ~/.gitconfig, target: ~/.gitconfig}
  nvim:
    description: the editor
    paths:
      - source: ~/.config/nvim
        target: ~/.config/nvim/
        include: ['*.lua', './lua/**', 'after/']
    postSync:
      - run: nvim --headless +qa
      - run: |
          echo two
          echo lines
profiles:
  default: {features: [git, nvim]}
  none: {features: []}
";

fn parse(text: &str) -> Result<SyncFile, SyncFileError> {
    SyncFile::parse(Utf8Path::new("/h/.shed/sync.yaml"), text, Some(Path::new("/home/me")))
}

/// Returns everything that is said about a file that is refused.
fn refusal(text: &str) -> String {
    shed_types::error_chain(&parse(text).unwrap_err())
}

fn names(list: &str) -> Vec<FeatureName> {
    list.split_whitespace().map(|name| name.parse().unwrap()).collect()
}

fn chosen(file: &SyncFile, profiles: &str, features: &str) -> Vec<String> {
    let profiles: Vec<ProfileName> = profiles.split_whitespace().map(|name| name.parse().unwrap()).collect();
    let chosen = file.choose(&profiles, &names(features)).unwrap();
    chosen.iter().map(|(name, _)| name.to_string()).collect()
}

#[test]
fn the_example_is_understood() {
    let file = parse(EXAMPLE).unwrap();
    let nvim = &file.features[&names("nvim")[0]];
    assert_eq!((nvim.description.as_str(), nvim.post_sync.len()), ("the editor", 2));
    let path = &nvim.paths[0];
    assert_eq!(
        (path.written.as_str(), path.source.as_path()),
        ("~/.config/nvim", Path::new("/home/me/.config/nvim"))
    );
    assert!(path.target_is_directory && path.target.as_str() == "~/.config/nvim");
    let include = path.include.as_ref().unwrap();
    for (path, taken) in
        [("init.lua", true), ("lua/a/b.vim", true), ("after", true), ("sub/x.lua", false), ("README", false)]
    {
        assert_eq!(include.choice(Path::new(path)) == Choice::Take, taken, "{path}");
    }
    let git = &file.features[&names("git")[0]].paths[0];
    assert!(!git.target_is_directory && git.include.is_none());
    assert!(
        parse("features: {x: {paths: [{source: /a, target: '~'}]}}")
            .unwrap()
            .features
            .values()
            .all(|f| f.paths[0].target_is_directory)
    );
}

#[test]
fn features_are_chosen_once_each_and_in_order() {
    let file = parse(EXAMPLE).unwrap();
    assert_eq!(chosen(&file, "", ""), ["git", "nvim"], "the profile `default`");
    assert_eq!(chosen(&file, "", "nvim"), ["nvim"], "a feature alone does not bring the default profile");
    assert_eq!(chosen(&file, "none", ""), Vec::<String>::new());
    assert_eq!(chosen(&file, "none default", "nvim nvim git"), ["git", "nvim"]);
    let error = file.choose(&["work".parse().unwrap()], &[]).unwrap_err().to_string();
    assert_eq!(error, "/h/.shed/sync.yaml has no profile work; it has: default, none");
    let error = file.choose(&[], &names("vim")).unwrap_err().to_string();
    assert_eq!(error, "/h/.shed/sync.yaml has no feature vim; it has: git, nvim");
    assert!(parse("").unwrap().choose(&[], &[]).unwrap_err().to_string().ends_with("it has: none"));
}

#[test]
fn a_file_without_anything_is_empty() {
    for text in ["", "\n# only a comment\n", "features: {}\n", "profiles: {}", "{}"] {
        let file = parse(text).unwrap();
        assert!(file.features.is_empty() && !file.has_profile(&ProfileName::default_name()), "{text:?}");
    }
}

#[test]
fn what_is_misspelt_is_said_with_its_place() {
    for (text, said) in [
        ("feature: {}", &["feature", "line 1"][..]),
        ("features:\n  a:\n    path: []\n", &["path", "line 3"]),
        ("features:\n  a:\n    description: x\n", &["paths", "line"]),
        ("features:\n  a:\n    paths:\n      - {source: /x}\n", &["target", "line 4"]),
        (
            "features:\n  a:\n    paths:\n      - {source: /x, target: /y, includes: []}\n",
            &["includes", "line 4"],
        ),
        ("features: {a: {paths: [{source: [1], target: /y}]}}", &["line 1"]),
        ("features: {a: {paths: [{source: /x, target: /y}], postSync: [echo]}}", &["line 1"]),
        ("features: {a: {paths: [{source: /x, target: /y}], postsync: []}}", &["postsync"]),
        ("features: [a]", &["line 1"]),
        ("features: {a: {paths: [{source: /x, target: /y}]}, a: {paths: []}}", &["uplicate"]),
        ("features: {'a b': {paths: [{source: /x, target: /y}]}}", &["a b", "letters"]),
        ("profiles: {default: [git]}", &["line 1"]),
        ("features: {\n", &["line"]),
        ("a: &a [*a]", &[]),
        ("- x", &["line 1"]),
        ("\u{0}", &[]),
    ] {
        let refusal = refusal(text);
        assert!(refusal.starts_with("/h/.shed/sync.yaml cannot be understood"), "{text:?}: {refusal}");
        for word in said {
            assert!(refusal.contains(word), "{text:?}: {word:?} is not in {refusal}");
        }
    }
}

#[test]
fn what_makes_no_sense_is_said_with_its_key() {
    let path =
        |fields: &str| format!("features: {{a: {{paths: [{{source: /x, target: /y}}, {{{fields}}}]}}}}");
    for (text, said) in [
        ("features: {a: {paths: []}}".to_owned(), "features.a.paths is empty"),
        (path("source: '', target: /y"), "features.a.paths[1].source is empty"),
        (path("source: /x, target: ' '"), "features.a.paths[1].target is empty"),
        (path("source: x, target: /y"), "features.a.paths[1].source \"x\": write an absolute path"),
        (path("source: ~you/x, target: /y"), "only for your own"),
        (path("source: $HOME/x, target: /y"), "write an absolute path"),
        (path("source: /x, target: y"), "features.a.paths[1].target \"y\": a path in a shed begins with"),
        (path("source: /x, target: /y/../z"), "has no `..`"),
        (path("source: /x, target: ~root/x"), "begins with"),
        (path("source: /x, target: \"/\\0\""), "zero byte"),
        (path("source: \"/\\0\", target: /x"), "zero byte"),
        (path("source: /x, target: /y, include: ['[']"), "features.a.paths[1].include[0] \"[\""),
        (path("source: /x, target: /y, include: [ok, '']"), "features.a.paths[1].include[1]"),
        (path("source: /x, target: /y, include: [/abs]"), "relative to the source"),
        (
            "features: {a: {paths: [{source: /x, target: /y}], postSync: [{run: ' '}]}}".to_owned(),
            "features.a.postSync[0].run is empty",
        ),
        ("profiles: {p: {features: [ghost]}}".to_owned(), "profiles.p.features names ghost"),
    ] {
        let refusal = refusal(&text);
        assert!(refusal.contains(said), "{text}: {refusal}");
    }
}

#[test]
fn a_home_directory_is_needed_only_where_it_is_named() {
    let without = |text: &str| SyncFile::parse(Utf8Path::new("/s"), text, None);
    assert!(without("features: {a: {paths: [{source: /x, target: ~/y}]}}").is_ok());
    let error = without("features: {a: {paths: [{source: ~, target: ~}]}}").unwrap_err().to_string();
    assert!(error.contains("paths[0].source") || error.contains("understood"), "{error}");
    let error = without("features: {a: {paths: [{source: ~/x, target: /y}]}}").unwrap_err().to_string();
    assert!(error.contains("HOME is not set"), "{error}");
}

#[test]
fn bombs_are_no_harm() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let below = format!("*a{}", level - 1);
        text += &format!("a{level}: &a{level} [{}]\n", [below.as_str(); 10].join(", "));
    }
    assert!(parse(&text).is_err());
    assert!(parse(&"[".repeat(100_000)).is_err());
    assert!(parse(&format!("features: {}", "{a: ".repeat(20_000))).is_err());
    let dir = tempfile::tempdir().unwrap();
    let path = Utf8Path::from_path(dir.path()).unwrap().join("sync.yaml");
    assert!(matches!(SyncFile::load(&path, None), Err(SyncFileError::Missing { .. })));
    fs::write(&path, " ".repeat((1 << 20) + 1)).unwrap();
    assert!(matches!(SyncFile::load(&path, None), Err(SyncFileError::TooLong { .. })));
    fs::write(&path, b"features: \xff").unwrap();
    assert!(matches!(SyncFile::load(&path, None), Err(SyncFileError::Read { .. })));
}
