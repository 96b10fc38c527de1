//! The `postern` binary as it is, built with the tests' features: those that make it die at named points.

use std::process::ExitCode;

fn main() -> ExitCode {
    postern::main()
}
