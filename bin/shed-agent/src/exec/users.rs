//! Accounts, read from /etc/passwd and /etc/group by ourselves: a static program must not ask NSS.

/// Runs commands when the request names nobody (spec B.3).
const DEFAULT_USER: &str = "shed";

/// An account of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    /// Login name.
    pub(crate) name: String,
    /// User id.
    pub(crate) uid: u32,
    /// Primary group's id.
    pub(crate) gid: u32,
    /// All groups' ids, the primary one among them.
    pub(crate) groups: Vec<u32>,
    /// Home directory; absolute.
    pub(crate) home: String,
}

/// Says that there is no such account.
#[derive(Debug, thiserror::Error)]
#[error("the guest has no user {0:?}")]
pub(crate) struct NoSuchUser(String);

/// Finds the account that a request names in the text of passwd and group; nobody named means `shed`, or root in a
/// guest without that account.
pub(crate) fn resolve(passwd: &str, group: &str, requested: &str) -> Result<User, NoSuchUser> {
    if requested.is_empty() {
        return Ok(find(passwd, group, DEFAULT_USER)
            .or_else(|| find(passwd, group, "root"))
            .unwrap_or_else(root));
    }
    match find(passwd, group, requested) {
        Some(user) => Ok(user),
        None if requested == "root" => Ok(root()),
        None => Err(NoSuchUser(requested.to_owned())),
    }
}

fn find(passwd: &str, group: &str, name: &str) -> Option<User> {
    let fields: Vec<&str> =
        passwd.lines().map(|line| line.split(':').collect()).find(|f: &Vec<_>| f.first() == Some(&name))?;
    let (uid, gid) = (fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?);
    let home = fields.get(5).filter(|home| home.starts_with('/')).unwrap_or(&"/");
    let mut groups = vec![gid];
    for id in group.lines().filter_map(|line| member_group(line, name)) {
        if !groups.contains(&id) {
            groups.push(id);
        }
    }
    Some(User { name: name.to_owned(), uid, gid, groups, home: (*home).to_owned() })
}

/// The id of the group in `line` when `name` is one of its members.
fn member_group(line: &str, name: &str) -> Option<u32> {
    let mut fields = line.split(':');
    let id = fields.nth(2)?.parse().ok()?;
    fields.next()?.split(',').any(|member| member.trim() == name).then_some(id)
}

fn root() -> User {
    User { name: "root".to_owned(), uid: 0, gid: 0, groups: vec![0], home: "/root".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nbroken\nshed:x:1000:1000:Shed,,,:/home/shed:/bin/bash\nodd:x:7:8::relative:\n";
    const GROUP: &str =
        "root:x:0:\ndocker:x:999:other,shed\nsudo:x:27:shed\nshedx:x:5:shedx\nshed:x:1000:\nbad:x:no:shed\n";

    #[test]
    fn nobody_named_is_shed_with_all_its_groups() {
        let user = resolve(PASSWD, GROUP, "").unwrap();
        assert_eq!((user.name.as_str(), user.uid, user.gid), ("shed", 1000, 1000));
        assert_eq!(user.groups, [1000, 999, 27]);
        assert_eq!(user.home, "/home/shed");
    }

    #[test]
    fn without_shed_it_is_root_even_without_files() {
        assert_eq!(resolve("root:x:0:0::/r:/bin/sh\n", "", "").unwrap().home, "/r");
        assert_eq!(resolve("", "", "").unwrap(), root());
        assert_eq!(resolve("", "", "root").unwrap(), root());
    }

    #[test]
    fn an_unknown_user_is_an_error_and_an_odd_home_is_the_root_directory() {
        assert!(resolve(PASSWD, GROUP, "she").is_err());
        assert_eq!(resolve(PASSWD, GROUP, "odd").unwrap().home, "/");
    }
}
