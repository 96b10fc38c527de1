//! The user that Postgres runs as.

use std::{
    fs, io,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::Path,
    process::Command,
};

use crate::LocalPostgresError;

/// Another user to run as; absent where the current one will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RunAs {
    uid: u32,
    gid: u32,
}

impl RunAs {
    /// Nobody else, unless we are root: then the owner of an existing cluster, else `postgres`, else `nobody`.
    pub(crate) fn choose(cluster: &Path) -> Result<Option<Self>, LocalPostgresError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        if let Ok(meta) = fs::metadata(cluster.join("PG_VERSION"))
            && meta.uid() != 0
        {
            return Ok(Some(Self {
                uid: meta.uid(),
                gid: meta.gid(),
            }));
        }
        let passwd = fs::read_to_string("/etc/passwd").map_err(LocalPostgresError::io("/etc/passwd"))?;
        ["postgres", "nobody"]
            .into_iter()
            .find_map(|name| lookup(&passwd, name))
            .map(Some)
            .ok_or(LocalPostgresError::NoUnprivilegedUser)
    }

    pub(crate) fn apply(this: Option<Self>, command: &mut Command) {
        if let Some(Self { uid, gid }) = this {
            command.uid(uid).gid(gid);
        }
    }

    pub(crate) fn own(this: Option<Self>, path: &Path) -> io::Result<()> {
        match this {
            Some(Self { uid, gid }) => std::os::unix::fs::chown(path, Some(uid), Some(gid)),
            None => Ok(()),
        }
    }
}

/// The line of `name` in a passwd(5) file, unless it is root under another name.
fn lookup(passwd: &str, name: &str) -> Option<RunAs> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        (uid != 0).then_some(RunAs { uid, gid })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name_and_root_is_never_chosen() {
        let passwd = "postgres2:x:7:7::/:/bin/sh\npostgres:x:109:117:PostgreSQL:/var/lib/postgresql:/bin/bash\nnobody:x:0:0::/:/bin/sh\n";
        assert_eq!(lookup(passwd, "postgres"), Some(RunAs { uid: 109, gid: 117 }));
        assert_eq!(lookup(passwd, "nobody"), None);
        assert_eq!(lookup(passwd, "post"), None);
    }
}
