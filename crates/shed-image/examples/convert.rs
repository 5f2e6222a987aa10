//! Imports an archive into an images directory and converts it, and says how long that took and how much memory.
//!
//! `cargo run --release -p shed-image --example convert -- ARCHIVE IMAGES_DIR OUT [NAME]`

#![expect(clippy::print_stdout, reason = "saying it is what the program is for")]

use std::{error::Error, time::Instant};

use camino::Utf8PathBuf;
use shed_image::{BlobStore, DiskOptions, ImageLimits, ImageStore, Platform, Unwatched, convert, import};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut argument = |name: &str| arguments.next().ok_or_else(|| format!("{name} is missing"));
    let archive = Utf8PathBuf::from(argument("ARCHIVE")?);
    let images = ImageStore::new(argument("IMAGES_DIR")?);
    let out = Utf8PathBuf::from(argument("OUT")?);
    let name = arguments.next();

    let blobs = BlobStore::of(&images);
    let limits = ImageLimits::default();
    let begun = Instant::now();
    let manifest = match &name {
        Some(digest) if digest.contains(":") => digest.parse()?,
        _ => import(&archive, name.as_deref(), &Platform::of_host(), &blobs, &limits, &Unwatched)?,
    };
    println!("import {:.1} s: {manifest}", begun.elapsed().as_secs_f64());
    let begun = Instant::now();
    let _trailer = convert(&blobs, &manifest, &out, &DiskOptions::default(), &limits, &Unwatched)?;
    println!("convert {:.1} s", begun.elapsed().as_secs_f64());
    let status = std::fs::read_to_string("/proc/self/status")?;
    if let Some(peak) = status.lines().find(|line| line.starts_with("VmHWM")) {
        println!("memory {}", peak.trim_start_matches("VmHWM:").trim());
    }
    Ok(())
}
