//! The machine and the code that the figures are of.

use std::process::Command;

use serde::Serialize;

use crate::rig;

/// Where and of what was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Host {
    pub(crate) cores: usize,
    pub(crate) processor: String,
    /// In bytes.
    pub(crate) memory: u64,
    pub(crate) kernel: String,
    /// Waiting and running processes over the last minute, when the measurements began: what else was going on.
    pub(crate) load: String,
    /// `2026-11-21`.
    pub(crate) date: String,
    /// The commit, with a mark where files differ from it.
    pub(crate) commit: String,
}

impl Host {
    /// Asks `/proc` and git; what they do not say is `unknown`.
    pub(crate) fn describe() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let after = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let unknown = || "unknown".to_owned();
        let memory = after(&read("/proc/meminfo"), "MemTotal")
            .and_then(|text| text.strip_suffix("kB")?.trim().parse::<u64>().ok())
            .map_or(0, |kibibytes| kibibytes * 1024);
        let load = read("/proc/loadavg");
        Self {
            cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            processor: after(&read("/proc/cpuinfo"), "model name").unwrap_or_else(unknown),
            memory,
            kernel: Some(read("/proc/sys/kernel/osrelease").trim().to_owned())
                .filter(|text| !text.is_empty())
                .unwrap_or_else(unknown),
            load: load.split_whitespace().next().map_or_else(unknown, str::to_owned),
            date: rig::now().format("%Y-%m-%d").to_string(),
            commit: commit().unwrap_or_else(unknown),
        }
    }
}

fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .arg("-C")
            .arg(env!("CARGO_MANIFEST_DIR"))
            .args(arguments)
            .output()
            .ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    // The figures' own page does not count.
    let changed = git(&[
        "status",
        "--porcelain",
        "--",
        ":/crates",
        ":/migrations",
        ":/Cargo.toml",
        ":/tests/src",
    ])?;
    Some(if changed.is_empty() {
        commit
    } else {
        format!("{commit} with uncommitted changes")
    })
}
