//! Completions and man pages, made of the command line itself; no node is asked.

use std::io;
use std::path::Path;

use clap::builder::Resettable;
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::line::{Cli, EXIT_CODES};
use crate::failure::{Cause, Failure};
use crate::output::write_out;

/// What the environment can say that no option says.
const VARIABLES: [(&str, &str); 2] = [
    ("OSTLER_BROKER_PASSWORD_FILE", "A file that holds the password of the broker's user"),
    ("NO_COLOR", "If set, there are no colours, unless --color says always"),
];

/// Write a completion script to standard output.
pub(super) fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ostler", &mut script);
    Ok(write_out(&script)?)
}

/// Write a man page for each command into a folder.
///
/// The same build writes the same bytes: there is no date in them.
pub(super) fn man(folder: &Path) -> Result<(), Failure> {
    let failed = |source| Cause::Local {
        what: format!("write the man pages into {}", folder.display()),
        source,
    };
    std::fs::create_dir_all(folder).map_err(failed)?;
    Ok(pages(&tree(), &[], folder).map_err(failed)?)
}

/// All commands, each with the options it takes from those above it.
fn tree() -> Command {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    command
}

/// Write the page of a command and those of the commands below it.
fn pages(command: &Command, above: &[&str], folder: &Path) -> io::Result<()> {
    // What --help ends with has sections of its own here.
    let man = Man::new(command.clone().after_help(Resettable::Reset))
        .source(concat!("ostler ", env!("CARGO_PKG_VERSION")))
        .manual("Ostler");
    let mut page = Vec::new();
    man.render(&mut page)?;
    page.extend(common_sections(command, above).to_roff().into_bytes());
    std::fs::write(folder.join(man.get_filename()), page)?;
    let above = [above, &[page_name(command)]].concat();
    command
        .get_subcommands()
        .filter(|below| !below.is_hide_set())
        .try_for_each(|below| pages(below, &above, folder))
}

/// The name of a command's page, as in `ostler-instance-boot`.
fn page_name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

/// What stands at the end of every page.
fn common_sections(command: &Command, above: &[&str]) -> Roff {
    let mut end = Roff::new();
    end.control("SH", ["EXIT STATUS"]);
    let (table, rest) = EXIT_CODES.split_once("\n\n").unwrap_or((EXIT_CODES, ""));
    for line in table.lines().skip(1) {
        let (code, meaning) = line.trim().split_once(' ').unwrap_or((line, ""));
        end.control("TP", []).text([bold(code)]).text([roman(meaning.trim())]);
    }
    end.control("PP", []).text([roman(rest)]);
    end.control("SH", ["ENVIRONMENT"]);
    let options = command.get_arguments().filter_map(|argument| {
        let variable = argument.get_env()?.to_str()?;
        Some((variable, format!("The value of --{}, if that is not given", argument.get_long()?)))
    });
    let others = VARIABLES.map(|(variable, meaning)| (variable, meaning.to_owned()));
    for (variable, meaning) in options.chain(others) {
        end.control("TP", []).text([bold(variable)]).text([roman(meaning)]);
    }
    if !above.is_empty() {
        let above: Vec<String> = above.iter().map(|name| format!("{name}(1)")).collect();
        end.control("SH", ["SEE ALSO"]).text([roman(above.join(", "))]);
    }
    end
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// Each command that is not hidden, by the name of its page.
    fn commands(command: &Command, found: &mut BTreeMap<String, Command>) {
        found.insert(format!("{}.1", page_name(command)), command.clone());
        command.get_subcommands().filter(|c| !c.is_hide_set()).for_each(|c| commands(c, found));
    }

    /// The pages, by their names.
    fn written() -> BTreeMap<String, String> {
        let folder = tempfile::tempdir().unwrap();
        man(folder.path()).unwrap_or_else(|_| panic!("the pages are not written"));
        let files = std::fs::read_dir(folder.path()).unwrap().map(Result::unwrap);
        let read = |path| std::fs::read_to_string(path).unwrap();
        files.map(|f| (f.file_name().into_string().unwrap(), read(f.path()))).collect()
    }

    #[test]
    fn every_command_has_a_page_with_exactly_its_options() {
        let mut all = BTreeMap::new();
        commands(&tree(), &mut all);
        let pages = written();
        assert_eq!(pages.keys().collect::<Vec<_>>(), all.keys().collect::<Vec<_>>());
        assert!(pages.contains_key("ostler-guest-ssh-keys-add.1"), "{:?}", pages.keys());
        for (name, page) in &pages {
            // The line after .TP names what the paragraph is about, with its short form before it.
            let mut lines = page.lines();
            let mut told = BTreeSet::new();
            while lines.any(|line| line == ".TP") {
                let line = lines.next().unwrap().replace("\\-", "-");
                told.extend(
                    line.split_once("\\fB--")
                        .map(|(_, rest)| rest.split_once("\\fR").unwrap().0.to_owned()),
                );
            }
            let options = all[name].get_arguments().filter(|a| !a.is_hide_set());
            let options: BTreeSet<String> =
                options.filter_map(|a| a.get_long()).map(str::to_owned).collect();
            assert_eq!(told, options, "{name}");
        }
    }

    #[test]
    fn every_page_has_the_exit_codes_the_environment_and_the_page_above() {
        for (name, page) in written() {
            for part in [".SH \"EXIT STATUS\"", "\\fB130\\fR", ".SH ENVIRONMENT", "OSTLER_HOST"] {
                assert!(page.contains(part), "{name} lacks {part}: {page}");
            }
            let above = name.trim_end_matches(".1").rsplit_once('-').map(|(above, _)| above);
            assert_eq!(page.contains(".SH \"SEE ALSO\""), above.is_some(), "{name}");
        }
        assert!(
            written()["ostler-guest-ssh-keys-add.1"].contains("ostler\\-guest\\-ssh\\-keys(1)")
        );
    }

    #[test]
    fn the_same_build_writes_the_same_pages() {
        assert_eq!(written(), written());
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "groff reads the pages")]
    fn groff_has_nothing_to_say_against_a_page() {
        let folder = tempfile::tempdir().unwrap();
        man(folder.path()).unwrap_or_else(|_| panic!("the pages are not written"));
        for file in std::fs::read_dir(folder.path()).unwrap() {
            let path = file.unwrap().path();
            let mut groff = std::process::Command::new("groff");
            match groff.args(["-man", "-ww", "-z"]).arg(&path).output() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    eprintln!("skipped: there is no groff; tests/lab/install installs it");
                    return;
                }
                told => {
                    let told = told.unwrap();
                    let complaint = String::from_utf8_lossy(&told.stderr).into_owned();
                    assert!(told.status.success() && complaint.is_empty(), "{complaint}");
                }
            }
        }
    }
}
