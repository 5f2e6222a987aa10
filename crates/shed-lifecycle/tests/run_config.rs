//! What a guest is told of its image: by a boot, by the next server, and when the image says nothing or nonsense.

mod common;

use std::{
    fs::{self, File},
    sync::Arc,
    time::Duration,
};

use camino::Utf8PathBuf;
use shed_backend::fake::FakeWorld;
use shed_image::{RunConfig, Trailer};
use shed_lifecycle::{NewShed, Progress, Settings, Sheds};
use shed_protocol::{Identify, ImageConfig, MAX_ENV};
use shed_types::ShedName;

use common::DEADLINE;

/// Puts a trailer behind the image that sheds are made from.
fn say(settings: &Settings, config: RunConfig) -> Utf8PathBuf {
    let image = settings.images_dir.join("base-rootfs.ext4");
    fs::write(&image, [1; 4096]).unwrap();
    let mut file = File::options().read(true).write(true).open(&image).unwrap();
    Trailer { config, ..Trailer::default() }.append(&mut file).unwrap();
    image
}

async fn server(world: &FakeWorld, settings: &Settings) -> Sheds {
    Sheds::open(settings.clone(), Arc::new(world.backend())).await.unwrap()
}

async fn create(sheds: &Sheds, text: &str) -> ShedName {
    let name: ShedName = text.parse().unwrap();
    let new = NewShed {
        name: name.clone(),
        image: None,
        cpus: None,
        memory_mb: None,
        repo: None,
        local_dir: None,
        no_provision: false,
    };
    sheds.create(new, Progress::silent()).await.unwrap();
    name
}

/// Waits until a guest has been told something anew.
async fn told_again(world: &FakeWorld, shed: &ShedName, before: &Identify) -> Identify {
    let told = tokio::time::timeout(DEADLINE, async {
        loop {
            match world.identified(shed) {
                Some(told) if told != *before => return told,
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    });
    told.await.expect("the next server tells the guest who it is")
}

#[tokio::test]
async fn a_guest_is_told_its_images_config_by_every_server() {
    let (_guard, settings) = common::settings();
    let world = FakeWorld::new();
    let config = RunConfig {
        user: "node".to_owned(),
        env: vec!["A=b".to_owned()],
        entrypoint: vec!["/entry".to_owned()],
        cmd: vec!["serve".to_owned()],
        working_dir: "/app".to_owned(),
    };
    let image = say(&settings, config);
    let sheds = server(&world, &settings).await;
    let api = create(&sheds, "api").await;
    let told = world.identified(&api).unwrap();
    let expected = ImageConfig {
        user: "node".to_owned(),
        env: vec!["A=b".to_owned()],
        entrypoint: vec!["/entry".to_owned()],
        cmd: vec!["serve".to_owned()],
        working_dir: "/app".to_owned(),
    };
    assert_eq!(told.image.as_ref(), Some(&expected));

    // The shed has its own link: what becomes of the image afterwards is nothing to it.
    sheds.close().await;
    drop(sheds);
    fs::remove_file(image).unwrap();
    let _next = server(&world, &settings).await;
    assert_eq!(told_again(&world, &api, &told).await.image, Some(expected));
}

#[tokio::test]
async fn an_image_that_says_nothing_or_nonsense_makes_a_shed_all_the_same() {
    let (_guard, settings) = common::settings();
    let world = FakeWorld::new();
    let sheds = server(&world, &settings).await;
    let plain = create(&sheds, "plain").await;
    assert_eq!(world.identified(&plain).unwrap().image, None);

    let image = settings.images_dir.join("base-rootfs.ext4");
    let mut damaged = b"no json".to_vec();
    damaged.extend(b"SHEDIMG1\x05\0\0\0\0\0\0\0");
    fs::write(&image, damaged).unwrap();
    let odd = create(&sheds, "odd").await;
    assert_eq!(world.identified(&odd).unwrap().image, None);
}

#[tokio::test]
async fn more_variables_than_a_message_holds_are_cut() {
    let (_guard, settings) = common::settings();
    let world = FakeWorld::new();
    let long = format!("LONG={}", "\u{1}".repeat(MAX_ENV));
    say(&settings, RunConfig { env: vec!["A=b".to_owned(), long], ..RunConfig::default() });
    let sheds = server(&world, &settings).await;
    let api = create(&sheds, "api").await;
    assert_eq!(world.identified(&api).unwrap().image.unwrap().env, ["A=b"]);
}
