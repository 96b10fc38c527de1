//! The guardrails' files: read at the start, and looked at again while the service runs.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use postern_authz::{GuardrailSet, Networks};
use postern_core::net::Source;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config::Guardrails;

/// How long files must have looked the same before they are taken: an editor may be in the middle of a write.
const SETTLE: Duration = Duration::from_secs(1);

/// What the files hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Texts {
    guardrails: BTreeMap<PathBuf, String>,
    networks: Option<(PathBuf, String)>,
}

impl Texts {
    /// Reads the guardrails' file, or every `.cedar` file of their directory, and the networks.
    pub fn read(section: &Guardrails) -> anyhow::Result<Self> {
        let unreadable = |path: &Path| format!("the guardrails at {} cannot be read", path.display());
        let mut files: Vec<PathBuf> = section.path.iter().cloned().collect();
        if let Some(path) = section.path.as_ref().filter(|path| path.is_dir()) {
            files = std::fs::read_dir(path)
                .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
                .with_context(|| unreadable(path))?;
            files.retain(|file| file.extension().is_some_and(|extension| extension == "cedar"));
            // More likely a volume that is not mounted than the wish to forbid nothing.
            if files.is_empty() {
                anyhow::bail!(
                    "{} holds no .cedar file; one with a comment only forbids nothing",
                    path.display()
                );
            }
        }
        let text = |file: PathBuf| {
            let text = std::fs::read_to_string(&file).with_context(|| unreadable(&file))?;
            anyhow::Ok((file, text))
        };
        Ok(Self {
            guardrails: files.into_iter().map(text).collect::<Result<_, _>>()?,
            networks: section.networks.clone().map(text).transpose()?,
        })
    }

    /// The guardrails, checked.
    pub fn parse(&self) -> anyhow::Result<GuardrailSet> {
        let networks = match &self.networks {
            None => Networks::default(),
            Some((path, text)) => {
                let wrong = || format!("the networks at {} do not hold", path.display());
                let ranges: BTreeMap<String, Vec<Source>> = toml::from_str(text).with_context(wrong)?;
                Networks::new(ranges).with_context(wrong)?
            }
        };
        let mut set = GuardrailSet::with_networks(networks);
        for (file, text) in &self.guardrails {
            set.add(&file.display().to_string(), text)?;
        }
        Ok(set)
    }
}

/// What there is to do after a look.
#[derive(Debug)]
enum Look {
    /// Nothing: the files are as they were.
    Same,
    /// They are not, and may still be changing.
    Unsettled,
    /// They are others, and stay so.
    New(Result<Box<GuardrailSet>, String>),
}

/// Looks at the files, again and again.
#[derive(Debug)]
pub struct Watch {
    section: Guardrails,
    /// What was last taken or refused.
    known: Result<Texts, String>,
    /// What was seen a moment ago and is neither.
    seen: Option<Result<Texts, String>>,
    hangup: Signal,
}

impl Watch {
    /// A watch over the files, which held `texts` when the service started.
    pub fn new(section: Guardrails, texts: Texts) -> anyhow::Result<Self> {
        Ok(Self {
            section,
            known: Ok(texts),
            seen: None,
            hangup: signal(SignalKind::hangup()).context("SIGHUP cannot be listened to")?,
        })
    }

    fn look(&mut self, at_once: bool) -> Look {
        let now = Texts::read(&self.section).map_err(|error| format!("{error:#}"));
        if now == self.known {
            self.seen = None;
            return Look::Same;
        }
        if !at_once && self.seen.as_ref() != Some(&now) {
            self.seen = Some(now);
            return Look::Unsettled;
        }
        let parsed = match &now {
            Ok(texts) => texts.parse().map(Box::new).map_err(|error| format!("{error:#}")),
            Err(error) => Err(error.clone()),
        };
        self.seen = Some(now);
        Look::New(parsed)
    }

    /// What was seen is settled: taken, or refused and written down.
    fn settle(&mut self) {
        if let Some(seen) = self.seen.take() {
            self.known = seen;
        }
    }

    /// Replaces the server's guardrails whenever the files become others that hold, until `stop`. SIGHUP makes it
    /// look at once.
    pub async fn run(mut self, server: postern_server::Guardrails, stop: CancellationToken) {
        let origin = self
            .section
            .path
            .as_ref()
            .map(|path| path.display().to_string())
            .unwrap_or_default();
        let every = Duration::from_secs(self.section.reload_seconds.into());
        let mut pause = every;
        loop {
            let at_once = tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => false,
                _ = self.hangup.recv() => true,
            };
            pause = every;
            let written = match self.look(at_once) {
                Look::Same => continue,
                Look::Unsettled => {
                    pause = SETTLE;
                    continue;
                }
                Look::New(Ok(set)) => server.replace(*set, &origin).await.map(drop),
                Look::New(Err(reason)) => server.refuse(&origin, &reason).await,
            };
            match written {
                Ok(()) => self.settle(),
                Err(error) => {
                    let error: &(dyn std::error::Error + 'static) = &error;
                    tracing::error!(
                        error,
                        "the guardrails stay as they are, because nothing can be written down"
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn rule(id: &str) -> String {
        format!("@id(\"{id}\") forbid (principal, action, resource);")
    }

    fn watched(directory: &Path) -> Watch {
        let section = Guardrails {
            path: Some(directory.to_owned()),
            networks: Some(directory.join("networks.toml")),
            ..Guardrails::default()
        };
        let texts = Texts::read(&section).unwrap();
        texts.parse().unwrap();
        Watch::new(section, texts).unwrap()
    }

    fn prepared() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("a.cedar"), rule("a")).unwrap();
        fs::write(
            directory.path().join("networks.toml"),
            "office = [\"203.0.113.0/24\"]\n",
        )
        .unwrap();
        directory
    }

    #[tokio::test]
    async fn a_change_is_taken_when_it_has_settled_and_only_once() {
        let directory = prepared();
        let mut watch = watched(directory.path());
        assert!(matches!(watch.look(false), Look::Same));
        let b = directory.path().join("b.cedar");
        fs::write(&b, rule("b")).unwrap();
        assert!(matches!(watch.look(false), Look::Unsettled));
        fs::write(&b, rule("c")).unwrap();
        assert!(matches!(watch.look(false), Look::Unsettled), "it still changed");
        let Look::New(Ok(set)) = watch.look(false) else {
            panic!("taken by now")
        };
        assert_eq!(
            set.iter().map(|rail| rail.id.as_str()).collect::<Vec<_>>(),
            ["a", "c"]
        );
        assert!(
            matches!(watch.look(false), Look::New(Ok(_))),
            "until it is settled"
        );
        watch.settle();
        assert!(matches!(watch.look(false), Look::Same));
        fs::remove_file(&b).unwrap();
        assert!(
            matches!(watch.look(true), Look::New(Ok(_))),
            "at once, where somebody says so"
        );
    }

    #[tokio::test]
    async fn what_does_not_hold_is_refused_once_with_its_reason() {
        let directory = prepared();
        let mut watch = watched(directory.path());
        let networks = directory.path().join("networks.toml");
        for (file, text, said) in [
            ("a.cedar", "permit (principal, action, resource);", "permits"),
            ("a.cedar", "forbid (", "a.cedar:1:"),
            (
                "networks.toml",
                "office = [\"203.0.113.0/33\"]",
                "networks.toml do not hold",
            ),
            ("networks.toml", "office = []", "has no range"),
        ] {
            fs::write(directory.path().join("a.cedar"), rule("a")).unwrap();
            fs::write(&networks, "office = [\"203.0.113.0/24\"]\n").unwrap();
            watch.look(true);
            watch.settle();
            fs::write(directory.path().join(file), text).unwrap();
            match watch.look(true) {
                Look::New(Err(reason)) => assert!(reason.contains(said), "{reason}"),
                other => panic!("{other:?}"),
            }
            watch.settle();
            assert!(matches!(watch.look(true), Look::Same), "told once");
        }
    }

    #[tokio::test]
    async fn a_directory_that_is_empty_or_gone_lifts_no_guardrail() {
        let directory = prepared();
        let mut watch = watched(directory.path());
        fs::remove_file(directory.path().join("a.cedar")).unwrap();
        assert!(matches!(watch.look(true), Look::New(Err(_))));
        fs::write(directory.path().join("a.cedar"), "// nothing\n").unwrap();
        assert!(
            matches!(watch.look(true), Look::New(Ok(set)) if set.is_empty()),
            "said on purpose"
        );
        watch.settle();
        fs::remove_dir_all(directory.path()).unwrap();
        assert!(matches!(watch.look(true), Look::New(Err(_))));
    }
}
