use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

use super::*;
use crate::ssh_config::entry::Entry;

fn home() -> (tempfile::TempDir, SshFile) {
    let dir = tempfile::tempdir().unwrap();
    let path = Utf8Path::from_path(dir.path()).unwrap().join(".ssh/config");
    (dir, SshFile { path })
}

fn add(name: &str) -> impl FnOnce(&mut Entries) {
    let alias = format!("shed-{name}");
    let entry = Entry { alias: alias.clone(), text: format!("Host {alias}\n  Port 1\n") };
    move |entries| drop(entries.insert(alias, entry))
}

fn mode(path: &Utf8Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_missing_file_is_made_for_the_user_alone() {
    let (_dir, file) = home();
    let looked = file.update(Intent::Look, add("web")).unwrap();
    assert!(looked.is_written && !file.path.exists() && !file.path.parent().unwrap().exists());
    assert_eq!(file.update(Intent::Write, add("web")).unwrap(), looked);
    assert_eq!((mode(&file.path), mode(file.path.parent().unwrap())), (0o600, 0o700));
    let changes = file.update(Intent::Write, Entries::clear).unwrap();
    assert_eq!(changes.removed.keys().collect::<Vec<_>>(), ["shed-web"]);
    assert_eq!(fs::read(&file.path).unwrap(), b"");
}

#[test]
fn what_has_all_is_not_touched_and_what_is_written_is_for_the_user_alone() {
    let (_dir, file) = home();
    fs::create_dir_all(file.path.parent().unwrap()).unwrap();
    fs::write(&file.path, "Host a\n").unwrap();
    fs::set_permissions(&file.path, fs::Permissions::from_mode(0o644)).unwrap();
    file.update(Intent::Write, add("web")).unwrap();
    assert_eq!(mode(&file.path), 0o600);
    let before = (fs::metadata(&file.path).unwrap().modified().unwrap(), fs::read(&file.path).unwrap());
    let changes = file.update(Intent::Write, add("web")).unwrap();
    assert_eq!(changes, Changes::default());
    assert_eq!(
        (fs::metadata(&file.path).unwrap().modified().unwrap(), fs::read(&file.path).unwrap()),
        before
    );
}

#[test]
fn a_link_stays_a_link_and_one_to_nothing_is_refused() {
    let (dir, file) = home();
    fs::create_dir_all(file.path.parent().unwrap()).unwrap();
    let real = dir.path().join("dotfiles");
    symlink(&real, &file.path).unwrap();
    assert!(matches!(file.update(Intent::Write, add("web")), Err(SshFileError::DanglingLink { .. })));
    fs::write(&real, "").unwrap();
    file.update(Intent::Write, add("web")).unwrap();
    assert!(fs::symlink_metadata(&file.path).unwrap().is_symlink());
    assert!(fs::read_to_string(real).unwrap().contains("Host shed-web"));
}

#[test]
fn a_block_without_an_end_is_left_alone() {
    let (_dir, file) = home();
    fs::create_dir_all(file.path.parent().unwrap()).unwrap();
    let text = "Host a\n# --- BEGIN SHED MANAGED BLOCK ---\nHost shed-web\n";
    fs::write(&file.path, text).unwrap();
    assert!(matches!(file.update(Intent::Write, add("api")), Err(SshFileError::Block { .. })));
    assert_eq!(fs::read_to_string(&file.path).unwrap(), text);
}

#[test]
fn under_sudo_all_stays_the_user_s() {
    let (dir, file) = home();
    let own = fs::metadata(dir.path()).unwrap().uid();
    // Only root can make files another's; for others all is theirs before and after.
    let user = if own == 0 { 54_321 } else { own };
    chown(dir.path(), Some(user), None).unwrap();
    let owner = |path: &Utf8Path| fs::metadata(path).unwrap().uid();
    file.update(Intent::Write, add("web")).unwrap();
    assert_eq!([owner(&file.path), owner(file.path.parent().unwrap())], [user, user]);
    file.update(Intent::Write, add("api")).unwrap();
    assert_eq!((owner(&file.path), mode(&file.path)), (user, 0o600));
}
