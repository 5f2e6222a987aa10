//! All three extensions at work for real tools, in one pair of sheds; and afterwards nothing secret is anywhere but where the
//! user keeps it.

use vm_tests::{Promises, SshKey, Sts, found_below, found_in_guest};

use super::{
    ALL, TIMEOUT, World, assert_signed,
    aws::{self, OWN_SECRET},
    docker::{self, PASSWORD, Registries},
};

const SHEDS: [&str; 2] = ["tools", "roles"];

/// AWS's clients and Docker in a shed work with what the host lends them, and no secret of the host is in guest or log.
#[test]
fn tools_work_with_credentials_of_the_host_and_nothing_keeps_them() {
    let Some(mut world) = World::new(&ALL, &SHEDS) else { return };
    let [first, second] = SHEDS;
    let registries = Registries::start(&world);
    let sts = Sts::start(&world.stage);
    let key = SshKey::generate(world.host.home().join(".ssh/id_ed25519"), "ed25519");
    let mut settings = aws::settings(&sts, &world, second);
    settings.docker = registries.settings(&world).docker;
    settings.ssh = Some(serde_json::json!({ "mode": "local-keys" }));
    settings.namespaces = ALL.to_vec();
    world.host.start(&world.server, settings);
    for shed in SHEDS {
        world.wait_until_it_works(shed, &ALL);
    }
    let mut promises = Promises::new();

    promises.keep("a key of the host signs while the rest is enabled, too", || {
        let signed = world.sign(first, &key, "a text").ok().out();
        assert_signed(&world.stage, &key, "a text", &signed);
    });
    docker::prove(&mut promises, &mut world, &registries, first);
    aws::prove(&mut promises, &mut world, sts, SHEDS);
    promises.keep("a crash of any of our programs leaves no core with a secret in it", || {
        let own = format!("ulimit -c unlimited; cd {}; sleep 60 & kill -ABRT $!; wait $! || true", world.host.cores());
        vm_tests::run(std::process::Command::new("sh").args(["-c", &own]), b"", TIMEOUT).ok();
        // What the system does with the core of a program that does not mind shows what the ones of ours mean.
        let seen = core_files(&world);
        println!("{}", if seen.is_empty() { "cores go elsewhere here; only that ours leave none in their directory is tested" } else { "cores are written here" });
        for core in seen {
            std::fs::remove_file(core).expect("a core");
        }
        let _status = world.host.fault();
        assert_eq!(core_files(&world), Vec::<camino::Utf8PathBuf>::new());
        let cores = world.cli.sh(first, "touch /tmp/before; sudo systemctl kill -s ABRT shed-ssh-agent shed-aws-proxy; \
                                         sudo find / -xdev -name 'core*' -type f -newer /tmp/before 2>/dev/null | head");
        assert_eq!(cores, "");
    });
    promises.keep("no secret of the host is in a guest", || {
        let mut secrets = key.secret_lines();
        secrets.push(OWN_SECRET.to_owned());
        secrets.push(PASSWORD.to_owned());
        for shed in SHEDS {
            let found = found_in_guest(&world.stage, &world.cli, shed, &secrets);
            assert!(found.is_empty(), "{shed}: {found:?}");
        }
    });
    promises.keep("no secret is in any log or file of ours on the host", || {
        let mut secrets = key.secret_lines();
        secrets.extend([OWN_SECRET.to_owned(), PASSWORD.to_owned()]);
        let home = world.host.home();
        let own = [home.join(".ssh"), home.join(".aws"), home.join(".docker"), home.join("bin")];
        assert!(
            !found_below(&home, &[], &secrets).is_empty(),
            "the search finds nothing even where the secrets are"
        );
        let found = found_below(world.stage.dir(), &own, &secrets);
        assert!(found.is_empty(), "{found:?}");
        assert!(!world.host.audit().is_empty());
    });
    world.finish(&SHEDS);
    promises.finish();
}

/// The files in the directory where the host agent would leave its core.
fn core_files(world: &World) -> Vec<camino::Utf8PathBuf> {
    let entries = world.host.cores().read_dir_utf8().expect("the directory of cores").flatten();
    entries.map(camino::Utf8DirEntry::into_path).collect()
}
