//! The tables of the discovery, of the storm and of the grants at rest.

use super::{Part, megabytes};
use crate::measure::{
    discovery::{Discoveries, Round, Rows},
    rest::{Idle, Rest},
    storm::{Cloud, Storm},
};

pub(super) fn storm(storm: &Storm) -> Part {
    let row = |cloud: &str, part: &Cloud| {
        vec![
            cloud.to_owned(),
            format!("{:.1} s ({})", part.bound, part.bound_by),
            format!("{:.1} s", part.last_change),
            format!("{:.1} s", part.last_closed),
            if part.bound > 0.0 {
                format!("{:.2}", part.last_closed / part.bound)
            } else {
                String::new()
            },
            part.calls.to_string(),
            part.by_operation
                .iter()
                .map(|(operation, count)| format!("{count} × {operation}"))
                .collect::<Vec<_>>()
                .join(", "),
        ]
    };
    let bound = storm.azure.bound.max(storm.aws.bound);
    let closed = storm.azure.last_closed.max(storm.aws.last_closed);
    let mut notes = vec![
        format!(
            "All together: {closed:.1} s, {:.2} times what the limits alone take ({bound:.1} s).",
            closed / bound
        ),
        format!(
            "The server's resident memory was {:.1} MB at most. The clouds refused {:.0} calls for their rate.",
            megabytes(storm.peak_memory),
            storm.refusals
        ),
    ];
    if let Some(answer) = &storm.answer {
        notes.push(format!(
            "A client read and asked {} times meanwhile: {} errors, answers after p50 {:.0} ms, p99 {:.0} ms, at most \
             {:.0} ms.",
            storm.asked, storm.answered_with_an_error, answer.p50, answer.p99, answer.max
        ));
    }
    Part {
        title: format!(
            "{} grants on {} points that end in the same second, at the clouds' documented request limits",
            storm.grants, storm.points
        ),
        header: vec![
            "cloud",
            "the limits alone",
            "last change",
            "last grant closed",
            "ratio",
            "calls",
            "which",
        ],
        rows: [
            Some(row("azure", &storm.azure)),
            Some(row("aws", &storm.aws)),
            storm
                .azure_alone
                .as_ref()
                .map(|alone| row("azure, nothing ends in aws", alone)),
        ]
        .into_iter()
        .flatten()
        .collect(),
        notes,
    }
}

pub(super) fn discovery(discovery: &Discoveries) -> Part {
    let written = |rows: &Rows| match rows.inserted + rows.updated {
        0 => "0".to_owned(),
        _ => format!(
            "{} new, {} updated ({} of them in place)",
            rows.inserted, rows.updated, rows.heap_only
        ),
    };
    let row = |round: &Round| {
        let mut row = vec![
            round.what.clone(),
            format!("{:.1} s", round.seconds),
            format!("{:.1} s", round.processor_seconds),
            format!("{:.1} MB", megabytes(round.peak_memory)),
        ];
        row.extend(
            ["machines", "machine_points", "points"]
                .map(|table| round.rows.get(table).map_or_else(String::new, written)),
        );
        row.push(format!(
            "{:.1} MB",
            megabytes(u64::try_from(round.log).unwrap_or_default())
        ));
        row
    };
    let mut notes = vec![format!(
        "Who asked for a port in one of the accounts right after the first was told `open` after {:.0} ms (azure) and \
         {:.0} ms (aws).",
        discovery.asked[0], discovery.asked[1]
    )];
    let calls = discovery.rounds.iter().map(|round| {
        let calls: Vec<String> = round
            .calls
            .iter()
            .map(|(operation, count)| format!("{count} × {operation}"))
            .collect();
        format!(
            "Calls where {}: {}; {:.0} were refused for their rate.",
            round.what,
            calls.join(", "),
            round.refusals
        )
    });
    notes.extend(calls);
    Part {
        title: format!(
            "{} machines discovered, at the clouds' documented request limits",
            discovery.machines
        ),
        header: vec![
            "",
            "start of the process to the end",
            "processor",
            "largest memory",
            "machines",
            "ways to them",
            "points",
            "written to Postgres' log",
        ],
        rows: discovery.rounds.iter().map(row).collect(),
        notes,
    }
}

/// The row of a time in which nobody did anything.
fn idle(when: &str, idle: &Idle) -> Vec<String> {
    vec![
        format!("idle, of one core, {when}: the server, and its Postgres backends"),
        format!("{:.2} %, {:.2} %", idle.server, idle.database),
    ]
}

pub(super) fn rest(rest: &Rest) -> Part {
    let mut rows: Vec<Vec<String>> = rest
        .levels
        .iter()
        .map(|level| {
            vec![
                format!(
                    "one more grant with {} open, until the client is told",
                    level.open
                ),
                format!(
                    "p50 {:.1} ms, p90 {:.1} ms (n = {})",
                    level.one_more.p50, level.one_more.p90, level.one_more.n
                ),
            ]
        })
        .collect();
    rows.extend([
        idle("in the five minutes after the start", &rest.first),
        idle("in the five minutes after these", &rest.then),
        vec![
            "start of the process to ready".to_owned(),
            format!("{:.0} ms", rest.restart),
        ],
        vec![
            "resident memory, and the largest".to_owned(),
            format!(
                "{:.1} MB, {:.1} MB",
                megabytes(rest.memory),
                megabytes(rest.peak_memory)
            ),
        ],
    ]);
    let open = rest.levels.last().map_or(0, |level| level.open);
    Part {
        title: format!("{open} open grants on {} points at rest", rest.points),
        header: vec!["", ""],
        rows,
        notes: Vec::new(),
    }
}
