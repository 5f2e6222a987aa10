//! The `vz:` section (spec K.1).

use camino::{Utf8Path, Utf8PathBuf};
use serde_saphyr::Spanned;
use shed_backend::vz::{boot_file_problem, file_problem, socket_dir_problem};
use shed_types::BackendKind;

use super::{
    super::{
        LoadConfigError, Surroundings,
        check::Source,
        file::{Value, VzFile},
    },
    VzSection,
    common::{check_ports, common},
};

/// Memory of a shed that names none, in MiB (spec K.1).
const MEMORY_MB: i64 = 4096;

/// vfkit where none is named (spec K.1).
const VFKIT: &str = "vfkit";

/// Checks the section. Paths that vfkit cannot be told are refused here when the file names them; one that comes from the home
/// directory stands in nobody's way on a host that runs no such sheds.
pub(in super::super) fn vz(
    mut raw: VzFile,
    source: Source<'_>,
    surroundings: &Surroundings,
) -> Result<VzSection, LoadConfigError> {
    let ports = [
        ("vz.console_port", &raw.console_port),
        ("vz.health_port", &raw.health_port),
        ("vz.notify_port", &raw.notify_port),
        ("vz.tcp_proxy_port", &raw.tcp_proxy_port),
    ];
    check_ports(&ports, source)?;
    let shared = raw.take_common();
    let named: [(&str, &Value<String>, Problem); 5] = [
        ("vz.images_dir", &shared.images_dir, file_problem),
        ("vz.instance_dir", &shared.instance_dir, file_problem),
        ("vz.kernel_path", &shared.kernel_path, boot_file_problem),
        ("vz.initrd_path", &shared.initrd_path, boot_file_problem),
        ("vz.socket_dir", &shared.socket_dir, socket_dir_problem),
    ];
    for (key, value, problem) in named {
        let path = source.path(value.as_ref(), key, surroundings)?;
        if let (Some(value), Some(path)) = (value, path)
            && let Some(problem) = problem(&path)
        {
            return Err(source.bad(value, key, problem));
        }
    }
    let vfkit_path = program(raw.vfkit_path.as_ref(), source, surroundings)?;
    let common = common(shared, BackendKind::Vz, MEMORY_MB, source, surroundings)?;
    Ok(VzSection { common, vfkit_path })
}

/// Why vfkit cannot be told a path.
type Problem = fn(&Utf8Path) -> Option<&'static str>;

/// Reads a program's path, or its name alone.
fn program(
    value: Option<&Spanned<String>>,
    source: Source<'_>,
    surroundings: &Surroundings,
) -> Result<Utf8PathBuf, LoadConfigError> {
    let is_name =
        |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    match value {
        Some(value) if is_name(&value.value) => Ok(value.value.as_str().into()),
        value => Ok(source.path(value, "vz.vfkit_path", surroundings)?.unwrap_or_else(|| VFKIT.into())),
    }
}
