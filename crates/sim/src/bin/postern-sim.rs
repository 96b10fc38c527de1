//! Runs the simulators by themselves, for clients in other processes.
//!
//! `postern-sim [--arm-port N] [--ec2-port N] [--operation-ms N] [--page-size N]`: starts the simulators whose
//! port is named (both where none is; 0 is any free port), prints `{"ec2": url, "arm": url}` on one line and
//! runs until Ctrl-C. `--operation-ms` is how long an ARM operation takes, `--page-size` how many items an ARM
//! list shows at once.

use std::process::ExitCode;
use std::time::Duration;

use postern_sim::arm::{ArmHandle, ArmOptions, ArmSim};
use postern_sim::ec2::{Ec2Handle, Ec2Options, Ec2Sim};
use serde_json::json;

#[derive(Debug, Default)]
struct Arguments {
    arm_port: Option<u16>,
    ec2_port: Option<u16>,
    operation: Duration,
    page_size: Option<usize>,
}

fn number<T: std::str::FromStr>(flag: &str, value: Option<String>) -> Result<T, String> {
    let value = value.ok_or_else(|| format!("`{flag}` wants a number"))?;
    value.parse().map_err(|_| format!("`{flag}` cannot be `{value}`"))
}

fn arguments(mut given: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments::default();
    while let Some(flag) = given.next() {
        match flag.as_str() {
            "--arm-port" => arguments.arm_port = Some(number(&flag, given.next())?),
            "--ec2-port" => arguments.ec2_port = Some(number(&flag, given.next())?),
            "--operation-ms" => arguments.operation = Duration::from_millis(number(&flag, given.next())?),
            "--page-size" => arguments.page_size = Some(number(&flag, given.next())?),
            other => return Err(format!("unknown argument `{other}`")),
        }
    }
    if arguments.arm_port.is_none() && arguments.ec2_port.is_none() {
        (arguments.arm_port, arguments.ec2_port) = (Some(0), Some(0));
    }
    Ok(arguments)
}

#[expect(clippy::print_stdout, reason = "the addresses are this program's output")]
async fn run(arguments: Arguments) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("cannot start: {error}");
    let arm = match arguments.arm_port {
        Some(port) => {
            let defaults = ArmOptions::default();
            let page_size = arguments.page_size.unwrap_or(defaults.page_size);
            let options = ArmOptions {
                port,
                operation_duration: arguments.operation,
                page_size,
                ..defaults
            };
            Some(ArmSim::start(options).await.map_err(failed)?)
        }
        None => None,
    };
    let ec2 = match arguments.ec2_port {
        Some(port) => Some(
            Ec2Sim::start(Ec2Options {
                port,
                ..Ec2Options::default()
            })
            .await
            .map_err(failed)?,
        ),
        None => None,
    };
    let (arm_url, ec2_url) = (arm.as_ref().map(ArmHandle::url), ec2.as_ref().map(Ec2Handle::url));
    println!("{}", json!({ "ec2": ec2_url, "arm": arm_url }));
    tokio::signal::ctrl_c().await.map_err(failed)?;
    if let Some(arm) = arm {
        arm.stop().await;
    }
    if let Some(ec2) = ec2 {
        ec2.stop().await;
    }
    Ok(())
}

#[tokio::main]
#[expect(clippy::print_stderr, reason = "a command line tells its errors there")]
async fn main() -> ExitCode {
    let outcome = match arguments(std::env::args().skip(1)) {
        Ok(arguments) => run(arguments).await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("postern-sim: {error}");
            ExitCode::from(2)
        }
    }
}
