//! The account files (passwd(5), group(5), shadow(5), gshadow(5)) as text in, text out.

/// First id for people by Debian's and most others' convention (adduser.conf: FIRST_UID), and ours when it is free.
const FIRST_ID: u32 = 1000;

/// Past the ids for people: 65534 is nobody.
const LAST_ID: u32 = 59_999;

/// The text of each file; the last two exist only in some images.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Files {
    pub(crate) passwd: String,
    pub(crate) group: String,
    pub(crate) shadow: Option<String>,
    pub(crate) gshadow: Option<String>,
}

impl Files {
    /// Returns the files with an account called `name`, without a password; unchanged when there is one.
    ///
    /// The ids are 1000 when free, the next free ones otherwise: images often have a user of their own there.
    pub(crate) fn with_user(&self, name: &str, shell: &str) -> Self {
        let mut new = self.clone();
        if ids_of(&self.passwd, name).is_some() {
            return new;
        }
        if self.passwd.trim().is_empty() {
            append(&mut new.passwd, "root:x:0:0:root:/root:/bin/sh");
        }
        if self.group.trim().is_empty() {
            append(&mut new.group, "root:x:0:");
        }
        let uid = free_id(&ids(&new.passwd, 2));
        let gid = match id_in(&new.group, name, 2) {
            Some(gid) => gid,
            None => {
                let taken = ids(&new.group, 2);
                let gid = if taken.contains(&uid) { free_id(&taken) } else { uid };
                append(&mut new.group, &format!("{name}:x:{gid}:"));
                if let Some(gshadow) = &mut new.gshadow {
                    append(gshadow, &format!("{name}:!::"));
                }
                gid
            }
        };
        append(&mut new.passwd, &format!("{name}:x:{uid}:{gid}:Shed:/home/{name}:{shell}"));
        // "*" is no password and, unlike "!", does not lock the account for keys.
        if let Some(shadow) = new.shadow.as_mut().filter(|text| line_of(text, name).is_none()) {
            append(shadow, &format!("{name}:*::0:99999:7:::"));
        }
        new
    }
}

/// Returns the user and group id of `name` in the text of passwd.
pub(crate) fn ids_of(passwd: &str, name: &str) -> Option<(u32, u32)> {
    Some((id_in(passwd, name, 2)?, id_in(passwd, name, 3)?))
}

/// Returns the home directory of `name`, when it is an absolute path other than the root.
pub(crate) fn home_of<'a>(passwd: &'a str, name: &str) -> Option<&'a str> {
    line_of(passwd, name)?.split(':').nth(5).filter(|home| home.starts_with('/') && home.len() > 1)
}

fn line_of<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find(|line| line.split(':').next() == Some(name))
}

fn id_in(text: &str, name: &str, field: usize) -> Option<u32> {
    line_of(text, name)?.split(':').nth(field)?.parse().ok()
}

fn ids(text: &str, field: usize) -> Vec<u32> {
    text.lines().filter_map(|line| line.split(':').nth(field)?.parse().ok()).collect()
}

fn free_id(taken: &[u32]) -> u32 {
    (FIRST_ID..=LAST_ID).find(|id| !taken.contains(id)).unwrap_or(LAST_ID)
}

fn append(text: &mut String, line: &str) {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(line);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn debian() -> Files {
        Files {
            passwd: "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n"
                .into(),
            group: "root:x:0:\nshadow:x:42:\n".into(),
            shadow: Some("root:*:20000:0:99999:7:::\n".into()),
            gshadow: Some("root:*::\n".into()),
        }
    }

    #[test]
    fn a_lacking_user_is_added_to_every_file() {
        let new = debian().with_user("shed", "/bin/bash");
        assert!(new.passwd.ends_with("\nshed:x:1000:1000:Shed:/home/shed:/bin/bash\n"));
        assert!(new.group.ends_with("\nshed:x:1000:\n"));
        assert!(new.shadow.as_ref().unwrap().ends_with("\nshed:*::0:99999:7:::\n"));
        assert!(new.gshadow.as_ref().unwrap().ends_with("\nshed:!::\n"));
        assert_eq!(new.with_user("shed", "/bin/bash"), new);
    }

    #[test]
    fn an_image_with_its_own_1000_keeps_it() {
        let mut files = debian();
        files.passwd.push_str("ubuntu:x:1000:1000::/home/ubuntu:/bin/bash");
        files.group.push_str("ubuntu:x:1000:\nother:x:1001:\n");
        let new = files.with_user("shed", "/bin/sh");
        assert_eq!(ids_of(&new.passwd, "shed"), Some((1001, 1002)));
        assert!(new.passwd.contains("ubuntu:x:1000:1000::/home/ubuntu:/bin/bash\nshed:"), "{}", new.passwd);
    }

    #[test]
    fn a_group_of_the_name_is_used() {
        let mut files = debian();
        files.group.push_str("shed:x:500:\n");
        let new = files.with_user("shed", "/bin/sh");
        assert_eq!(ids_of(&new.passwd, "shed"), Some((1000, 500)));
        assert_eq!(new.group, files.group);
    }

    #[test]
    fn an_image_without_account_files_gets_root_too_and_no_shadow() {
        let new = Files::default().with_user("shed", "/bin/sh");
        assert_eq!(ids_of(&new.passwd, "root"), Some((0, 0)));
        assert_eq!((new.shadow, new.gshadow), (None, None));
    }

    #[test]
    fn a_name_that_only_begins_alike_is_another() {
        let mut files = debian();
        files.passwd.push_str("shed2:x:1500:1500::/home/shed2:/bin/sh\n");
        assert_eq!(ids_of(&files.passwd, "shed"), None);
        assert!(home_of(&files.passwd, "shed2").is_some());
        assert_eq!(home_of("shed:x:1:1::/:/bin/sh\n", "shed"), None);
    }
}
