//! Runs the EC2 and STS simulator alone, for a client in another process: prints its address and waits for Ctrl-C.
//!
//! `cargo run -p postern-sim --example ec2 [port]`

use std::error::Error;

use postern_sim::ec2::{Ec2Options, Ec2Sim};

#[tokio::main]
#[expect(clippy::print_stdout, reason = "the address is what this program is for")]
async fn main() -> Result<(), Box<dyn Error>> {
    let port = std::env::args()
        .nth(1)
        .map(|port| port.parse())
        .transpose()?
        .unwrap_or(0);
    let sim = Ec2Sim::start(Ec2Options {
        port,
        ..Ec2Options::default()
    })
    .await?;
    println!("{}", sim.url());
    tokio::signal::ctrl_c().await?;
    sim.stop().await;
    Ok(())
}
