//! The command that runs while its lease is kept: its signals, its end, and what becomes of it when the lease is lost.

use std::{fs::File, io::IsTerminal as _, process::ExitStatus, time::Duration};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::json;
use tokio::process::{Child, Command};

use super::{Ending, Heartbeat, HeldLease, Signals, say::Say};

/// How long a command may take to end after it was told to, when its lease is lost.
const GRACE: Duration = Duration::from_secs(10);
/// The exit code when the lease was lost while the command ran.
pub const LOST: u8 = 117;
/// The exit codes of a command that could not be started, as shells have them.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// What becomes of the command when the lease is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnLoss {
    /// It is told to end, and killed after a while.
    End,
    /// It runs on.
    KeepRunning,
}

/// Runs the command while the lease is kept, and gives the lease back; the exit code is the command's.
pub async fn run(
    mut command: Command,
    held: HeldLease,
    on_loss: OnLoss,
    say: Say,
    signals: &mut Signals,
) -> u8 {
    let mut heartbeat = held.keep();
    // Where a terminal is at hand, the command may read it, which only those in its foreground do.
    let grouped = File::open("/dev/tty").is_err();
    if grouped {
        command.process_group(0);
    }
    let code = match command.spawn() {
        Ok(child) => {
            let addressee = Addressee::of(&child, grouped);
            attend(child, addressee, &mut heartbeat, on_loss, say, signals).await
        }
        Err(error) => {
            let name = command.as_std().get_program().to_string_lossy().into_owned();
            say.say(
                "error",
                &format!("`{name}` cannot be run: {error}"),
                &json!({ "program": name }),
            );
            if error.kind() == std::io::ErrorKind::NotFound {
                NOT_FOUND
            } else {
                NOT_EXECUTABLE
            }
        }
    };
    drop(heartbeat);
    held.release().await;
    code
}

/// Who gets the signals.
#[derive(Debug, Clone, Copy)]
enum Addressee {
    /// The command alone.
    Command(Pid),
    /// The command and what it started: a shell that ends by a signal would leave them behind.
    Group(Pid),
    /// It has ended.
    Nobody,
}

impl Addressee {
    fn of(child: &Child, grouped: bool) -> Self {
        let pid = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        match pid {
            Some(pid) if grouped => Self::Group(pid),
            Some(pid) => Self::Command(pid),
            None => Self::Nobody,
        }
    }

    /// Fails only when it has ended; it is not waited for before the next turn, so the id is still its own.
    fn send(self, signal: Signal) {
        let _ended = match self {
            Self::Command(pid) => kill_process(pid, signal),
            Self::Group(pid) => kill_process_group(pid, signal),
            Self::Nobody => Ok(()),
        };
    }
}

async fn attend(
    mut child: Child,
    addressee: Addressee,
    heartbeat: &mut Heartbeat,
    on_loss: OnLoss,
    say: Say,
    signals: &mut Signals,
) -> u8 {
    // A terminal sends its SIGINT to the command as well, which is in its foreground then.
    let on_terminal = matches!(addressee, Addressee::Command(_)) && std::io::stdin().is_terminal();
    let mut lost = false;
    let mut told_to_end = false;
    let grace = tokio::time::sleep(Duration::ZERO);
    tokio::pin!(grace);
    loop {
        tokio::select! {
            ended = child.wait() => {
                return match ended {
                    Ok(_) if told_to_end => LOST,
                    Ok(status) => code_of(status),
                    Err(error) => {
                        say.say("error", &format!("the command is lost: {error}"), &json!({}));
                        1
                    }
                };
            }
            ending = signals.next() => {
                if !(on_terminal && ending == Ending::Interrupt) {
                    addressee.send(signal_of(ending));
                }
            }
            why = heartbeat.lost(), if !lost => {
                lost = true;
                let message = format!("the lease is lost, and its ports are closing: {why}");
                say.say("lost", &message, &json!({ "why": why }));
                if on_loss == OnLoss::End {
                    told_to_end = true;
                    addressee.send(Signal::TERM);
                    grace.as_mut().reset(tokio::time::Instant::now() + GRACE);
                }
            }
            () = &mut grace, if told_to_end => {
                addressee.send(Signal::KILL);
                grace.as_mut().reset(tokio::time::Instant::now() + GRACE);
            }
        }
    }
}

const fn signal_of(ending: Ending) -> Signal {
    match ending {
        Ending::Interrupt => Signal::INT,
        Ending::Terminate => Signal::TERM,
        Ending::HangUp => Signal::HUP,
    }
}

/// As shells have it: 128 and the signal's number for a command that a signal ended.
fn code_of(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt as _;
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn the_exit_code_is_the_commands_own() {
        assert_eq!(code_of(ExitStatus::from_raw(0)), 0);
        assert_eq!(code_of(ExitStatus::from_raw(42 << 8)), 42);
        assert_eq!(code_of(ExitStatus::from_raw(9)), 137);
    }
}
