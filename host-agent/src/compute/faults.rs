//! Faults on demand, in debug builds only: the agent dies, stands still or fails exactly where a
//! test says, so that a test can try every instant there is. A release has nothing of it.
//!
//! `OSTLER_FAULTS` holds rules, separated by `;`, each `moment|kind|step|what`, or `@` and the name
//! of a file that holds them: it is read at each moment, so that one process can be put through
//! many faults.
//!
//! * moment: `accepted`, `before`, `after`, `undo-before`, `undo-after`, `settling`, `settled`;
//! * kind and step by their names (`instance.boot`, `define domain`), `*` is any;
//! * what: `kill` (SIGKILL), `stop` (SIGSTOP: the test sees it, does something to the world, and
//!   lets it go on by SIGCONT), `hold` (the operation goes on when the rule is not in the file any
//!   more; the agent answers meanwhile), `fail` (the step fails), or `panic` (the code does).
//!
//! A rule holds once in the life of a process; what follows in it, after another `|`, is not looked
//! at, and makes two rules of the same words two rules.

use crate::refusal::Refusal;
use ostler_protocol::rpc::operation::Kind;

/// Where an operation can be cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// It is in the journal, and the caller does not know yet.
    Accepted,
    /// The intent is in the journal, nothing is done.
    Before,
    /// The step is done, and the journal does not know yet.
    After,
    /// The step is about to be undone.
    UndoBefore,
    /// The step is undone, and the journal does not know yet.
    UndoAfter,
    /// All is done, and the journal does not know the outcome yet.
    Settling,
    /// The outcome is in the journal, and nobody was told yet.
    Settled,
}

/// Come to a moment. A fault, if the step is to fail.
#[cfg(not(debug_assertions))]
pub(super) const fn reach(_: Moment, _: Kind, _: &str) -> Option<Refusal> {
    None
}

#[cfg(debug_assertions)]
pub(super) use on_demand::reach;

#[cfg(debug_assertions)]
mod on_demand {
    use std::collections::HashSet;
    use std::sync::{Mutex, OnceLock, PoisonError};
    use std::time::Duration;

    use crate::refusal::Reason;
    use nix::sys::signal::{Signal, raise};

    use super::{Kind, Moment, Refusal};

    /// What the rules are, or where.
    static RULES: OnceLock<String> = OnceLock::new();
    /// The rules that have held.
    static SPENT: Mutex<Option<HashSet<String>>> = Mutex::new(None);

    struct Rule<'a> {
        moment: &'a str,
        kind: &'a str,
        step: &'a str,
        what: What,
    }

    #[derive(Clone, Copy)]
    enum What {
        Kill,
        Stop,
        Hold,
        Fail,
        Panic,
    }

    /// How often it is looked whether an operation may go on.
    const LOOK: Duration = Duration::from_millis(10);

    /// Come to a moment. A fault, if the step is to fail.
    pub(in crate::compute) fn reach(moment: Moment, kind: Kind, step: &str) -> Option<Refusal> {
        let given = RULES.get_or_init(|| std::env::var("OSTLER_FAULTS").unwrap_or_default());
        let rules = || match given.strip_prefix('@') {
            // No file: no rules.
            Some(file) => std::fs::read_to_string(file).unwrap_or_default(),
            None => given.clone(),
        };
        let text = rules();
        let (what, rule) = text.split(';').map(str::trim).find_map(|text| {
            let rule = parse(text)?;
            let fits = |wanted: &str, is: &str| wanted == "*" || wanted == is;
            let holds = fits(rule.moment, word(moment))
                && fits(rule.kind, kind.method())
                && fits(rule.step, step)
                && SPENT
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .get_or_insert_default()
                    .insert(text.to_owned());
            holds.then_some((rule.what, text))
        })?;
        tracing::warn!(moment = word(moment), %kind, step, "a fault that was asked for");
        let signal = match what {
            What::Fail => {
                let text = "it was told to fail here";
                return Some(Refusal::new(Reason::Internal, text).next("ask again"));
            }
            What::Hold => {
                tokio::task::block_in_place(|| while_held(|| rules().contains(rule)));
                return None;
            }
            #[expect(clippy::panic, reason = "a test wants to see what becomes of one")]
            What::Panic => panic!("it was told to panic here"),
            What::Kill => Signal::SIGKILL,
            What::Stop => Signal::SIGSTOP,
        };
        if let Err(error) = raise(signal) {
            tracing::error!(%error, "the fault could not be raised");
        }
        None
    }

    #[expect(clippy::disallowed_methods, reason = "a test holds the operation here")]
    fn while_held(held: impl Fn() -> bool) {
        while held() {
            std::thread::sleep(LOOK);
        }
    }

    fn parse(rule: &str) -> Option<Rule<'_>> {
        let mut parts = rule.split('|').map(str::trim);
        let (moment, kind, step) = (parts.next()?, parts.next()?, parts.next()?);
        let what = match parts.next()? {
            "kill" => What::Kill,
            "stop" => What::Stop,
            "hold" => What::Hold,
            "fail" => What::Fail,
            "panic" => What::Panic,
            _ => return None,
        };
        Some(Rule { moment, kind, step, what })
    }

    const fn word(moment: Moment) -> &'static str {
        match moment {
            Moment::Accepted => "accepted",
            Moment::Before => "before",
            Moment::After => "after",
            Moment::UndoBefore => "undo-before",
            Moment::UndoAfter => "undo-after",
            Moment::Settling => "settling",
            Moment::Settled => "settled",
        }
    }
}
