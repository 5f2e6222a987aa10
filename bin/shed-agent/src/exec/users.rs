//! Accounts, read from /etc/passwd and /etc/group by ourselves: a static program must not ask NSS.

/// Runs commands when neither the request nor the image names anybody (spec B.3).
pub(crate) const DEFAULT_USER: &str = "shed";

/// Largest id of a user or group: what container tools take (`1 << 31` and more are negative to some programs, and -1
/// means "unchanged" to the kernel, which would be root).
const MAX_ID: u32 = i32::MAX.cast_unsigned();

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

/// Finds the account that a request names in the text of passwd and group; nobody named means the image's user, see
/// [`default`].
pub(crate) fn resolve(passwd: &str, group: &str, requested: &str, image: &str) -> Result<User, NoSuchUser> {
    if requested.is_empty() {
        return Ok(default(passwd, group, image));
    }
    match find(passwd, group, requested) {
        Some(user) => Ok(user),
        None if requested == "root" => Ok(root()),
        None => Err(NoSuchUser(requested.to_owned())),
    }
}

/// Returns who runs commands when a request names nobody: the user that the image names, unless that is root or nobody
/// the guest knows; then `shed`, or root in a guest without that account.
pub(crate) fn default(passwd: &str, group: &str, image: &str) -> User {
    of_image(passwd, group, image)
        .ok()
        .flatten()
        .or_else(|| find(passwd, group, DEFAULT_USER))
        .or_else(|| find(passwd, group, "root"))
        .unwrap_or_else(root)
}

/// Finds the user that an image names, as `name`, `uid`, `name:group` or `uid:gid`. `None` when it names nobody or root:
/// that is what images say that have not thought about it.
pub(crate) fn of_image(passwd: &str, group: &str, image: &str) -> Result<Option<User>, NoSuchUser> {
    if image.is_empty() {
        return Ok(None);
    }
    let unknown = || NoSuchUser(image.to_owned());
    let (name, group_name) = image.split_once(':').unwrap_or((image, ""));
    let mut user = match find(passwd, group, name) {
        Some(user) => user,
        None if matches!(name, "" | "root") => root(),
        None => by_id(passwd, group, id(name).ok_or_else(unknown)?),
    };
    if !group_name.is_empty() {
        user.gid = gid_of(group, group_name).or_else(|| id(group_name)).ok_or_else(unknown)?;
        // Whoever names the group wants that one only.
        user.groups = vec![user.gid];
    }
    Ok((user.uid != 0).then_some(user))
}

/// Returns the id of an account.
pub(crate) fn uid_of(passwd: &str, name: &str) -> Option<u32> {
    find(passwd, "", name).map(|user| user.uid)
}

/// The account with this id. One that no account has is somebody all the same, in the group of root and without a home:
/// an image may name an id that it gives no account.
fn by_id(passwd: &str, group: &str, uid: u32) -> User {
    let has_id = |line: &&str| line.split(':').nth(2).and_then(id) == Some(uid);
    let name = passwd.lines().find(has_id).and_then(|line| line.split(':').next());
    name.and_then(|name| find(passwd, group, name)).unwrap_or_else(|| User {
        name: uid.to_string(),
        uid,
        gid: 0,
        groups: vec![0],
        home: "/".to_owned(),
    })
}

fn gid_of(group: &str, name: &str) -> Option<u32> {
    group
        .lines()
        .find(|line| line.split(':').next() == Some(name))
        .and_then(|line| id(line.split(':').nth(2)?))
}

fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id <= MAX_ID && text.bytes().all(|byte| byte.is_ascii_digit()))
}

fn find(passwd: &str, group: &str, name: &str) -> Option<User> {
    if name.is_empty() {
        return None;
    }
    let fields: Vec<&str> =
        passwd.lines().map(|line| line.split(':').collect()).find(|f: &Vec<_>| f.first() == Some(&name))?;
    let (uid, gid) = (id(fields.get(2)?)?, id(fields.get(3)?)?);
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
    let id = id(fields.nth(2)?)?;
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
        let user = resolve(PASSWD, GROUP, "", "").unwrap();
        assert_eq!((user.name.as_str(), user.uid, user.gid), ("shed", 1000, 1000));
        assert_eq!(user.groups, [1000, 999, 27]);
        assert_eq!(user.home, "/home/shed");
    }

    #[test]
    fn without_shed_it_is_root_even_without_files() {
        assert_eq!(resolve("root:x:0:0::/r:/bin/sh\n", "", "", "").unwrap().home, "/r");
        assert_eq!(resolve("", "", "", "").unwrap(), root());
        assert_eq!(resolve("", "", "root", "").unwrap(), root());
    }

    #[test]
    fn an_unknown_user_is_an_error_and_an_odd_home_is_the_root_directory() {
        assert!(resolve(PASSWD, GROUP, "she", "").is_err());
        assert_eq!(resolve(PASSWD, GROUP, "odd", "").unwrap().home, "/");
    }

    #[test]
    fn the_images_user_is_the_default_and_a_request_wins() {
        let user = resolve(PASSWD, GROUP, "", "odd").unwrap();
        assert_eq!((user.name.as_str(), user.uid, user.gid), ("odd", 7, 8));
        assert_eq!(resolve(PASSWD, GROUP, "shed", "odd").unwrap().name, "shed");
        assert_eq!(resolve(PASSWD, GROUP, "root", "odd").unwrap().uid, 0);
    }

    #[test]
    fn an_image_may_name_ids_and_groups() {
        let of = |text: &str| of_image(PASSWD, GROUP, text).unwrap().unwrap();
        assert_eq!(of("1000"), resolve(PASSWD, GROUP, "shed", "").unwrap());
        let nobody = of("4711");
        assert_eq!(
            (nobody.name.as_str(), nobody.uid, nobody.gid, nobody.home.as_str()),
            ("4711", 4711, 0, "/")
        );
        assert_eq!((of("shed:docker").gid, of("shed:docker").groups), (999, vec![999]));
        assert_eq!((of("4711:4712").gid, of("4711:4712").groups), (4712, vec![4712]));
    }

    #[test]
    fn an_image_that_names_root_or_nobody_known_gets_shed() {
        for root in ["", "root", "0", "0:0", "root:root", ":docker"] {
            assert_eq!(of_image(PASSWD, GROUP, root).unwrap(), None, "{root:?}");
            assert_eq!(default(PASSWD, GROUP, root).name, "shed", "{root:?}");
        }
        for unknown in
            ["who", "shed:nogroup", "-1", "+7", "4294967295", "7:4294967295", "2147483648", "a\nb", "7:8:9"]
        {
            assert!(of_image(PASSWD, GROUP, unknown).is_err(), "{unknown:?}");
            assert_eq!(default(PASSWD, GROUP, unknown).name, "shed", "{unknown:?}");
        }
    }

    #[test]
    fn an_account_whose_id_means_unchanged_to_the_kernel_is_none() {
        let passwd = "evil:x:4294967295:4294967295::/:/bin/sh\nshed:x:1000:1000::/home/shed:/bin/sh\n";
        assert_eq!(default(passwd, "", "evil").name, "shed");
        assert!(resolve(passwd, "", "evil", "").is_err());
    }
}
