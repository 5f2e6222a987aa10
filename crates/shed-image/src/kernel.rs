//! Takes a distribution's kernel file apart: bzImage to vmlinux on x86-64, and a check of the arm64 Image.
//!
//! Called by the guest builder. Firecracker boots an uncompressed ELF `vmlinux`, QEMU takes the bzImage as it is. The
//! input is a file from a package or from a user's image, so every offset in it is checked and the size of the result is
//! bounded. Payloads which are not zstd are refused by name: Debian, Ubuntu and Fedora ship zstd.

use std::io::Read as _;

/// The largest vmlinux that is unpacked, in bytes. Debian's is 55 MiB; one with debug information is below 1 GiB.
const MAX_VMLINUX: u64 = 1 << 30;

/// Offsets of the x86 setup header (kernel doc: arch/x86/boot.rst, "The Real-Mode Kernel Header").
mod header {
    pub(super) const SETUP_SECTS: usize = 0x1f1;
    pub(super) const BOOT_FLAG: usize = 0x1fe;
    pub(super) const MAGIC: usize = 0x202;
    pub(super) const VERSION: usize = 0x206;
    pub(super) const PAYLOAD_OFFSET: usize = 0x248;
    pub(super) const PAYLOAD_LENGTH: usize = 0x24c;
    /// The first boot protocol that has the two payload fields.
    pub(super) const FIRST_VERSION_WITH_PAYLOAD: u16 = 0x0208;
}

/// Says why a file gave no kernel.
#[derive(Debug, thiserror::Error)]
pub enum ExtractKernelError {
    #[error("the file is no bzImage: {missing} is missing")]
    NotBzImage { missing: &'static str },
    #[error(
        "boot protocol {version:#06x} of the bzImage is older than 2.08 and does not say where its payload is"
    )]
    TooOld { version: u16 },
    #[error("the bzImage is truncated: its payload ends at byte {end}, the file at byte {len}")]
    Truncated { end: u64, len: u64 },
    #[error("the kernel is compressed with {found}; only zstd is supported")]
    UnsupportedCompression { found: &'static str },
    #[error("the bzImage says its kernel has {declared} bytes; at most {MAX_VMLINUX} are unpacked")]
    TooLarge { declared: u64 },
    #[error("the compressed kernel cannot be unpacked")]
    Unpack {
        #[source]
        source: std::io::Error,
    },
    #[error("the unpacked kernel has {actual} bytes, the bzImage says {declared}")]
    WrongSize { declared: u64, actual: u64 },
    #[error("what the bzImage holds is no x86-64 ELF file")]
    NotElf,
}

/// What a kernel file is, told from its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelImage {
    /// x86 bzImage, the form QEMU boots.
    BzImage,
    /// Uncompressed ELF, the form Firecracker boots on x86-64.
    Vmlinux,
    /// Uncompressed arm64 Image, which every VMM boots.
    Arm64Image,
}

/// Tells which kind of kernel `bytes` begins with, or `None` when it is none that Shed boots.
///
/// The first 1 KiB of the file is enough.
#[must_use]
pub fn identify_kernel(bytes: &[u8]) -> Option<KernelImage> {
    if bytes.get(header::MAGIC..header::MAGIC + 4) == Some(b"HdrS") {
        Some(KernelImage::BzImage)
    } else if is_x86_64_elf(bytes) {
        Some(KernelImage::Vmlinux)
    } else if bytes.get(0x38..0x3c) == Some(b"ARM\x64") {
        // Kernel doc: arch/arm64/booting.rst, the magic at byte 56.
        Some(KernelImage::Arm64Image)
    } else {
        None
    }
}

/// Unpacks the ELF `vmlinux` inside a bzImage.
///
/// # Errors
/// When the file is truncated, lies about its sizes, holds something else than an x86-64 ELF file, or is compressed with
/// anything but zstd. No input makes it panic or use more memory than the declared size, at most 1 GiB.
pub fn vmlinux_from_bzimage(bzimage: &[u8]) -> Result<Vec<u8>, ExtractKernelError> {
    let (payload, declared) = locate_payload(bzimage)?;
    if let Some(found) = other_compression(payload) {
        return Err(ExtractKernelError::UnsupportedCompression { found });
    }
    if declared > MAX_VMLINUX {
        return Err(ExtractKernelError::TooLarge { declared });
    }
    let mut vmlinux = Vec::new();
    let decoder = zstd::stream::read::Decoder::with_buffer(payload)
        .map_err(|source| ExtractKernelError::Unpack { source })?
        .single_frame();
    // One byte more than declared, so that a longer one shows.
    decoder
        .take(declared + 1)
        .read_to_end(&mut vmlinux)
        .map_err(|source| ExtractKernelError::Unpack { source })?;
    let actual = vmlinux.len() as u64;
    if actual != declared {
        return Err(ExtractKernelError::WrongSize { declared, actual });
    }
    if !is_x86_64_elf(&vmlinux) {
        return Err(ExtractKernelError::NotElf);
    }
    Ok(vmlinux)
}

/// Returns the compressed bytes and the size of what is in them.
fn locate_payload(file: &[u8]) -> Result<(&[u8], u64), ExtractKernelError> {
    let not = |missing| ExtractKernelError::NotBzImage { missing };
    if u16_at(file, header::BOOT_FLAG) != Some(0xaa55) {
        return Err(not("the boot flag 0xaa55"));
    }
    if file.get(header::MAGIC..header::MAGIC + 4) != Some(b"HdrS") {
        return Err(not("the setup header's magic"));
    }
    let version = u16_at(file, header::VERSION).ok_or(not("the protocol version"))?;
    if version < header::FIRST_VERSION_WITH_PAYLOAD {
        return Err(ExtractKernelError::TooOld { version });
    }
    let offset = u32_at(file, header::PAYLOAD_OFFSET).ok_or(not("the payload's offset"))?;
    let length = u32_at(file, header::PAYLOAD_LENGTH).ok_or(not("the payload's length"))?;
    // Zero means four, for the sake of very old boot loaders (boot.rst, setup_sects).
    let setup_sectors = match file[header::SETUP_SECTS] {
        0 => 4,
        n => u64::from(n),
    };
    let start = (setup_sectors + 1) * 512 + u64::from(offset);
    let end = start + u64::from(length);
    let len = file.len() as u64;
    let truncated = || ExtractKernelError::Truncated { end, len };
    if end > len {
        return Err(truncated());
    }
    let range =
        usize::try_from(start).map_err(|_| truncated())?..usize::try_from(end).map_err(|_| truncated())?;
    let payload = file.get(range).ok_or_else(truncated)?;
    // The kernel's build appends the unpacked size to the compressed stream.
    let (compressed, size) = payload.split_last_chunk::<4>().ok_or_else(truncated)?;
    Ok((compressed, u64::from(u32::from_le_bytes(*size))))
}

/// Names the compression of `payload` when it is one we know and it is not zstd.
fn other_compression(payload: &[u8]) -> Option<&'static str> {
    const MAGICS: [(&[u8], &str); 6] = [
        (&[0x1f, 0x8b], "gzip"),
        (&[0xfd, b'7', b'z', b'X', b'Z'], "xz"),
        (&[0x02, 0x21, 0x4c, 0x18], "lz4"),
        (b"BZh", "bzip2"),
        (&[0x5d, 0x00, 0x00], "lzma"),
        (&[0x89, b'L', b'Z', b'O'], "lzo"),
    ];
    MAGICS.iter().find(|(magic, _)| payload.starts_with(magic)).map(|&(_, name)| name)
}

fn is_x86_64_elf(bytes: &[u8]) -> bool {
    const ELFCLASS64: u8 = 2;
    const EM_X86_64: u16 = 62;
    bytes.starts_with(b"\x7fELF") && bytes.get(4) == Some(&ELFCLASS64) && u16_at(bytes, 18) == Some(EM_X86_64)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|chunk| u16::from_le_bytes(*chunk))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|chunk| u32::from_le_bytes(*chunk))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn elf(len: usize) -> Vec<u8> {
        let mut bytes = vec![0xab; len];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[18..20].copy_from_slice(&62u16.to_le_bytes());
        bytes
    }

    /// A bzImage with `setup_sectors` of setup, whose payload lies `offset` bytes into the protected-mode part.
    fn bzimage(setup_sectors: u8, offset: u32, compressed: &[u8], declared: u32) -> Vec<u8> {
        let sectors = if setup_sectors == 0 { 4 } else { usize::from(setup_sectors) };
        let mut file = vec![0; (sectors + 1) * 512 + offset as usize];
        file[0x1f1] = setup_sectors;
        file[0x1fe..0x200].copy_from_slice(&0xaa55u16.to_le_bytes());
        file[0x202..0x206].copy_from_slice(b"HdrS");
        file[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
        file[0x248..0x24c].copy_from_slice(&offset.to_le_bytes());
        let length = u32::try_from(compressed.len() + 4).unwrap();
        file[0x24c..0x250].copy_from_slice(&length.to_le_bytes());
        file.extend_from_slice(compressed);
        file.extend_from_slice(&declared.to_le_bytes());
        file.extend_from_slice(b"trailer");
        file
    }

    fn good() -> (Vec<u8>, Vec<u8>) {
        let kernel = elf(100_000);
        let packed = zstd::encode_all(kernel.as_slice(), 3).unwrap();
        (bzimage(39, 716, &packed, 100_000), kernel)
    }

    #[test]
    fn the_kernel_comes_out_as_it_went_in() {
        let (file, kernel) = good();
        assert_eq!(vmlinux_from_bzimage(&file).unwrap(), kernel);
        assert_eq!(identify_kernel(&file), Some(KernelImage::BzImage));
        assert_eq!(identify_kernel(&kernel), Some(KernelImage::Vmlinux));
    }

    #[test]
    fn zero_setup_sectors_mean_four() {
        let kernel = elf(64);
        let packed = zstd::encode_all(kernel.as_slice(), 3).unwrap();
        assert_eq!(vmlinux_from_bzimage(&bzimage(0, 8, &packed, 64)).unwrap(), kernel);
    }

    #[test]
    fn every_truncation_is_refused() {
        let (file, _) = good();
        for len in (0..file.len() - b"trailer".len()).step_by(7) {
            assert!(vmlinux_from_bzimage(&file[..len]).is_err(), "{len} bytes were accepted");
        }
    }

    #[test]
    fn a_kernel_of_another_size_than_declared_is_refused() {
        let packed = zstd::encode_all(elf(1000).as_slice(), 3).unwrap();
        for declared in [0, 999, 1001, 1 << 20] {
            let error = vmlinux_from_bzimage(&bzimage(4, 0, &packed, declared)).unwrap_err();
            assert!(matches!(error, ExtractKernelError::WrongSize { .. }), "{declared}: {error}");
        }
        let error = vmlinux_from_bzimage(&bzimage(4, 0, &packed, u32::MAX)).unwrap_err();
        assert!(matches!(error, ExtractKernelError::TooLarge { .. }), "{error}");
    }

    #[test]
    fn other_compressions_are_named() {
        let error = vmlinux_from_bzimage(&bzimage(4, 0, &[0x1f, 0x8b, 8, 0], 10)).unwrap_err();
        assert_eq!(error.to_string(), "the kernel is compressed with gzip; only zstd is supported");
    }

    #[test]
    fn a_payload_that_is_no_elf_is_refused() {
        let packed = zstd::encode_all([7u8; 500].as_slice(), 3).unwrap();
        let error = vmlinux_from_bzimage(&bzimage(4, 0, &packed, 500)).unwrap_err();
        assert!(matches!(error, ExtractKernelError::NotElf), "{error}");
    }

    #[test]
    fn an_old_boot_protocol_is_refused() {
        let (mut file, _) = good();
        file[0x206..0x208].copy_from_slice(&0x0207u16.to_le_bytes());
        assert!(matches!(vmlinux_from_bzimage(&file), Err(ExtractKernelError::TooOld { version: 0x207 })));
    }

    #[test]
    fn an_arm64_image_is_recognised() {
        let mut file = vec![0; 64];
        file[..2].copy_from_slice(b"MZ");
        file[0x38..0x3c].copy_from_slice(b"ARMd");
        assert_eq!(identify_kernel(&file), Some(KernelImage::Arm64Image));
        assert_eq!(identify_kernel(b"MZ"), None);
    }

    proptest! {
        #[test]
        fn no_input_panics(file in proptest::collection::vec(any::<u8>(), 0..2048)) {
            prop_assert!(vmlinux_from_bzimage(&file).is_err());
        }

        #[test]
        fn a_damaged_header_never_panics(at in 0x1f0usize..0x260, value: u8) {
            let (mut file, kernel) = good();
            file[at] = value;
            if let Ok(out) = vmlinux_from_bzimage(&file) {
                prop_assert_eq!(out, kernel);
            }
        }
    }
}
