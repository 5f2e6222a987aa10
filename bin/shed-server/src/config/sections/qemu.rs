//! The `qemu:` section.

use shed_backend::qemu::ShareCache;
use shed_types::BackendKind;

use super::{
    super::{LoadConfigError, Surroundings, check::Source, file::QemuFile},
    Accel, QemuSection,
    common::common,
};

/// Memory of a shed that names none, in MiB.
const MEMORY_MB: i64 = 2048;

/// Checks the section.
pub(in super::super) fn qemu(
    mut raw: QemuFile,
    source: Source<'_>,
    surroundings: &Surroundings,
) -> Result<QemuSection, LoadConfigError> {
    let common = common(raw.take_common(), BackendKind::Qemu, MEMORY_MB, source, surroundings)?;
    let accel = source.word(
        raw.accel.as_ref(),
        "qemu.accel",
        &[("auto", Accel::Auto), ("kvm", Accel::Kvm), ("hvf", Accel::Hvf), ("tcg", Accel::Tcg)],
    )?;
    let share_cache = source.word(
        raw.share_cache.as_ref(),
        "qemu.share_cache",
        &ShareCache::ALL.map(|cache| (cache.as_str(), cache)),
    )?;
    Ok(QemuSection {
        common,
        accel: accel.unwrap_or_default(),
        binary: source.path(raw.binary.as_ref(), "qemu.binary", surroundings)?,
        virtiofsd: source.path(raw.virtiofsd.as_ref(), "qemu.virtiofsd", surroundings)?,
        share_cache: share_cache.unwrap_or_default(),
    })
}
