//! What a program says of itself for other programs: completions and the manual page.

use std::io::{self, Write as _};

use clap::Command;
use clap_complete::Shell;

/// The options that ask for it.
#[derive(Debug, clap::Args)]
pub struct Generated {
    /// Print the completions for a shell, and nothing else
    #[arg(long, value_name = "SHELL", exclusive = true)]
    completions: Option<Shell>,

    /// Print the manual page (for man -l -), and nothing else
    #[arg(long, exclusive = true)]
    man: bool,
}

impl Generated {
    /// The completion script or manual page of `command`, if that is what is asked for.
    pub fn of(&self, mut command: Command) -> Option<io::Result<Vec<u8>>> {
        let mut text = Vec::new();
        if let Some(shell) = self.completions {
            let name = command.get_name().to_owned();
            clap_complete::generate(shell, &mut command, name, &mut text);
            return Some(Ok(text));
        }
        let pages = || pages(command, &mut text);
        self.man.then(pages).map(|done| done.map(|()| text))
    }
}

/// The page of `command`, and after it those of its subcommands, which have options of their own.
fn pages(mut command: Command, text: &mut Vec<u8>) -> io::Result<()> {
    command.build();
    let subcommands: Vec<Command> = command.get_subcommands().cloned().collect();
    for page in std::iter::once(command).chain(subcommands) {
        clap_mangen::Man::new(page).render(text)?;
    }
    Ok(())
}

/// Prints it; a reader that has seen enough is no failure.
pub fn print(text: io::Result<Vec<u8>>) -> io::Result<()> {
    match text.and_then(|text| io::stdout().lock().write_all(&text)) {
        Err(why) if why.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
