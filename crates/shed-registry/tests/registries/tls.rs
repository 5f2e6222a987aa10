//! Encrypted connections: certificates of this host's choice are trusted, others are not.

use std::sync::Arc;

use shed_image::Unwatched;

use crate::{
    Home, amd64, chain,
    fake::{Content, Fake, with_header},
    images::{layout, skopeo_copy},
    reference, run,
    server::Server,
};

/// Runs the other test of this file in processes of their own, one of which trusts the certificate.
#[test]
fn certificates_are_those_of_the_environment() {
    let home = Home::new();
    let arguments = "req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=test \
                     -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE";
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    for name in ["trusted", "other"] {
        let dir = home.path.join(name);
        std::fs::create_dir(&dir).unwrap();
        let _made = run("openssl", &arguments, &dir);
    }
    for trusted in ["trusted", "other"] {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "--nocapture", "tls::over_tls"])
            .env("SSL_CERT_FILE", home.path.join(trusted).join("cert.pem"))
            .env("SHED_TEST_CERTIFICATES", home.path.join("trusted"))
            .env("SHED_TEST_IS_TRUSTED", trusted)
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert!(output.status.success() && text.contains("1 passed"), "{trusted}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by certificates_are_those_of_the_environment, which sets the environment"]
async fn over_tls() {
    let dir = camino::Utf8PathBuf::from(std::env::var("SHED_TEST_CERTIFICATES").unwrap());
    let is_trusted = std::env::var("SHED_TEST_IS_TRUSTED").unwrap() == "trusted";
    let server = Server::with_certificate(&dir.join("cert.pem"), &dir.join("key.pem"));
    let source = Home::new();
    let image = layout(&source, &[b"content".to_vec()]);
    skopeo_copy(&image, &format!("docker://{}/image:v1", server.address), &[], &source.path);
    // A registry on a loopback address is spoken to in plain HTTP; so one sends us on to the encrypted one.
    let (_, port) = server.address.rsplit_once(':').unwrap();
    let place = format!("https://localhost:{port}");
    let fake = Fake::start(Content::default(), move |seen, _| {
        Some(with_header(307, "location", &format!("{place}{}", seen.path)))
    })
    .await;
    let home = Home::new();
    let image = reference(&format!("{}/image:v1", fake.address));
    let result = home.registry().pull(&image, &amd64(), &home.blobs(), Arc::new(Unwatched)).await;
    if is_trusted {
        let _digest = result.unwrap();
        assert_eq!(home.check_blobs(), 3);
    } else {
        let text = chain(&result.unwrap_err());
        assert!(text.contains("certificate") && text.contains("localhost"), "{text}");
    }
}
