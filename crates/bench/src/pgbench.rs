//! A recorded transaction, replayed by Postgres' own load generator.

use std::{collections::BTreeSet, fmt::Write as _, path::Path, process::Command};

use anyhow::{Context as _, ensure};

use crate::recording::Statement;

/// The identifiers that one replay may make up: the distance between the numbers of two.
const IDS: usize = 256;

/// A pgbench script that does what `transaction` did, with identifiers of its own where `earlier`, the same call made
/// before, had others.
///
/// An identifier that both have names something that exists, such as a policy; one that only the later has was made
/// up for it, and would be a duplicate when it is replayed.
pub(crate) fn script(transaction: &[Statement], earlier: &[Statement]) -> anyhow::Result<String> {
    let known: BTreeSet<&str> = uuids(earlier).collect();
    let mut made: Vec<&str> = Vec::new();
    for id in uuids(transaction) {
        if !known.contains(id) && !made.contains(&id) {
            made.push(id);
        }
    }
    ensure!(!made.is_empty(), "a creation makes up identifiers");
    ensure!(made.len() < IDS, "a replay makes up fewer than {IDS} identifiers");
    // Numbered per client and call, and in order as the server's are.
    let mut script = format!("\\set i :i + 1\n\\set n (:client_id * 4294967296 + :i) * {IDS}\nBEGIN;\n");
    for statement in transaction {
        let _infallible = writeln!(script, "{};", inlined(statement, &made)?);
    }
    script.push_str("COMMIT;\n");
    Ok(script)
}

/// The statement with its parameters in their places.
fn inlined(statement: &Statement, made: &[&str]) -> anyhow::Result<String> {
    let mut text = String::new();
    let mut pieces = statement.sql.split('$');
    text.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        let digits = piece.len() - piece.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, rest) = piece.split_at(digits);
        let number: usize = number
            .parse()
            .with_context(|| format!("`${piece}` is no parameter"))?;
        let value = statement
            .parameters
            .get(number.wrapping_sub(1))
            .with_context(|| format!("parameter {number} has a value"))?;
        match value {
            None => text.push_str("NULL"),
            Some(value) => text.push_str(&literal(value, made)),
        }
        text.push_str(rest);
    }
    Ok(text)
}

/// A value as SQL: an identifier, or a text, an array or a JSON document that may hold some.
fn literal(value: &str, made: &[&str]) -> String {
    let (mut parts, mut known, mut rest) = (Vec::new(), String::new(), value);
    while let Some((before, id, after)) = next_uuid(rest) {
        rest = after;
        known.push_str(before);
        let Some(at) = made.iter().position(|made| *made == id) else {
            known.push_str(id);
            continue;
        };
        let fresh = format!("lpad(to_hex(:n::bigint + {at}), 32, '0')::uuid");
        if id == value {
            return fresh;
        }
        parts.push(quoted(&std::mem::take(&mut known)));
        parts.push(format!("{fresh}::text"));
    }
    if parts.is_empty() {
        return quoted(value);
    }
    parts.push(quoted(&(known + rest)));
    // What is put together has a type, which a mere literal has not.
    let kind = if serde_json::from_str::<serde_json::Value>(value).is_ok() {
        "jsonb"
    } else if let Some(items) = value.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        if items.split(',').all(is_uuid) {
            "uuid[]"
        } else {
            "text[]"
        }
    } else {
        "text"
    };
    format!("({})::{kind}", parts.join(" || "))
}

/// A literal in which pgbench sees no variable: it looks for `:name` inside of literals, too.
fn quoted(value: &str) -> String {
    let value = value
        .replace('\\', "\\\\")
        .replace('\'', "''")
        .replace(':', "\\x3a")
        .replace('\n', "\\n");
    format!("E'{value}'")
}

fn uuids(statements: &[Statement]) -> impl Iterator<Item = &str> {
    statements
        .iter()
        .flat_map(|statement| statement.parameters.iter().flatten())
        .flat_map(|value| {
            let mut rest = value.as_str();
            std::iter::from_fn(move || {
                let (_, id, after) = next_uuid(rest)?;
                rest = after;
                Some(id)
            })
        })
}

/// The first identifier of a text, with what is before and after it.
fn next_uuid(text: &str) -> Option<(&str, &str, &str)> {
    (0..text.len()).find_map(|at| {
        let (before, from) = text.split_at_checked(at)?;
        let (id, after) = from.split_at_checked(36)?;
        is_uuid(id).then_some((before, id, after))
    })
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.char_indices().all(|(at, c)| {
            if matches!(at, 8 | 13 | 18 | 23) {
                c == '-'
            } else {
                c.is_ascii_hexdigit()
            }
        })
}

/// Transactions a second that pgbench reaches with a script, in its run number `run`. Blocks for `seconds`.
pub(crate) fn run(script: &Path, url: &str, connections: u32, seconds: u64, run: u64) -> anyhow::Result<f64> {
    let output = Command::new("pgbench")
        .args(["--no-vacuum", "--protocol=prepared", "--jobs=2"])
        // Each run numbers its identifiers from where no other does.
        .arg(format!("--define=i={}", run << 24))
        .arg(format!("--client={connections}"))
        .arg(format!("--time={seconds}"))
        .arg("--file")
        .arg(script)
        .arg(url)
        .output()
        .context("`pgbench` cannot be run: it comes with Postgres (`apt-get install postgresql-contrib`)")?;
    let (text, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(
        output.status.success() && !errors.contains("aborted"),
        "pgbench failed with {}: {errors}",
        output.status
    );
    text.lines()
        .find_map(|line| {
            line.strip_prefix("tps = ")?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .with_context(|| format!("pgbench says how many transactions it made: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "00000000-0000-7000-8000-000000000001";
    const FIRST: &str = "00000000-0000-7000-8000-0000000000aa";
    const SECOND: &str = "00000000-0000-7000-8000-0000000000bb";

    fn statement(id: &str) -> Statement {
        Statement {
            sql: "INSERT INTO t VALUES ($1, $2, $3, $4, $5::text, $6)".to_owned(),
            parameters: vec![
                Some(id.to_owned()),
                Some(format!("{{{OLD},{id}}}")),
                Some(format!("{{user:{id}}}")),
                None,
                Some(r#"{"a":true, "it's": "\"}"#.to_owned()),
                Some(format!(r#"[{{"id":"{id}"}}]"#)),
            ],
        }
    }

    #[test]
    fn a_made_up_identifier_is_made_up_anew_and_everything_else_is_as_it_was() {
        let script = script(&[statement(SECOND)], &[statement(FIRST)]).unwrap();
        let id = "lpad(to_hex(:n::bigint + 0), 32, '0')::uuid";
        let expected = format!(
            "INSERT INTO t VALUES ({id}, (E'{{{OLD},' || {id}::text || E'}}')::uuid[], (E'{{user\\x3a' || {id}::text || E'}}')::text[], NULL, \
             E'{{\"a\"\\x3atrue, \"it''s\"\\x3a \"\\\\\"}}'::text, \
             (E'[{{\"id\"\\x3a\"' || {id}::text || E'\"}}]')::jsonb);\n"
        );
        assert!(script.contains(&expected), "{script}");
    }

    #[test]
    fn a_replay_that_makes_nothing_up_is_refused() {
        assert!(script(&[statement(FIRST)], &[statement(FIRST)]).is_err());
    }
}
