//! Lines for ~/.ssh/known_hosts of a guest that clones over SSH (spec D.1): nobody is there to answer ssh's question.

use shed_types::{KnownHost, Repo};

/// GitHub's host keys, as its documentation has them ("GitHub's SSH key fingerprints", read 2026-11-22).
const GITHUB: [&str; 3] = [
    "github.com ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl",
    "github.com ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBEmKSENjQEezOmxkZMy7opKgwFB9nkt5YRrYMjNuG5N87uRgg6CLrbo5wAdT/y6v0mKV0U2w0WZ2YB/++Tpockg=",
    "github.com ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQCj7ndNxQowgcQnjshcLrqPEiiphnt+VTTvDP6mHBL9j1aNUkY4Ue1gvwnGLVlOhGeYrnZaMgRK6+PKCUXaDbC7qtbW8gIkhL7aGCsOr/C56SJMy/BCZfxd1nWzAOxSDPgVsmerOBYfNqltV9/hWCqBywINIR+5dIg6JTJ72pcEpEjcYgXkE2YEFXV1JHnsKgbLWNlhScqb2UmyRkQyytRLtL+38TGxkxCflmO+5Z8CSSNY7GidjMIZ7Q4zMjA2n1nGrlTDkzwDCsw+wqFPGQA179cnfGWOWRVruj16z6XyvxvjJwbz0wQZ75XK5tKSb7FNyeIEs4TT4jk+S4dhPeAUC5y+bDYirYgM4GC7uEnztnZyaVWQ7B381AK4Qdrwt51ZqExKbQpTUNn+EjqoTwvqNj4kqx5QUCI0ThS/YkOxJCXmPUWZbhjpCg56i+2aB6CmK2JGhn57K5mj0MNdBXA4/WnwH6XoPWJzK5Nyu2zB3nAZp+S5hpQs+p1vN1/wsjk=",
];

/// Returns the lines that a clone of `repo` wants to find: none when it does not go over SSH.
pub(crate) fn lines(repo: &Repo, extra: &[KnownHost]) -> Vec<String> {
    if !repo.is_ssh() {
        return Vec::new();
    }
    GITHUB.iter().copied().chain(extra.iter().map(KnownHost::as_str)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD, prelude::BASE64_STANDARD};
    use sha2::{Digest, Sha256};

    use super::*;

    /// The fingerprints that GitHub publishes with the keys.
    const FINGERPRINTS: [&str; 3] = [
        "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU",
        "SHA256:p2QAMXNIC1TJYWeIOttrVc98/R1BUFWu3/LiyKgUfQM",
        "SHA256:uNiVztksCsDhcc0u9e8BujQXVUpKZIDTMczCvj3tD2s",
    ];

    #[test]
    fn the_keys_of_github_have_the_fingerprints_that_it_publishes() {
        for (line, fingerprint) in GITHUB.into_iter().zip(FINGERPRINTS) {
            assert_eq!(line.parse::<KnownHost>().unwrap().as_str(), line);
            let key = BASE64_STANDARD.decode(line.split(' ').nth(2).unwrap()).unwrap();
            let digest = STANDARD_NO_PAD.encode(Sha256::digest(&key));
            assert_eq!(format!("SHA256:{digest}"), fingerprint);
            let kind = line.split(' ').nth(1).unwrap();
            assert_eq!(&key[4..4 + kind.len()], kind.as_bytes(), "the key is of the type that the line says");
        }
    }

    #[test]
    fn only_a_clone_over_ssh_needs_host_keys() {
        let extra = ["git.lan ssh-ed25519 AAAAC3Nz".parse().unwrap()];
        let of = |repo: &str| lines(&repo.parse().unwrap(), &extra);
        for repo in ["a/b", "git@git.lan:x", "ssh://git.lan/x"] {
            assert_eq!(of(repo).len(), 4, "{repo}");
        }
        assert_eq!(of("https://git.lan/x"), Vec::<String>::new());
    }
}
