//! Images of other tools, in registries: written by umoci, brought there by skopeo.

use camino::Utf8Path;

use crate::{Home, run};

/// Writes an OCI layout with one image, a layer for each content, and returns its name for skopeo.
pub(crate) fn layout(home: &Home, contents: &[Vec<u8>]) -> String {
    let dir = &home.path;
    let _made = run("umoci", &["init", "--layout", "layout"], dir);
    let _made = run("umoci", &["new", "--image", "layout:image"], dir);
    for (number, content) in contents.iter().enumerate() {
        std::fs::write(dir.join("content"), content).unwrap();
        let target = format!("/file{number}");
        let _made =
            run("umoci", &["insert", "--rootless", "--image", "layout:image", "content", &target], dir);
    }
    format!("oci:{dir}/layout:image")
}

/// Copies an image with skopeo; `more` are its further flags.
pub(crate) fn skopeo_copy(from: &str, to: &str, more: &[&str], dir: &Utf8Path) {
    let always =
        ["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false"];
    let arguments: Vec<&str> = always.into_iter().chain(more.iter().copied()).chain([from, to]).collect();
    let _copied = run("skopeo", &arguments, dir);
}

/// Returns the digest that skopeo finds in a registry.
pub(crate) fn skopeo_digest(image: &str, dir: &Utf8Path) -> String {
    let arguments = ["inspect", "--tls-verify=false", "--no-creds", "--format", "{{.Digest}}", image];
    run("skopeo", &arguments, dir).trim().to_owned()
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
