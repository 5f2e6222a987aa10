//! Keys made and read, against the real `ssh-keygen`.

use std::{fs, process::Command};

use shed_types::error_chain;
use tempfile::TempDir;

use super::*;

fn scratch() -> (TempDir, Utf8PathBuf) {
    let dir = TempDir::new().unwrap();
    let path = Utf8PathBuf::from_path_buf(dir.path().join("made/host_key")).unwrap();
    (dir, path)
}

fn ssh_keygen(args: &[&str]) -> String {
    let output = Command::new("ssh-keygen").args(args).output().expect("ssh-keygen is installed");
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Writes what stands where the key should be, and returns why it is refused. The file must be as it was.
fn refused(path: &Utf8Path, content: &[u8], mode: u32) -> String {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let error = error_chain(&HostKey::load_or_make(path).expect_err("it must be refused"));
    assert!(error.contains(path.as_str()), "{error}");
    assert_eq!(fs::read(path).unwrap(), content);
    error
}

#[test]
fn it_is_made_once_and_ssh_keygen_reads_the_same_key() {
    let (_dir, path) = scratch();
    let made = HostKey::load_or_make(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);

    let again = HostKey::load_or_make(&path).unwrap();
    assert_eq!(made.public(), again.public());
    assert_eq!(fs::read(&path).unwrap(), bytes, "a key that is there is not written to");

    let line = made.public().host_key;
    assert_eq!(ssh_keygen(&["-y", "-f", path.as_str()]).trim_end(), format!("{line} shed-server"));
    assert!(ssh_keygen(&["-l", "-f", path.as_str()]).contains(&made.fingerprint().to_string()));
    assert!(line.starts_with("ssh-ed25519 AAAA") && line.split(' ').count() == 2, "{line}");
    assert!(!format!("{made:?}").contains("PRIVATE"), "a log must not show the key");
}

#[test]
fn one_that_ssh_keygen_made_is_used() {
    let (_dir, path) = scratch();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let _made = ssh_keygen(&["-q", "-t", "ed25519", "-N", "", "-C", "some comment", "-f", path.as_str()]);
    let public = fs::read_to_string(format!("{path}.pub")).unwrap();
    let key = HostKey::load_or_make(&path).unwrap();
    assert_eq!(format!("{} some comment", key.public().host_key), public.trim_end());
}

#[test]
fn several_servers_that_start_at_once_get_one_key() {
    let (_dir, path) = scratch();
    let keys: Vec<String> = std::thread::scope(|scope| {
        let starts: Vec<_> =
            (0..8).map(|_| scope.spawn(|| HostKey::load_or_make(&path).unwrap().public().host_key)).collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
}

#[test]
fn what_is_no_key_is_refused_and_not_replaced() {
    let (_dir, path) = scratch();
    let armour = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n";
    for content in ["", "\0\u{1}", "ssh-ed25519 AAAA", armour] {
        let error = refused(&path, content.as_bytes(), 0o600);
        assert!(error.contains("OpenSSH's format"), "{error}");
    }
    assert!(refused(&path, &[b'x'; 65 << 10], 0o600).contains("longer than"));
}

#[test]
fn a_key_cut_short_or_changed_is_refused() {
    let (_dir, path) = scratch();
    let _made = HostKey::load_or_make(&path).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let half = &text[..text.len() / 2];
    assert!(refused(&path, half.as_bytes(), 0o600).contains("OpenSSH's format"));
    // A letter of the private half: what is told of the public one would not be what signs.
    let at = text.find("-----END").unwrap() - 80;
    let other = if &text[at..=at] == "A" { "B" } else { "A" };
    let changed = format!("{}{other}{}", &text[..at], &text[at + 1..]);
    let _why = refused(&path, changed.as_bytes(), 0o600);
}

#[test]
fn a_key_that_others_may_read_is_refused_with_what_to_do() {
    let (_dir, path) = scratch();
    let _made = HostKey::load_or_make(&path).unwrap();
    let text = fs::read(&path).unwrap();
    for mode in [0o644, 0o640, 0o604, 0o660, 0o601] {
        let error = refused(&path, &text, mode);
        assert!(error.contains(&format!("{mode:04o}")) && error.contains("chmod 600"), "{error}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    assert!(HostKey::load_or_make(&path).is_ok());
}

#[test]
fn keys_with_a_passphrase_or_of_another_type_are_refused_by_name() {
    let (_dir, path) = scratch();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    for (kind, passphrase, words) in
        [("ed25519", "secret", "passphrase"), ("ecdsa", "", "ecdsa-sha2-nistp256"), ("rsa", "", "ssh-rsa")]
    {
        let other = path.with_file_name(kind);
        let _made = ssh_keygen(&["-q", "-t", kind, "-N", passphrase, "-f", other.as_str()]);
        let error = refused(&path, &fs::read(&other).unwrap(), 0o600);
        assert!(error.contains(words) && error.contains("ssh-keygen"), "{error}");
    }
    let pem = path.with_file_name("pem");
    let _made = ssh_keygen(&["-q", "-t", "rsa", "-m", "PEM", "-N", "", "-f", pem.as_str()]);
    assert!(refused(&path, &fs::read(&pem).unwrap(), 0o600).contains("OpenSSH's format"));
}

#[test]
fn what_is_no_file_is_refused_without_waiting() {
    let (_dir, path) = scratch();
    fs::create_dir_all(&path).unwrap();
    let error = HostKey::load_or_make(&path).unwrap_err().to_string();
    assert!(error.contains("a directory") && error.contains(path.as_str()), "{error}");
    let pipe = path.join("pipe");
    shed_testkit::make_pipe(&pipe);
    let error = HostKey::load_or_make(&pipe).unwrap_err().to_string();
    assert!(error.contains("pipe"), "{error}");
    // A parent that is no directory.
    let file = path.join("file");
    fs::write(&file, "x").unwrap();
    let error = error_chain(&HostKey::load_or_make(&file.join("key")).unwrap_err());
    assert!(error.contains(file.as_str()), "{error}");
}
