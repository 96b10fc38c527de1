//! `postern ssh`, `postern connect` and `postern ssh-config`: to a machine through a lease.

use std::{
    io::{Read, Write as _},
    net::Shutdown,
    process::ExitCode,
    time::Duration,
};

use postern_core::machine::MachineId;
use serde_json::json;
use tokio::{net::TcpStream, process::Command, sync::oneshot, time::Instant};

use super::{
    lease::{open, stopped_code},
    machines,
};
use crate::{
    cli::{ConnectArgs, SshArgs, SshConfigArgs},
    connect,
    exit::{Exit, Failure},
    lease::{
        Signals, Stopped,
        child::{self, LOST, OnLoss},
        say::Say,
        terms::{self, Reach},
    },
    output,
};

/// How long an open port may take until it takes a connection: a cloud may need a moment to enforce its rules.
const REACHED_WITHIN: Duration = Duration::from_secs(30);
/// The longest that one connection may take to be made.
const ATTEMPT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(300);

/// Leases, runs ssh, gives back.
pub async fn run(args: SshArgs) -> ExitCode {
    let say = Say::of(args.options.remote.json);
    ExitCode::from(match ssh(args, say).await {
        Ok(code) => code,
        Err(stopped) => stopped_code(&stopped, say),
    })
}

async fn ssh(args: SshArgs, say: Say) -> Result<u8, Stopped> {
    let mut signals = Signals::listen().map_err(Failure::from)?;
    let (user, machine) = match args.machine.split_once('@') {
        Some((user, machine)) => (Some(user), machine),
        None => (None, args.machine.as_str()),
    };
    let ports = [format!("{}/tcp", args.port)];
    let named = [machine.to_owned()];
    let held = open(&named, &ports, &args.options, "ssh", say, &mut signals).await?;
    let line = terms::only(held.lease()).and_then(|only| {
        Ok((
            terms::reach(held.lease(), only, args.port, &args.options)?,
            alias(&only.machine)?,
        ))
    });
    let (reach, alias) = match line {
        Ok(line) => line,
        Err(failure) => {
            held.release().await;
            return Err(failure.into());
        }
    };
    let mut command = Command::new("ssh");
    command.args(ssh_arguments(user, &reach, &alias, &args.arguments));
    Ok(child::run(command, held, OnLoss::End, say, &mut signals).await)
}

/// ssh takes options after the host as well, and the first word that is none begins the command.
fn ssh_arguments(user: Option<&str>, reach: &Reach, alias: &str, further: &[String]) -> Vec<String> {
    let mut arguments = vec![
        "-p".to_owned(),
        reach.port.to_string(),
        "-o".to_owned(),
        format!("HostKeyAlias={alias}"),
    ];
    if let Some(user) = user {
        arguments.extend(["-l".to_owned(), user.to_owned()]);
    }
    arguments.push(reach.host.clone());
    arguments.extend_from_slice(further);
    arguments
}

/// The name that a machine's host key is known by: its own, whatever address it has today.
fn alias(machine: &str) -> Result<String, Failure> {
    let id: MachineId = machine
        .parse()
        .map_err(|error: postern_core::machine::InvalidMachineId| {
            Failure::new(Exit::Failure, error.to_string())
        })?;
    Ok(id.scope().to_string().trim_start_matches('/').to_owned())
}

/// Leases, passes standard input and output to the port, gives back.
pub async fn connect(args: ConnectArgs) -> ExitCode {
    let say = if args.options.remote.json {
        Say::Programs
    } else {
        Say::Quiet
    };
    ExitCode::from(match pipe(args, say).await {
        Ok(code) => code,
        Err(stopped) => stopped_code(&stopped, say),
    })
}

async fn pipe(args: ConnectArgs, say: Say) -> Result<u8, Stopped> {
    let mut signals = Signals::listen().map_err(Failure::from)?;
    let ports = [format!("{}/tcp", args.port)];
    let named = [args.machine.clone()];
    let held = open(&named, &ports, &args.options, "connect", say, &mut signals).await?;
    let mut heartbeat = held.keep();
    let passing = async {
        let reach = terms::reach(held.lease(), terms::only(held.lease())?, args.port, &args.options)?;
        pass(reached(&reach).await?).await.map_err(|error| {
            Failure::new(
                Exit::Failure,
                format!(
                    "the connection to {} port {} broke: {error}",
                    reach.host, reach.port
                ),
            )
        })
    };
    let ended = tokio::select! {
        passed = passing => passed.map(|()| 0).map_err(Stopped::Failed),
        ending = signals.next() => Err(Stopped::Ending(ending)),
        why = heartbeat.lost() => {
            say.say("lost", &format!("the lease is lost: {why}"), &json!({ "why": why }));
            Ok(LOST)
        }
    };
    drop(heartbeat);
    held.release().await;
    ended
}

/// A connection to a port that is open by now.
async fn reached(reach: &Reach) -> Result<TcpStream, Failure> {
    let deadline = Instant::now() + REACHED_WITHIN;
    loop {
        let attempt = TcpStream::connect((reach.host.as_str(), reach.port));
        let error = match tokio::time::timeout(ATTEMPT, attempt).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", ATTEMPT.as_secs()),
        };
        if Instant::now() >= deadline {
            return Err(Failure::new(
                Exit::TimedOut,
                format!(
                    "the port is open, but {} port {} is not reached: {error}",
                    reach.host, reach.port
                ),
            ));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Passes both ways until the other side ends. The end of standard input is passed on, and what is still to come is
/// waited for.
///
/// On threads: reading standard input cannot be called off, and ends with the process.
async fn pass(stream: TcpStream) -> std::io::Result<()> {
    // Somebody types.
    stream.set_nodelay(true)?;
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    let mut to = stream.try_clone()?;
    let mut from = stream;
    let (done, ended) = oneshot::channel();
    std::thread::spawn(move || {
        // Whoever sends to a connection that is gone learns it from the other direction.
        let _sent = std::io::copy(&mut std::io::stdin().lock(), &mut to);
        let _gone = to.shutdown(Shutdown::Write);
    });
    std::thread::spawn(move || {
        // Nobody listens any more when the lease was lost meanwhile.
        let _unheard = done.send(receive(&mut from));
    });
    ended
        .await
        .unwrap_or_else(|_| Err(std::io::Error::other("the connection was given up")))
}

/// Passes on what comes, at once.
fn receive(from: &mut impl Read) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        out.write_all(buffer.get(..read).unwrap_or_default())?;
        out.flush()?;
    }
}

/// Prints sections for `ssh_config`.
pub async fn config(args: SshConfigArgs) -> Result<(), Failure> {
    let client = connect::client(&args.remote)?;
    let mut sections = Vec::new();
    for machine in &args.machines {
        let id = machines::resolve(&client, machine).await?;
        sections.push((machine.clone(), alias(&id)?, proxy_command(&id, &args)));
    }
    if args.remote.json {
        let sections: Vec<_> = sections
            .into_iter()
            .map(|(host, alias, command)| json!({ "host": host, "host_key_alias": alias, "proxy_command": command }))
            .collect();
        return Ok(output::json(&sections)?);
    }
    for (host, alias, command) in sections {
        output::line(&format!(
            "Host {host}\n    HostKeyAlias {alias}\n    ProxyCommand {command}"
        ))?;
    }
    Ok(())
}

/// The line that ssh has a shell execute.
fn proxy_command(id: &str, args: &SshConfigArgs) -> String {
    let mut words = vec!["postern".to_owned(), "connect".to_owned(), quoted(id)];
    words.extend(["--port".to_owned(), "%p".to_owned()]);
    for source in &args.sources {
        words.extend(["--source".to_owned(), quoted(source)]);
    }
    if let Some(server) = &args.remote.server {
        words.extend(["--server".to_owned(), quoted(server)]);
    }
    if let Some(file) = &args.remote.token_file {
        words.extend(["--token-file".to_owned(), quoted(&file.to_string_lossy())]);
    }
    words.join(" ")
}

/// As one word for the shell, after ssh replaced its own `%` in it.
fn quoted(text: &str) -> String {
    let text = text.replace('%', "%%");
    let plain = |c: char| c.is_ascii_alphanumeric() || "/:.-_@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: &str = "arn:aws:ec2:eu-west-1:123456789012:instance/i-0123456789abcdef0";

    #[test]
    fn ssh_gets_the_address_the_mapped_port_and_a_name_for_the_host_key_that_stays() {
        let reach = Reach {
            host: "198.51.100.7".to_owned(),
            port: 50022,
        };
        let further = ["-v".to_owned(), "uptime".to_owned()];
        let arguments = ssh_arguments(Some("ubuntu"), &reach, &alias(MACHINE).unwrap(), &further);
        assert_eq!(
            arguments.join(" "),
            "-p 50022 -o HostKeyAlias=aws/123456789012/eu-west-1/i-0123456789abcdef0 -l ubuntu 198.51.100.7 -v uptime"
        );
    }

    #[test]
    fn nothing_in_a_line_of_ssh_config_is_more_than_a_word() {
        assert_eq!(quoted(MACHINE), MACHINE);
        assert_eq!(quoted("a b'; rm -rf ~"), "'a b'\\''; rm -rf ~'");
        assert_eq!(quoted("50%h"), "50%%h");
        assert_eq!(quoted(""), "''");
    }
}
