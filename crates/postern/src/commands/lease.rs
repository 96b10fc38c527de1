//! `postern lease`: runs a command while ports are open for it.

use std::{process::ExitCode, sync::Arc};

use postern_core::net::Ports;
use serde_json::json;
use tokio::process::Command;

use crate::{
    cli::{LeaseArgs, LeaseOptions},
    exit::{Exit, Failure},
    identity::Identity,
    lease::{
        HeldLease, Signals, Stopped,
        child::{self, OnLoss},
        say::Say,
        terms,
    },
};

/// What is added to the exit codes of the other commands, so that they are not taken for the command's own.
const OWN: u8 = 110;

/// Leases, runs, gives back.
pub async fn run(args: LeaseArgs) -> ExitCode {
    let say = Say::of(args.options.remote.json);
    ExitCode::from(match lease(args, say).await {
        Ok(code) => code,
        Err(stopped) => stopped_code(&stopped, say),
    })
}

/// Tells what stopped a leasing command, and gives its exit code.
pub fn stopped_code(stopped: &Stopped, say: Say) -> u8 {
    match stopped {
        Stopped::Ending(ending) => {
            say.say("stopped", &format!("stopped by {ending}"), &json!({}));
            (*ending).into()
        }
        Stopped::Failed(failure) => {
            say.say(
                "error",
                &failure.to_string(),
                &json!({ "problem": failure.problem() }),
            );
            OWN + failure.exit() as u8
        }
    }
}

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

async fn lease(args: LeaseArgs, say: Say) -> Result<u8, Stopped> {
    let mut signals = Signals::listen().map_err(Failure::from)?;
    let (program, arguments) = args
        .command
        .split_first()
        .ok_or_else(|| Failure::new(Exit::Usage, "there is no command to run"))?;
    let port = first_port(&args.ports)?;
    let held = open(
        &args.machines,
        &args.ports,
        &args.options,
        program,
        say,
        &mut signals,
    )
    .await?;
    let mut command = Command::new(program);
    command.args(arguments);
    match environment(&held, port, &args.options) {
        Ok(variables) => command.envs(variables),
        Err(failure) => {
            held.release().await;
            return Err(failure.into());
        }
    };
    let on_loss = if args.keep_running {
        OnLoss::KeepRunning
    } else {
        OnLoss::End
    };
    Ok(child::run(command, held, on_loss, say, &mut signals).await)
}

/// A lease on the machines that are named, open.
pub async fn open(
    named: &[String],
    ports: &[String],
    options: &LeaseOptions,
    purpose: &str,
    say: Say,
    signals: &mut Signals,
) -> Result<HeldLease, Stopped> {
    let identity = Arc::new(Identity::new(&options.remote, &options.audience)?);
    let client = identity.client().await?;
    let create = terms::create(&client, named, ports, options, purpose).await?;
    HeldLease::open(identity, &create, options.timeout, say, signals).await
}

fn first_port(ports: &[String]) -> Result<u16, Failure> {
    let first: Ports = ports
        .first()
        .map_or("", String::as_str)
        .parse()
        .map_err(|error: postern_core::net::InvalidPorts| Failure::new(Exit::Usage, error.to_string()))?;
    Ok(first.first())
}

/// What the command finds in its environment.
fn environment(
    held: &HeldLease,
    port: u16,
    options: &LeaseOptions,
) -> Result<Vec<(&'static str, String)>, Failure> {
    let lease = held.lease();
    let first = terms::only(lease)?;
    let reach = terms::reach(lease, first, port, options)?;
    let hosts: Vec<String> = lease
        .machines
        .iter()
        .filter_map(|machine| terms::reach(lease, machine, port, options).ok())
        .map(|reach| reach.host)
        .collect();
    Ok(vec![
        ("POSTERN_HOST", reach.host),
        ("POSTERN_PORT", reach.port.to_string()),
        ("POSTERN_HOSTS", hosts.join(" ")),
        ("POSTERN_MACHINE", first.machine.clone()),
        ("POSTERN_LEASE", lease.id.clone()),
    ])
}
