//! Measures what a tar will need as a file system, by walking its headers.
//!
//! Called before `mke2fs`, which wants the size of the disk and the number of inodes in advance. Only sizes and types are
//! read; names, owners and extended attributes are left to the tool which unpacks the archive.

use std::io::{self, Read, Seek, SeekFrom};

/// Header and content are both stored in units of this many bytes (POSIX pax, "ustar Interchange Format").
const RECORD: usize = 512;
const RECORD_BYTES: u64 = RECORD as u64;
const BLOCK: u64 = 4096;

/// What the entries of a tar add up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct TarSize {
    /// Files, directories, links and devices, each once; hard links count too, which is a little too much.
    pub(super) entries: u64,
    /// Bytes of content, each file rounded up to whole blocks of 4096 bytes.
    pub(super) content: u64,
}

/// Adds up the headers of `tar`.
///
/// # Errors
/// `InvalidData` when a header is damaged or the archive ends in the middle of an entry, and whatever reading gives.
pub(super) fn measure(mut tar: impl Read + Seek) -> io::Result<TarSize> {
    let end = tar.seek(SeekFrom::End(0))?;
    tar.seek(SeekFrom::Start(0))?;
    let mut at = 0;
    let mut sum = TarSize::default();
    let mut header = [0; RECORD];
    while at + RECORD_BYTES <= end {
        tar.read_exact(&mut header)?;
        at += RECORD_BYTES;
        if header.iter().all(|&byte| byte == 0) {
            // Two zero records end an archive; one is enough for us.
            return Ok(sum);
        }
        check_sum(&header, at - RECORD_BYTES)?;
        let size =
            number(&header[124..136]).ok_or_else(|| damaged(at - RECORD_BYTES, "its size is no number"))?;
        match header[156] {
            // Headers that describe the next entry: pax (x, g), GNU long names (L, K), volume label (V).
            b'x' | b'g' | b'L' | b'K' | b'V' => {}
            b'5' => {
                sum.entries += 1;
                sum.content += BLOCK;
            }
            _ => {
                sum.entries += 1;
                sum.content += size.div_ceil(BLOCK).saturating_mul(BLOCK);
            }
        }
        let stored =
            if matches!(header[156], b'1'..=b'6') { 0 } else { size.div_ceil(RECORD_BYTES) * RECORD_BYTES };
        at = at
            .checked_add(stored)
            .filter(|at| *at <= end)
            .ok_or_else(|| damaged(at - RECORD_BYTES, "its content is cut off"))?;
        tar.seek(SeekFrom::Start(at))?;
    }
    if at == end && sum.entries > 0 { Ok(sum) } else { Err(damaged(at, "the archive ends here")) }
}

/// Reads a header's number: octal text, or big-endian binary when the first bit is set (the GNU form for large files).
fn number(field: &[u8]) -> Option<u64> {
    let (&first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        return rest
            .iter()
            .try_fold(u64::from(first & 0x7f), |sum, &byte| {
                sum.checked_mul(256)?.checked_add(u64::from(byte))
            })
            .filter(|&size| size < 1 << 62);
    }
    let text = std::str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

/// Compares the header's checksum, which is taken with its own field as blanks.
fn check_sum(header: &[u8; RECORD], at: u64) -> io::Result<()> {
    let sum: u64 = header
        .iter()
        .enumerate()
        .map(|(i, &byte)| if (148..156).contains(&i) { u64::from(b' ') } else { u64::from(byte) })
        .sum();
    if number(&header[148..156]) == Some(sum) { Ok(()) } else { Err(damaged(at, "its checksum is wrong")) }
}

fn damaged(at: u64, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("tar entry at byte {at}: {why}"))
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    /// One ustar entry, as GNU tar would write it.
    pub(in crate::disk) fn entry(name: &str, kind: u8, mode: u32, owner: u32, content: &[u8]) -> Vec<u8> {
        let mut header = vec![0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..107].copy_from_slice(format!("{mode:07o}").as_bytes());
        header[108..115].copy_from_slice(format!("{owner:07o}").as_bytes());
        header[116..123].copy_from_slice(format!("{owner:07o}").as_bytes());
        header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        header[136..147].copy_from_slice(b"00000000000");
        header[156] = kind;
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].copy_from_slice(b"        ");
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        header.extend_from_slice(content);
        header.resize(header.len().next_multiple_of(512), 0);
        header
    }

    #[test]
    fn entries_and_blocks_are_counted() {
        let mut tar = entry("./", b'5', 0o755, 0, b"");
        tar.extend(entry("./a", b'0', 0o644, 0, &[1; 5000]));
        tar.extend(entry("pax", b'x', 0o644, 0, b"30 mtime=1.5\n"));
        tar.extend(entry("./b", b'2', 0o777, 0, b""));
        tar.extend([0; 1024]);
        let sum = measure(Cursor::new(tar)).unwrap();
        assert_eq!(sum, TarSize { entries: 3, content: 4096 + 8192 });
    }

    #[test]
    fn a_cut_off_tar_is_refused() {
        let tar = entry("a", b'0', 0o644, 0, &[1; 5000]);
        for len in [0, 100, 512, 1024, tar.len() - 512] {
            assert!(measure(Cursor::new(&tar[..len])).is_err(), "{len} bytes were accepted");
        }
    }

    #[test]
    fn what_is_no_tar_is_refused() {
        let error = measure(Cursor::new(vec![b'x'; 2048])).unwrap_err();
        assert!(error.to_string().contains("checksum"), "{error}");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
            let _ignored: io::Result<_> = measure(Cursor::new(bytes));
        }

        #[test]
        fn a_hostile_size_never_leaves_the_file(size in proptest::collection::vec(any::<u8>(), 12)) {
            let mut tar = entry("a", b'0', 0o644, 0, b"");
            tar[124..136].copy_from_slice(&size);
            tar[148..156].copy_from_slice(b"        ");
            let sum: u32 = tar.iter().map(|&byte| u32::from(byte)).sum();
            tar[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
            if let Ok(size) = measure(Cursor::new(tar)) {
                prop_assert!(size.content <= 4096);
            }
        }
    }
}
