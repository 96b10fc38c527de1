//! What commands print: tables for people, JSON for scripts, progress on a terminal only.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use chrono::{DateTime, SecondsFormat, Utc};
use comfy_table::{Table, presets::NOTHING};
use indicatif::{ProgressBar, ProgressStyle};
use postern_core::text::written_out;
use serde::Serialize;

/// Writes text for people to standard output. Tags, names and reasons in it are others' words: what a terminal would act
/// upon is written out.
pub fn line(text: &str) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{}", written_out(text))
}

/// Writes one line for people to standard error, so that output stays clean for scripts.
pub fn note(text: &str) -> io::Result<()> {
    writeln!(io::stderr().lock(), "{}", written_out(text))
}

/// Writes one line for programs to standard error, as it is.
pub fn note_for_programs(text: &str) -> io::Result<()> {
    writeln!(io::stderr().lock(), "{text}")
}

/// Writes a document as indented JSON.
pub fn json(value: &(impl Serialize + ?Sized)) -> io::Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
    writeln!(io::stdout().lock(), "{text}")
}

/// Writes a document as one line of JSON.
pub fn json_line(value: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_string(value).map_err(io::Error::other)?;
    writeln!(io::stdout().lock(), "{text}")
}

/// Writes what a command found or made: JSON where that is asked for, else as `told` to people.
pub fn shown<T: Serialize + ?Sized>(
    as_json: bool,
    found: &T,
    told: impl FnOnce(&T) -> String,
) -> io::Result<()> {
    if as_json { json(found) } else { line(&told(found)) }
}

/// A table with a header line and no frame, which is as easily read as cut.
pub fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(header);
    for row in rows {
        // One line each: a line break in somebody's words must not pose as a further row.
        table.add_row(row.map(|cell| written_out(&cell.replace(['\n', '\t'], " "))));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// Two columns, a name and a value, for one thing.
pub fn fields(rows: impl IntoIterator<Item = (&'static str, String)>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    for (name, value) in rows {
        table.add_row([name.to_owned(), written_out(&value)]);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// The most characters of a reason in a table.
const REASON: usize = 60;

/// A reason as a table has it: its first line, and no more of it than leaves room for the other columns, unless
/// `wide`.
pub fn reason(text: &str, wide: bool) -> String {
    if wide {
        return text.to_owned();
    }
    let first = text.lines().next().unwrap_or_default();
    let short: String = first.chars().take(REASON).collect();
    if short == text {
        short
    } else {
        format!("{}…", short.trim_end())
    }
}

/// An instant in whole seconds, UTC.
pub fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// An instant, or a dash.
pub fn instant_or_dash(at: Option<DateTime<Utc>>) -> String {
    at.map_or_else(|| "-".to_owned(), instant)
}

/// Seconds as `1h 30m`.
pub fn seconds(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

/// Something that takes a while. Shown only when standard error is a terminal.
#[derive(Debug)]
pub struct Progress(Option<ProgressBar>);

impl Progress {
    /// Starts to show `message`.
    pub fn start(message: impl Into<String>) -> Self {
        if !io::stderr().is_terminal() {
            return Self(None);
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        bar.set_message(message.into());
        Self(Some(bar))
    }

    /// Shows something else.
    pub fn say(&self, message: impl Into<String>) {
        if let Some(bar) = &self.0 {
            bar.set_message(message.into());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_leaves_room_for_the_other_columns_unless_it_is_wanted_whole() {
        let long = "allowed by `everybody`, ".repeat(9);
        let shown = reason(&long, false);
        assert!(
            shown.chars().count() <= REASON + 1 && shown.ends_with('…'),
            "{shown}"
        );
        assert_eq!(reason("disk full\nand slow", false), "disk full…");
        for text in ["disk full", "-", ""] {
            assert_eq!(reason(text, false), text);
        }
        assert_eq!(reason(&long, true), long);
    }

    #[test]
    fn what_others_wrote_moves_no_cursor_and_poses_as_no_row() {
        let tag = "web\u{1b}[2J\u{9b}1A".to_owned();
        let turned = "a\u{202e}b\nreq_1  approved".to_owned();
        let shown = table(["NAME", "REASON"], [[tag.clone(), turned.clone()]]);
        assert_eq!(shown.lines().count(), 2, "{shown}");
        assert!(shown.contains("web\\u{1b}[2J\\u{9b}1A"), "{shown}");
        assert!(shown.contains("a\\u{202e}b req_1"), "{shown}");
        let shown = fields([("Reason", turned), ("Name", tag)]);
        let first: Vec<char> = shown.lines().filter_map(|line| line.chars().next()).collect();
        assert_eq!(first, ['R', ' ', 'N'], "{shown}");
        assert!(!shown.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{shown}");
    }

    #[test]
    fn a_table_has_a_header_and_no_trailing_blanks() {
        let shown = table(["ID", "STATUS"], [["grt_1".to_owned(), "open".to_owned()]]);
        assert_eq!(shown, "ID     STATUS\ngrt_1  open");
    }
}
