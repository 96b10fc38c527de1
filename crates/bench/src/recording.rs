//! The SQL of one call, as Postgres logged it.
//!
//! What is compared with pgbench is what the server really sends, not what somebody remembers that it sends.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::{Context as _, bail};
use sqlx::{Connection as _, PgConnection};

/// A statement that the server executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Statement {
    /// With `$1`, `$2`, … where the parameters go.
    pub(crate) sql: String,
    /// Their text forms; none is NULL.
    pub(crate) parameters: Vec<Option<String>>,
}

/// What begins the log lines of this bench, before the process id.
const PREFIX: &str = "bench[";

/// What Postgres is told to log while a recording is made.
const SETTINGS: [(&str, &str); 3] = [
    ("log_statement", "all"),
    ("log_line_prefix", "bench[%p] "),
    ("log_parameter_max_length", "-1"),
];

/// Every transaction that was committed on the Postgres at `url`, whose log is `log`, while `during` ran.
pub(crate) async fn record(
    url: &str,
    log: &Path,
    during: impl AsyncFnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Vec<Vec<Statement>>> {
    let mut connection = PgConnection::connect(url)
        .await
        .context("the database does not answer")?;
    for (name, value) in SETTINGS {
        sqlx::query(sqlx::AssertSqlSafe(format!(
            "ALTER SYSTEM SET {name} = '{value}'"
        )))
        .execute(&mut connection)
        .await?;
    }
    reload(&mut connection).await?;
    let begins = fs::metadata(log).context("Postgres writes a log")?.len();
    let outcome = during().await;
    for (name, _) in SETTINGS {
        sqlx::query(sqlx::AssertSqlSafe(format!("ALTER SYSTEM RESET {name}")))
            .execute(&mut connection)
            .await?;
    }
    reload(&mut connection).await?;
    connection.close().await?;
    outcome?;
    let text = fs::read(log)?;
    let text = text.get(usize::try_from(begins)?..).unwrap_or_default();
    transactions(&String::from_utf8_lossy(text))
}

/// Makes the settings known to every session, which look between two statements.
async fn reload(connection: &mut PgConnection) -> anyhow::Result<()> {
    sqlx::query("SELECT pg_reload_conf()").execute(connection).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    Ok(())
}

/// The committed transactions of a log, in the order of their commits.
fn transactions(log: &str) -> anyhow::Result<Vec<Vec<Statement>>> {
    let mut begun: BTreeMap<&str, Vec<Statement>> = BTreeMap::new();
    let mut committed = Vec::new();
    let entries = entries(log);
    for entry in &entries {
        let Some((process, message)) = entry.strip_prefix(PREFIX).and_then(|rest| rest.split_once("] "))
        else {
            continue;
        };
        if let Some(sql) = message.strip_prefix("LOG:  statement: ").or_else(|| {
            message
                .strip_prefix("LOG:  execute ")
                .and_then(|rest| rest.split_once(": "))
                .map(|(_, sql)| sql)
        }) {
            let word = sql.split_whitespace().next().unwrap_or_default().to_uppercase();
            match word.trim_end_matches(';') {
                "BEGIN" | "START" => {
                    begun.insert(process, Vec::new());
                }
                "COMMIT" => committed.extend(begun.remove(process)),
                "ROLLBACK" => {
                    begun.remove(process);
                }
                _ => {
                    if let Some(statements) = begun.get_mut(process) {
                        statements.push(Statement {
                            sql: sql.to_owned(),
                            parameters: Vec::new(),
                        });
                    }
                }
            }
        } else if let Some(text) = message
            .strip_prefix("DETAIL:  parameters: ")
            .or_else(|| message.strip_prefix("DETAIL:  Parameters: "))
            && let Some(statement) = begun
                .get_mut(process)
                .and_then(|statements| statements.last_mut())
        {
            statement.parameters = parameters(text)?;
        }
    }
    Ok(committed)
}

/// The entries of a log: a line that begins with a tab goes on with the one before.
fn entries(log: &str) -> Vec<String> {
    let mut entries: Vec<String> = Vec::new();
    for line in log.lines() {
        match (line.strip_prefix('\t'), entries.last_mut()) {
            (Some(more), Some(entry)) => {
                entry.push('\n');
                entry.push_str(more);
            }
            _ => entries.push(line.to_owned()),
        }
    }
    entries
}

/// Reads `$1 = 'a', $2 = NULL`.
fn parameters(text: &str) -> anyhow::Result<Vec<Option<String>>> {
    let mut parameters = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.strip_prefix('$') {
        let (_, value) = at.split_once(" = ").context("a parameter has a value")?;
        if let Some(after) = value.strip_prefix("NULL") {
            parameters.push(None);
            rest = after;
        } else {
            let mut text = String::new();
            let mut inside = value.strip_prefix('\'').context("a value is quoted")?;
            loop {
                let Some((piece, after)) = inside.split_once('\'') else {
                    bail!("a value ends with a quote: {text}");
                };
                text.push_str(piece);
                let Some(more) = after.strip_prefix('\'') else {
                    rest = after;
                    break;
                };
                text.push('\'');
                inside = more;
            }
            parameters.push(Some(text));
        }
        rest = rest.strip_prefix(", ").unwrap_or(rest);
    }
    Ok(parameters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_committed_transaction_is_read_with_its_parameters_and_others_are_told_apart_from_it() {
        let log = "bench[7] LOG:  statement: BEGIN\n\
                   bench[8] LOG:  execute sqlx_s_9: SELECT 1\n\
                   bench[7] LOG:  execute sqlx_s_1: INSERT INTO t\n\
                   \t VALUES ($1, $2, $3)\n\
                   bench[7] DETAIL:  parameters: $1 = 'it''s, $2 = ''x''', $2 = NULL, $3 = 'two\n\
                   \tlines'\n\
                   bench[9] LOG:  statement: BEGIN\n\
                   bench[9] LOG:  statement: ROLLBACK\n\
                   bench[7] LOG:  statement: COMMIT\n";
        let expected = vec![vec![Statement {
            sql: "INSERT INTO t\n VALUES ($1, $2, $3)".to_owned(),
            parameters: vec![
                Some("it's, $2 = 'x'".to_owned()),
                None,
                Some("two\nlines".to_owned()),
            ],
        }]];
        assert_eq!(transactions(log).unwrap(), expected);
    }

    #[test]
    fn a_value_without_an_end_is_refused() {
        assert!(parameters("$1 = 'a").is_err());
    }
}
