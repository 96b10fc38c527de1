//! What the leasing commands say themselves: on standard error, because standard output is the command's.

use serde_json::{Value, json};

use crate::output;

/// How to say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Say {
    /// Lines for people.
    People,
    /// A JSON object per line: `event`, `message`, and what it is about.
    Programs,
    /// Nothing but what went wrong: standard error belongs to somebody else's terminal.
    Quiet,
}

/// Events that tell of something that went wrong.
const LOUD: [&str; 4] = ["error", "lost", "unheard", "unreleased"];

impl Say {
    /// As `--json` says.
    pub const fn of(json: bool) -> Self {
        if json { Self::Programs } else { Self::People }
    }

    /// Says it. Nobody is left to tell when standard error is closed.
    pub fn say(self, event: &str, message: &str, about: &Value) {
        if let Some(line) = self.line(event, message, about) {
            let _closed = match self {
                Self::Programs => output::note_for_programs(&line),
                Self::People | Self::Quiet => output::note(&line),
            };
        }
    }

    fn line(self, event: &str, message: &str, about: &Value) -> Option<String> {
        match self {
            Self::People => Some(for_people(message)),
            Self::Quiet => LOUD.contains(&event).then(|| for_people(message)),
            Self::Programs => Some(json!({ "event": event, "message": message, "about": about }).to_string()),
        }
    }
}

/// One line: a line break in what an approver or a cloud says must not begin one of its own, which a pipeline's runner may
/// take for a command to itself. Source: GitHub, "Workflow commands for GitHub Actions", on lines that begin with `::`.
fn for_people(message: &str) -> String {
    format!("postern: {}", message.replace(['\n', '\r'], " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_get_a_line_of_json_and_who_is_quiet_tells_only_of_trouble() {
        let line = Say::Programs
            .line("open", "open:\nweb", &json!({ "id": 1 }))
            .unwrap();
        assert!(!line.contains('\n'));
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (&value["event"], &value["about"]["id"]),
            (&json!("open"), &json!(1))
        );
        assert_eq!(Say::Quiet.line("open", "x", &Value::Null), None);
        assert_eq!(Say::Quiet.line("lost", "x", &Value::Null).unwrap(), "postern: x");
    }

    #[test]
    fn what_others_say_gives_no_command_to_a_pipelines_runner() {
        let reason = "turned down: no\n::set-output name=host::198.51.100.9\r\n::stop-commands::x";
        for say in [Say::People, Say::Quiet, Say::Programs] {
            let line = say.line("error", reason, &json!({ "reason": reason })).unwrap();
            assert!(!line.contains(['\n', '\r']) && !line.starts_with("::"), "{line}");
        }
    }
}
