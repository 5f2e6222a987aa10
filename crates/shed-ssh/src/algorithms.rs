//! Which algorithms both ends offer, best first: those that OpenSSH 10 prefers and nobody warns of.
//!
//! Left out is all with SHA-1, CBC, NIST curves and finite-field groups. The strict key exchange of
//! OpenSSH (its PROTOCOL, section 1.10) is always offered; without it chacha20-poly1305 would be open to the Terrapin
//! attack (CVE-2023-48795).

use std::borrow::Cow;

use russh::{Preferred, cipher, compression, kex, keys::Algorithm, mac};

/// Returns the algorithms that Shed offers.
#[must_use]
pub fn preferred() -> Preferred {
    Preferred {
        kex: Cow::Borrowed(KEX),
        key: Cow::Borrowed(HOST_KEY),
        cipher: Cow::Borrowed(CIPHER),
        mac: Cow::Borrowed(MAC),
        compression: Cow::Borrowed(COMPRESSION),
        ..Preferred::DEFAULT
    }
}

const KEX: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::EXTENSION_SUPPORT_AS_CLIENT,
    kex::EXTENSION_SUPPORT_AS_SERVER,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
];

const HOST_KEY: &[Algorithm] = &[Algorithm::Ed25519];

const CIPHER: &[cipher::Name] = &[
    cipher::AES_256_GCM,
    cipher::CHACHA20_POLY1305,
    cipher::AES_256_CTR,
    cipher::AES_192_CTR,
    cipher::AES_128_CTR,
];

/// For the CTR ciphers only; the others authenticate by themselves.
/// The last two are for libssh2 before 1.11 (Debian 12), which knows no others beside CTR.
const MAC: &[mac::Name] = &[mac::HMAC_SHA512_ETM, mac::HMAC_SHA256_ETM, mac::HMAC_SHA512, mac::HMAC_SHA256];

const COMPRESSION: &[compression::Name] = &[compression::NONE];
