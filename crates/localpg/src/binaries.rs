//! Where the Postgres binaries are.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use crate::LocalPostgresError;

/// The environment variable that names the directory with `initdb` and `postgres`.
pub const BIN_ENV: &str = "POSTERN_PG_BIN";
/// The command that installs Postgres on Debian and its kin.
pub const INSTALL_COMMAND: &str = "apt-get install -y postgresql";

/// The directory that holds both `initdb` and `postgres`: the one that [`BIN_ENV`] names, else one on the PATH
/// (links followed), else the newest of Debian's, else the one of an installation from source.
pub(crate) fn find() -> Result<PathBuf, LocalPostgresError> {
    let candidates = candidates();
    candidates
        .iter()
        .find_map(|dir| complete(dir))
        .ok_or_else(|| LocalPostgresError::NotInstalled {
            looked_in: match env::var_os(BIN_ENV) {
                Some(dir) => format!("`{}` (from {BIN_ENV})", dir.display()),
                None => "the PATH, /usr/lib/postgresql/*/bin, /usr/local/pgsql/bin".to_owned(),
            },
        })
}

fn candidates() -> Vec<PathBuf> {
    // What somebody names is taken or refused, never silently replaced by something else.
    if let Some(dir) = env::var_os(BIN_ENV) {
        return vec![dir.into()];
    }
    let mut dirs: Vec<PathBuf> = env::var_os("PATH")
        .map(|path| env::split_paths(&path).collect())
        .unwrap_or_default();
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            Some((
                entry.file_name().to_str()?.parse().ok()?,
                entry.path().join("bin"),
            ))
        })
        .collect();
    versions.sort_by(|(a, _), (b, _)| b.cmp(a));
    dirs.extend(versions.into_iter().map(|(_, dir)| dir));
    dirs.push("/usr/local/pgsql/bin".into());
    dirs
}

/// `dir`, or the directory that its `postgres` links to, if that has everything.
fn complete(dir: &Path) -> Option<PathBuf> {
    let postgres = dir.join("postgres").canonicalize().ok()?;
    let real = postgres.parent()?;
    real.join("initdb").is_file().then(|| real.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_counts_only_with_both_binaries_and_links_are_followed() {
        let temp = tempfile::tempdir().unwrap();
        let (real, linked) = (temp.path().join("real"), temp.path().join("linked"));
        fs::create_dir(&real).unwrap();
        fs::create_dir(&linked).unwrap();
        fs::write(real.join("postgres"), "").unwrap();
        std::os::unix::fs::symlink(real.join("postgres"), linked.join("postgres")).unwrap();
        assert_eq!(complete(&linked), None, "without initdb");
        fs::write(real.join("initdb"), "").unwrap();
        assert_eq!(complete(&linked), real.canonicalize().ok());
        assert_eq!(complete(temp.path()), None);
    }
}
