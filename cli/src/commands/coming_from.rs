//! `docs/coming-from.md` against the command line: each command in it can be given as it stands
//! there, and what is not there yet is not there. So the page says so on the day it is.

use clap::{Command, CommandFactory};

use super::line::Cli;

const PAGE: &str = include_str!("../../../docs/coming-from.md");
/// What a cell begins with whose command is yet to come.
const NOT_YET: &str = "not yet: ";

/// What a text has as code.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Our commands in a text.
fn commands(text: &str) -> impl Iterator<Item = &str> {
    code(text).filter(|code| code.starts_with("ostler "))
}

/// Whether a command, or one below it, has this option.
fn has(command: &Command, option: &str) -> bool {
    command.get_arguments().any(|argument| {
        let aliases = argument.get_all_aliases().unwrap_or_default();
        argument.get_long() == Some(option) || aliases.contains(&option)
    }) || command.get_subcommands().any(|below| has(below, option))
}

/// Whether there is this command with these options, whatever else it needs.
fn exists(command: &str) -> bool {
    let mut here = Cli::command();
    here.build();
    for word in command.split(' ').skip(1) {
        let known = match word.strip_prefix("--") {
            Some(option) => has(&here, option),
            None if here.has_subcommands() => match here.find_subcommand(word).cloned() {
                Some(below) => {
                    here = below;
                    true
                }
                None => false,
            },
            None => true,
        };
        if !known {
            return false;
        }
    }
    true
}

/// What is wrong with a page.
fn complaints(page: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut in_table = false;
    for line in page.lines() {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        in_table = line.starts_with('|') && (in_table || cells.get(1) == Some(&"ostler"));
        let ours = if in_table { cells.get(1).copied().unwrap_or_default() } else { "" };
        let planned = ours.strip_prefix(NOT_YET);
        let head = ours == "ostler" || line.starts_with("|---");
        if in_table && !head && ours != "none" && commands(ours).next().is_none() {
            wrong.push(format!("neither a command, nor not yet, nor none: {line}"));
        }
        for command in planned.into_iter().flat_map(commands).filter(|command| exists(command)) {
            wrong.push(format!("it is there by now: {command}"));
        }
        // Where the last cell has an option by itself, it is one of ours; in the others, of theirs.
        let options = cells.last().into_iter().flat_map(|cell| code(cell));
        for option in options.filter_map(|code| code.split(' ').next()?.strip_prefix("--")) {
            if !has(&Cli::command(), option) {
                wrong.push(format!("no command has --{option}: {line}"));
            }
        }
        let present = if planned.is_some() { line.replace(ours, "") } else { line.to_owned() };
        for command in commands(&present) {
            let words = command.split(' ').map(|word| word.trim_matches('\''));
            if let Err(error) = Cli::command().try_get_matches_from(words) {
                wrong.push(format!("{command}: {error}"));
            }
        }
    }
    wrong
}

#[test]
fn every_command_of_the_page_can_be_given_and_what_is_not_yet_there_cannot() {
    assert_eq!(complaints(PAGE), [""; 0]);
    assert!(commands(PAGE).count() > 100, "the page is not read");
}

#[test]
fn a_wrong_word_in_the_page_is_found() {
    let row =
        |ours: &str| format!("| theirs | ostler | differences |\n|---|---|---|\n| a | {ours} | |");
    for right in ["`ostler instance show web`", "not yet: `ostler fleet create`", "none"] {
        assert_eq!(complaints(&row(right)), [""; 0], "{right}");
    }
    for wrong in [
        "`ostler instance destroy web`",
        "`ostler instance stop web --force`",
        "`ostler instance stop`",
        "`ostler instance show web`, `ostler fleet list`",
        "not yet: `ostler instance show`",
        "not yet: `ostler instance boot --network`",
        "not yet: `ostler instance list --tenant`",
        "not yet: a word of theirs",
        "",
    ] {
        assert_eq!(complaints(&row(wrong)).len(), 1, "{wrong}");
    }
    let row = row("none").replace("| |", "| see `--by-force` |");
    assert_eq!(complaints(&row).len(), 1, "{row}");
    assert_eq!(complaints("A sentence with `ostler instance destroy web` in it.").len(), 1);
}
