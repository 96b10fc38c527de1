//! Where the demo keeps its database, and the file that says where it can be reached.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::exit::Failure;

/// The demo's directory.
#[derive(Debug, Clone)]
pub struct DemoDir(PathBuf);

/// Where a running demo can be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DemoState {
    /// The API.
    pub server: String,
    /// The identity provider.
    pub issuer: String,
    /// The EC2 simulator.
    pub ec2: String,
    /// The ARM simulator.
    pub arm: String,
}

impl DemoDir {
    /// The directory that was named, or the user's own: `$XDG_STATE_HOME/postern-demo`, by default
    /// `~/.local/state/postern-demo`. Root's home is closed to the user that Postgres runs as, so root's is
    /// `/var/tmp/postern-demo`.
    pub fn choose(named: Option<PathBuf>) -> Result<Self, Failure> {
        if let Some(path) = named {
            return Ok(Self(std::path::absolute(path)?));
        }
        let variable = |name: &str| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        if variable("HOME").is_some_and(|home| home == Path::new("/root")) {
            return Ok(Self(PathBuf::from("/var/tmp/postern-demo")));
        }
        let base = variable("XDG_STATE_HOME")
            .filter(|path| path.is_absolute())
            .or_else(|| variable("HOME").map(|home| home.join(".local/state")))
            .unwrap_or_else(std::env::temp_dir);
        Ok(Self(base.join("postern-demo")))
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where the database lives.
    pub fn database(&self) -> PathBuf {
        self.0.join("postgres")
    }

    fn state_file(&self) -> PathBuf {
        self.0.join("demo.json")
    }

    /// Makes the directory.
    pub fn make(&self) -> Result<(), Failure> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(&self.0)
            .with_context(|| format!("{} cannot be made", self.0.display()))?;
        Ok(())
    }

    /// Says where the demo can be reached, to this user only.
    pub fn write(&self, state: &DemoState) -> Result<(), Failure> {
        let path = self.state_file();
        let text = serde_json::to_vec_pretty(state).context("the demo's state is no JSON")?;
        let written = remove(&path).and_then(|()| {
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?;
            io::Write::write_all(&mut file, &text)
        });
        written.with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(())
    }

    /// Where the demo can be reached, if one said so.
    pub fn read(&self) -> Result<Option<DemoState>, Failure> {
        let path = self.state_file();
        match fs::read(&path) {
            Ok(text) => Ok(Some(
                serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))?,
            )),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(anyhow::Error::from(error)
                .context(format!("{} cannot be read", path.display()))
                .into()),
        }
    }

    /// Takes back what [`DemoDir::write`] said.
    pub fn clear(&self) -> Result<(), Failure> {
        let path = self.state_file();
        remove(&path).with_context(|| format!("{} cannot be removed", path.display()))?;
        Ok(())
    }

    /// Removes what the demo made here, and the directory if nothing else is in it.
    pub fn remove(&self) -> Result<(), Failure> {
        self.clear()?;
        match fs::remove_dir_all(self.database()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(anyhow::Error::from(error)
                .context(format!("{} cannot be removed", self.database().display()))
                .into()),
            _ => {
                // Somebody else's files may be in a directory that was named by hand.
                let _not_empty = fs::remove_dir(&self.0);
                Ok(())
            }
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_state_is_read_back_and_only_its_owner_may() {
        let dir = tempfile::tempdir().unwrap();
        let demo = DemoDir::choose(Some(dir.path().join("demo"))).unwrap();
        demo.make().unwrap();
        assert_eq!(demo.read().unwrap(), None);
        let state = DemoState {
            server: "http://127.0.0.1:1".to_owned(),
            issuer: "http://127.0.0.1:2".to_owned(),
            ec2: "http://127.0.0.1:3".to_owned(),
            arm: "http://127.0.0.1:4".to_owned(),
        };
        demo.write(&state).unwrap();
        assert_eq!(demo.read().unwrap(), Some(state));
        let mode = fs::metadata(demo.state_file()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        demo.remove().unwrap();
        assert!(!demo.path().exists());
    }
}
