//! Images that other people's tools made are sheds, and have in the machine the files that those tools say they have.

use std::fs;

use camino::Utf8Path;
use vm_tests::{BOOT, Cli, OciTools, Promises, Registry, Stage, assert_same_tree, run, tree_in_shed};

/// Directories of a Debian image that a boot does not write to. In usr/lib are the modules of Shed's kernel, which belong to
/// no image.
const AT_REST: [&str; 7] = ["opt", "srv", "boot", "usr/bin", "usr/sbin", "usr/share", "usr/local"];

/// What the Dockerfile of the tests changes, and what it does not.
const CHANGED: [&str; 2] = ["opt", "usr/bin"];

/// Static busybox of Debian and others.
const BUSYBOX: &str = "/bin/busybox";

/// Saves the base image as an archive, and returns a layout of it in the tools' directory.
#[track_caller]
fn base_layout(stage: &Stage, cli: &Cli, tools: &OciTools) -> String {
    let archive = tools.dir().join("base.tar");
    // The store of blobs is beside the image that the builder made.
    let guest_dir = &stage.parts().guest_dir;
    let arguments = ["image", "save", "base", "-o", archive.as_str(), "--images-dir", guest_dir.as_str()];
    cli.run(&arguments).ok();
    tools.run("skopeo", &["copy", &format!("oci-archive:{archive}"), "oci:layout:base"]);
    fs::remove_file(&archive).expect("the archive was written");
    "layout".to_owned()
}

/// Adds layers of ours to the base in a layout, as `layout:NAME`.
#[track_caller]
fn extend(tools: &OciTools, layout: &str, name: &str, layers: &[String]) -> String {
    let image = format!("{layout}:{name}");
    tools.run("umoci", &["tag", "--image", &format!("{layout}:base"), name]);
    for layer in layers {
        tools.run("umoci", &["raw", "add-layer", "--image", &image, layer]);
        fs::remove_file(tools.dir().join(layer)).expect("the script wrote it");
    }
    image
}

/// An image with all that is rare in a file system, an image that buildah built from a Dockerfile on our base, and one
/// that is nothing but busybox: each is pulled or imported, boots, and has the files that umoci unpacks.
#[test]
fn images_of_other_tools_are_sheds() {
    let Some(stage) = Stage::new() else { return };
    let server = stage.serve();
    let (cli, http) = (stage.cli(), server.http());
    let tools = OciTools::in_directory(&stage.dir().join("tools"));
    let registry = Registry::start(&stage.dir().join("registry"));
    let layout = base_layout(&stage, &cli, &tools);
    let mut promises = Promises::new();

    promises.keep("umoci: what is rare in a file system is in the machine as it is in the image", || {
        let image = extend(&tools, &layout, "odd", &tools.layers("odd", &[]));
        let reference = registry.reference("team/odd:v1");
        tools.push(&format!("oci:{image}"), &reference);
        cli.create("odd", &["--image", &reference, "--memory", "768"]);
        let expected = tools.unpacked(&image, &AT_REST);
        assert!(expected.len() > 5_000, "{} names are no Debian", expected.len());
        assert_same_tree(&tree_in_shed(&cli, "odd", &AT_REST), &expected);
        cli.delete("odd");
    });
    promises.keep("buildah: a Dockerfile that extends our base", || {
        let context = concat!(env!("CARGO_MANIFEST_DIR"), "/images/context");
        tools.buildah(&["pull", &format!("oci:{layout}:base")]);
        let id = tools.buildah(&["images", "-q"]).out();
        tools.buildah(&["tag", id.lines().next().expect("an image"), "localhost/shed/base"]);
        tools.buildah(&["build", "--isolation", "chroot", "-t", "app", context]);
        tools.buildah(&["push", "localhost/app", "oci-archive:app.tar:app"]);
        let archive = tools.dir().join("app.tar");
        let images = stage.images_dir().as_str();
        let build =
            ["image", "build", "-n", "app", "--from", archive.as_str(), "--output-dir", images, "--force"];
        cli.run(&build).ok();
        cli.create("app", &["--image", "app", "--memory", "768"]);
        let script = "id -un; pwd; echo \"$GREETING\"; echo $PATH; cat /opt/greeting /opt/built";
        let said = cli.sh("app", script);
        let expected = "app\n/opt/work\nit's $(inert)\n/opt/bin:/usr/local/bin:/usr/bin:/bin\nhello\nbuilt";
        assert_eq!(said, expected);
        cli.exec("app", &["sh", "-c", "test ! -e /usr/bin/jq"]).ok();
        tools.run("skopeo", &["copy", "oci-archive:app.tar:app", &format!("oci:{layout}:app")]);
        let expected = tools.unpacked(&format!("{layout}:app"), &CHANGED);
        assert_same_tree(&tree_in_shed(&cli, "app", &CHANGED), &expected);
        cli.delete("app");
    });
    promises.keep("busybox, without an init: the agent is its first process", || {
        let root = tools.dir().join("bare-root/bin");
        fs::create_dir_all(&root).unwrap();
        fs::copy(BUSYBOX, root.join("busybox")).expect("busybox-static; scripts/setup.sh installs it");
        for name in ["sh", "cat", "echo", "env", "id", "ls", "pwd", "sleep", "test", "true"] {
            std::os::unix::fs::symlink("busybox", root.join(name)).unwrap();
        }
        tools.run("umoci", &["new", "--image", &format!("{layout}:bare")]);
        let image = format!("{layout}:bare");
        tools.run("umoci", &["insert", "--image", &image, "bare-root/bin", "/bin"]);
        let config = [
            "config",
            "--image",
            &image,
            "--config.entrypoint",
            "/bin/echo",
            "--config.cmd",
            "at your service",
        ];
        tools.run("umoci", &config);
        let reference = registry.reference("bare:1");
        tools.push(&format!("oci:{image}"), &reference);
        cli.create("bare", &["--image", &reference, "--memory", "512"]);
        assert_eq!(cli.sh("bare", "cat /proc/1/comm"), "shed-agent");
        assert_eq!(cli.run(&["exec", "bare"]).ok().out(), "at your service");
        assert_eq!(cli.sh("bare", "ls /bin").lines().count(), 11);
        cli.delete("bare");
    });
    promises.keep("what was pulled is an image like any other, and a second create pulls nothing", || {
        let before = registry.requests("GET").len();
        cli.create("again", &["--image", &registry.reference("bare:1"), "--memory", "512"]);
        cli.delete("again");
        assert_eq!(registry.requests("GET").len(), before);
        let images = http.get("/api/images").is(200).json();
        let refs: Vec<_> =
            images["images"].as_array().unwrap().iter().map(|image| &image["docker_ref"]).collect();
        assert!(
            refs.iter().any(|reference| **reference == registry.reference("bare:1").as_str()),
            "{refs:?}"
        );
    });
    promises.keep("nothing is left", || stage.assert_only(&[]));
    promises.finish();
}

/// Set to `full` for an image of two gigabytes in a hundred thousand files, which takes seven minutes; otherwise it has a
/// quarter of both.
const LARGE_IMAGE: &str = "SHED_LARGE_IMAGE";

/// Very many files in twenty layers, with names that come, change and go.
#[test]
fn an_image_of_very_many_files_is_a_shed() {
    let Some(stage) = Stage::new() else { return };
    let full = std::env::var(LARGE_IMAGE).is_ok_and(|value| value == "full");
    let (files, megabytes) = if full { (100_000, 2048) } else { (25_000, 512) };
    let server = stage.serve();
    let cli = stage.cli();
    let tools = OciTools::in_directory(&stage.dir().join("tools"));
    let layout = base_layout(&stage, &cli, &tools);
    let mut promises = Promises::new();
    promises.keep("it is built from an archive, boots, and has the files that umoci unpacks", || {
        let layers = tools.layers("large", &[&files.to_string(), &megabytes.to_string(), "20"]);
        assert_eq!(layers.len(), 20);
        let image = extend(&tools, &layout, "large", &layers);
        let archive = tools.dir().join("large.tar");
        tools.run("skopeo", &["copy", &format!("oci:{image}"), &format!("oci-archive:{archive}:large")]);
        build(&stage, &cli, "large", &archive);
        fs::remove_file(&archive).unwrap();
        cli.create("large", &["--image", "large", "--memory", "1024"]);
        let expected = tools.unpacked(&image, &["opt"]);
        // Some come and go again, more of few than of many.
        assert!(expected.len() > files / 2, "{}", expected.len());
        assert_same_tree(&tree_in_shed(&cli, "large", &["opt"]), &expected);
        cli.delete("large");
    });
    promises.keep("nothing is left", || stage.assert_only(&[]));
    drop(server);
    promises.finish();
}

#[track_caller]
fn build(stage: &Stage, cli: &Cli, name: &str, archive: &Utf8Path) {
    let images = stage.images_dir().as_str();
    let arguments =
        ["image", "build", "-n", name, "--from", archive.as_str(), "--output-dir", images, "--force"];
    run(&mut cli.command(&arguments), b"", BOOT * 4).ok();
}
