//! Whether a program can run where there is nothing but itself, as in a jail: one that the dynamic linker has to start finds
//! neither that nor its libraries there. Called by the policy; looks at the program's headers and runs nothing.

use std::{fs::File, io};

use camino::Utf8Path;
use object::{
    Endianness,
    elf::FileHeader64,
    read::{
        ReadCache,
        elf::{FileHeader, ProgramHeader},
    },
};

/// Returns the program that the kernel has to start instead (PT_INTERP, man 5 elf), if there is one.
///
/// # Errors
/// When the file cannot be read, or is no ELF program of 64 bits.
pub(super) fn interpreter(program: &Utf8Path) -> io::Result<Option<String>> {
    let bad = |error: object::Error| io::Error::new(io::ErrorKind::InvalidData, error);
    let file = ReadCache::new(File::open(program)?);
    let header = FileHeader64::<Endianness>::parse(&file).map_err(bad)?;
    let endian = header.endian().map_err(bad)?;
    for segment in header.program_headers(endian, &file).map_err(bad)? {
        if let Some(path) = segment.interpreter(endian, &file).map_err(bad)? {
            return Ok(Some(String::from_utf8_lossy(path).into_owned()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_is_started_by_the_dynamic_linker() {
        let this = std::env::current_exe().unwrap();
        let found = interpreter(Utf8Path::from_path(&this).unwrap()).unwrap();
        assert!(found.as_deref().is_some_and(|path| path.contains("ld-")), "{found:?}");
    }

    #[test]
    fn what_is_no_program_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap().join("firecracker");
        // A header that points beyond the end of the file.
        let mut cut = b"\x7fELF\x02\x01\x01".to_vec();
        cut.resize(64, 0xff);
        for content in [&b""[..], b"#!/bin/sh\n", &cut] {
            std::fs::write(&path, content).unwrap();
            assert!(interpreter(&path).is_err(), "{content:?}");
        }
        assert_eq!(interpreter(&path.with_file_name("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
