//! Everything that was measured, as a table for people and as the section of the page.

mod scale;

use std::fmt::Write as _;

use comfy_table::Table;
use serde::Serialize;

use crate::{
    database::Database,
    host::Host,
    measure::{
        calls::Calls, creating::Creating, creating::median, discovery::Discoveries, lag::Lag,
        latency::Direction, latency::Latency, mass::Mass, reading::Reading, rest::Rest, storm::Storm,
    },
    sample::Summary,
};

/// What was measured; a part that was not asked for is absent or empty.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) host: Host,
    pub(crate) database: Option<Database>,
    pub(crate) latency: Option<Latency>,
    pub(crate) calls: Vec<Calls>,
    pub(crate) lag: Vec<Lag>,
    pub(crate) mass: Option<Mass>,
    /// Milliseconds.
    pub(crate) startup: Option<Summary>,
    pub(crate) creating: Option<Creating>,
    pub(crate) reading: Option<Reading>,
    pub(crate) discovery: Option<Discoveries>,
    pub(crate) storm: Option<Storm>,
    pub(crate) rest: Option<Rest>,
}

/// A table of one part: title, header, rows, and what to know about it.
struct Part {
    title: String,
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    notes: Vec<String>,
}

impl Report {
    pub(crate) const fn new(host: Host) -> Self {
        Self {
            host,
            database: None,
            latency: None,
            calls: Vec::new(),
            lag: Vec::new(),
            mass: None,
            startup: None,
            creating: None,
            reading: None,
            discovery: None,
            storm: None,
            rest: None,
        }
    }

    /// For a terminal.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for part in self.parts() {
            let mut table = Table::new();
            table
                .load_style(comfy_table::presets::NOTHING)
                .set_header(part.header)
                .add_rows(part.rows);
            let _infallible = writeln!(text, "{}\n{}", part.title, table.trim_fmt());
            for note in part.notes {
                let _infallible = writeln!(text, "  {note}");
            }
            text.push('\n');
        }
        text
    }

    /// For the page.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        for part in self.parts() {
            let rule = vec!["---"; part.header.len()].join(" | ");
            let _infallible = write!(
                text,
                "## {}\n\n| {} |\n| {rule} |\n",
                part.title,
                part.header.join(" | ")
            );
            for row in part.rows {
                let _infallible = writeln!(text, "| {} |", row.join(" | "));
            }
            text.push('\n');
            for note in part.notes {
                let _infallible = writeln!(text, "{note}\n");
            }
        }
        text
    }

    fn parts(&self) -> Vec<Part> {
        let mut parts = vec![self.machine()];
        if let Some(latency) = &self.latency {
            parts.push(latencies(
                "Request to open, revoke to closed".to_owned(),
                &latency.quick,
                vec![format!(
                    "Per opening and closing together, Postgres synced its log to disk {:.1} times.",
                    latency.syncs_per_pair
                )],
            ));
            parts.push(stages("Where the time goes".to_owned(), &latency.quick));
            let title = format!("The same with {} ms added to every cloud call", latency.slow_call);
            parts.push(latencies(title, &latency.slow, Vec::new()));
        }
        if !self.lag.is_empty() {
            parts.push(lags(&self.lag));
        }
        if !self.calls.is_empty() {
            parts.push(calls(&self.calls));
        }
        if let Some(mass) = &self.mass {
            parts.push(masses(mass));
        }
        parts.extend(self.creating.as_ref().map(creations));
        parts.extend(self.reading.as_ref().map(reads));
        parts.extend(self.footprint());
        parts.extend(self.discovery.as_ref().map(scale::discovery));
        parts.extend(self.storm.as_ref().map(scale::storm));
        parts.extend(self.rest.as_ref().map(scale::rest));
        parts
    }

    fn machine(&self) -> Part {
        let host = &self.host;
        let mut rows = vec![
            vec!["date".to_owned(), host.date.clone()],
            vec!["commit".to_owned(), host.commit.clone()],
            vec![
                "processor".to_owned(),
                format!("{} cores, {}", host.cores, host.processor),
            ],
            vec!["memory".to_owned(), format!("{} MiB", host.memory >> 20)],
            vec!["kernel".to_owned(), host.kernel.clone()],
            vec!["load average before".to_owned(), host.load.clone()],
        ];
        if let Some(database) = &self.database {
            rows.push(vec!["Postgres".to_owned(), database.version.clone()]);
            rows.push(vec![
                "durability".to_owned(),
                format!(
                    "fsync {}, synchronous_commit {}, max_wal_size {}",
                    database.fsync, database.synchronous_commit, database.max_wal_size
                ),
            ]);
            rows.push(vec![
                "one small commit".to_owned(),
                format!(
                    "p50 {:.2} ms, p99 {:.2} ms (n = {})",
                    database.commit.p50, database.commit.p99, database.commit.n
                ),
            ]);
        }
        Part {
            title: "Machine".to_owned(),
            header: vec!["", ""],
            rows,
            notes: Vec::new(),
        }
    }

    fn footprint(&self) -> Option<Part> {
        let mut rows = Vec::new();
        let memory = |what: String, bytes: u64| vec![what, format!("{:.1} MB", megabytes(bytes))];
        if let Some(latency) = &self.latency {
            rows.push(memory(
                "resident memory, fleet guarded, idle".to_owned(),
                latency.idle_memory,
            ));
            rows.push(memory(
                format!("resident memory after {} openings", latency.openings),
                latency.memory_after,
            ));
        }
        if let Some(mass) = &self.mass {
            rows.push(memory(
                format!("resident memory after {} grants on one NSG", mass.grants),
                mass.memory_after,
            ));
        }
        if let Some(startup) = &self.startup {
            rows.push(vec![
                format!("start of the process to ready, n = {}", startup.n),
                format!(
                    "p50 {:.0} ms, p90 {:.0} ms, max {:.0} ms",
                    startup.p50, startup.p90, startup.max
                ),
            ]);
        }
        (!rows.is_empty()).then(|| Part {
            title: "Memory and start-up".to_owned(),
            header: vec!["", ""],
            rows,
            notes: Vec::new(),
        })
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "the memory of a process is far below 2^52 bytes"
)]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn span(summary: &Summary) -> String {
    format!("{:.1} / {:.1} / {:.1}", summary.p50, summary.p90, summary.p99)
}

fn latencies(title: String, directions: &[Direction], notes: Vec<String>) -> Part {
    let mut rows = Vec::new();
    for direction in directions {
        let edge = if direction.what == "open" {
            "reachable"
        } else {
            "unreachable"
        };
        let state = if direction.what == "open" {
            "open"
        } else {
            "closed"
        };
        let mut row = |instant: String, ours: &Summary, bare: &Summary, ratio: f64| {
            rows.push(vec![
                direction.cloud.to_owned(),
                direction.what.to_owned(),
                instant,
                span(ours),
                span(bare),
                format!("{ratio:.2}"),
                ours.n.to_string(),
            ]);
        };
        row(
            edge.to_owned(),
            &direction.truth,
            &direction.bare_truth,
            direction.truth_ratio(),
        );
        row(
            "read back".to_owned(),
            &direction.confirmed,
            &direction.bare,
            direction.confirmed_ratio(),
        );
        row(
            format!("client told `{state}`"),
            &direction.told,
            &direction.bare,
            direction.told_ratio(),
        );
    }
    Part {
        title,
        header: vec![
            "cloud",
            "what",
            "until",
            "Postern, ms (p50 / p90 / p99)",
            "bare calls, ms (p50 / p90 / p99)",
            "ratio at p50",
            "n",
        ],
        rows,
        notes,
    }
}

fn stages(title: String, directions: &[Direction]) -> Part {
    let rows = directions.iter().flat_map(|direction| {
        direction.stages.iter().map(|stage| {
            vec![
                direction.cloud.to_owned(),
                direction.what.to_owned(),
                stage.name.to_owned(),
                span(&stage.took),
            ]
        })
    });
    Part {
        title,
        header: vec!["cloud", "what", "stage", "ms (p50 / p90 / p99)"],
        rows: rows.collect(),
        notes: Vec::new(),
    }
}

fn lags(lags: &[Lag]) -> Part {
    let row = |lag: &Lag, until: &str, summary: &Summary| {
        vec![
            lag.cloud.to_owned(),
            until.to_owned(),
            span(summary),
            format!("{:.1}", summary.max),
            lag.early.to_string(),
            summary.n.to_string(),
        ]
    };
    Part {
        title: "Closing lag behind the due instant".to_owned(),
        header: vec!["cloud", "until", "ms (p50 / p90 / p99)", "max", "shut early", "n"],
        rows: lags
            .iter()
            .flat_map(|lag| {
                [
                    row(lag, "unreachable", &lag.closed),
                    row(lag, "read back", &lag.confirmed),
                ]
            })
            .collect(),
        notes: Vec::new(),
    }
}

fn calls(calls: &[Calls]) -> Part {
    let mut rows = Vec::new();
    for calls in calls {
        let repeats: u32 = calls.counted.iter().map(|counted| counted.times).sum();
        for counted in &calls.counted {
            let by_operation: Vec<String> = counted
                .by_operation
                .iter()
                .map(|(operation, count)| {
                    if *count == 1 {
                        operation.clone()
                    } else {
                        format!("{count} × {operation}")
                    }
                })
                .collect();
            rows.push(vec![
                calls.machine.to_owned(),
                calls.what.to_owned(),
                counted.total.to_string(),
                by_operation.join(", "),
                format!("{} of {repeats}", counted.times),
            ]);
        }
    }
    Part {
        title: "Cloud calls".to_owned(),
        header: vec!["machine", "what", "calls", "which", "counted"],
        rows,
        notes: Vec::new(),
    }
}

fn masses(mass: &Mass) -> Part {
    let row = |what: &str, value: String| vec![what.to_owned(), value];
    Part {
        title: format!("{} grants that end at once on one NSG", mass.grants),
        header: vec!["", ""],
        rows: vec![
            row("ARM writes to close them", mass.writes.to_string()),
            row("ARM calls of every kind", mass.calls.to_string()),
            row(
                "from the ending to its answer",
                format!("{:.0} ms", mass.answered_within),
            ),
            row(
                "from the ending to the last grant read back as closed",
                format!("{:.0} ms", mass.last_confirmed),
            ),
            row(
                "ARM writes to open them, asked for one by one",
                mass.open_writes.to_string(),
            ),
            row(
                "from the first request to the last grant open",
                format!("{:.0} ms", mass.opened_within),
            ),
        ],
        notes: Vec::new(),
    }
}

fn creations(creating: &Creating) -> Part {
    let row = |what: &str, value: String| vec![what.to_owned(), value];
    let turns = |turns: &[f64]| {
        let each: Vec<String> = turns.iter().map(|rate| format!("{rate:.0}")).collect();
        format!("{:.0} ({})", median(turns), each.join(", "))
    };
    Part {
        title: format!("Creating access requests, {} connections", creating.connections),
        header: vec!["", ""],
        rows: vec![
            row(
                "requests a second, at the median turn (each)",
                turns(&creating.ours),
            ),
            row(
                "transactions a second of pgbench with the same SQL, likewise",
                turns(&creating.pgbench),
            ),
            row("ratio", format!("{:.2}", creating.ratio())),
            row("statements in the transaction", creating.statements.to_string()),
            row("a call takes, ms (p50 / p90 / p99)", span(&creating.call)),
            row(
                "requests in the database at the end",
                creating.requests.to_string(),
            ),
            row(
                "resident memory at the end",
                format!("{:.1} MB", megabytes(creating.memory_after)),
            ),
        ],
        notes: Vec::new(),
    }
}

fn reads(reading: &Reading) -> Part {
    let row = |what: &str, summary: &Summary| {
        vec![
            what.to_owned(),
            span(summary),
            format!("{:.1}", summary.max),
            summary.n.to_string(),
        ]
    };
    let mut rows: Vec<_> = reading
        .reads
        .iter()
        .map(|(kind, summary)| row(&format!("`{kind}`"), summary))
        .collect();
    rows.push(row("all", &reading.all));
    Part {
        title: format!(
            "Reads at {} a second, with {} audit events",
            reading.rate, reading.events
        ),
        header: vec!["what", "ms (p50 / p90 / p99)", "max", "n"],
        rows,
        notes: vec![format!("Refused or failed: {}.", reading.refused)],
    }
}
