//! `postern config check`.

use crate::{
    cli::{ConfigCommand, ConfigCommandArgs},
    config::Config,
    exit::{Exit, Failure},
    output,
};

/// Says whether a configuration holds.
pub fn run(args: ConfigCommandArgs) -> Result<(), Failure> {
    let ConfigCommand::Check(check) = args.command;
    let path = &check.config.config;
    let config = Config::load(path)?;
    if !check.no_files {
        let missing = config.check_files();
        if !missing.is_empty() {
            return Err(Failure::new(
                Exit::Usage,
                format!("{}: {}", path.display(), missing.join("\n  ")),
            ));
        }
    }
    output::line(&format!("{} holds", path.display()))?;
    Ok(())
}
