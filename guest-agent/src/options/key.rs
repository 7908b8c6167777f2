//! What can be set: one table for the command line and the configuration files.

use std::collections::BTreeMap;

/// Something that can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Allow,
    Baud,
    Block,
    Daemon,
    ExecAllow,
    FreezeLease,
    Heartbeat,
    Hook,
    HookTimeout,
    LogFile,
    Method,
    OstlerPath,
    Path,
    PidFile,
    Profile,
    Retry,
    StateDirectory,
    Verbose,
}

/// What a key takes on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    /// Nothing: to be there says yes. In a file it is `true` or `false`.
    Nothing,
    /// A value.
    Value,
    /// A value or nothing; if one, then in the same word.
    Perhaps,
    /// A value that is added to those given before, and does not replace them.
    More,
}

/// A row of the table.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) key: Key,
    pub(crate) letter: Option<char>,
    /// Its long option.
    pub(crate) long: &'static str,
    /// Its key in a file.
    pub(crate) name: &'static str,
    pub(crate) takes: Takes,
}

const fn row(
    key: Key,
    letter: Option<char>,
    long: &'static str,
    name: &'static str,
    takes: Takes,
) -> Row {
    Row { key, letter, long, name, takes }
}

/// The rows, in the order they are written to a file. A key that has two names has two rows.
pub(crate) const ROWS: &[Row] = &[
    row(Key::Daemon, Some('d'), "daemonize", "daemon", Takes::Nothing),
    row(Key::Method, Some('m'), "method", "method", Takes::Value),
    row(Key::Path, Some('p'), "path", "path", Takes::Value),
    row(Key::LogFile, Some('l'), "logfile", "logfile", Takes::Value),
    row(Key::PidFile, Some('f'), "pidfile", "pidfile", Takes::Value),
    row(Key::Hook, Some('F'), "fsfreeze-hook", "fsfreeze-hook", Takes::Perhaps),
    row(Key::StateDirectory, Some('t'), "statedir", "statedir", Takes::Value),
    row(Key::Verbose, Some('v'), "verbose", "verbose", Takes::Nothing),
    row(Key::Retry, Some('r'), "retry-path", "retry-path", Takes::Nothing),
    row(Key::Block, Some('b'), "block-rpcs", "block-rpcs", Takes::More),
    row(Key::Block, None, "blacklist", "blacklist", Takes::More),
    row(Key::Allow, Some('a'), "allow-rpcs", "allow-rpcs", Takes::More),
    row(Key::Profile, None, "profile", "profile", Takes::Value),
    row(Key::ExecAllow, None, "exec-allow", "exec-allow", Takes::More),
    row(Key::FreezeLease, None, "freeze-lease", "freeze-lease", Takes::Value),
    row(Key::HookTimeout, None, "hook-timeout", "hook-timeout", Takes::Value),
    row(Key::OstlerPath, None, "ostler-path", "ostler-path", Takes::Value),
    row(Key::Heartbeat, None, "heartbeat", "heartbeat", Takes::Value),
    row(Key::Baud, None, "baud", "baud", Takes::Value),
];

impl Key {
    /// Its first row.
    pub(crate) fn row(self) -> &'static Row {
        // each key has one: `every_key_has_a_row` is the test
        ROWS.iter().find(|row| row.key == self).unwrap_or(&ROWS[0])
    }
}

/// What was set, not looked at yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RawOptions(BTreeMap<Key, Vec<String>>);

impl RawOptions {
    /// Sets a key, or adds to it.
    pub(crate) fn set(&mut self, key: Key, value: String) {
        let values = self.0.entry(key).or_default();
        match key.row().takes {
            Takes::Nothing | Takes::Value | Takes::Perhaps => values.clear(),
            Takes::More => {}
        }
        values.push(value);
    }

    /// Sets all that `other` sets.
    pub(crate) fn overlay(&mut self, other: Self) {
        for (key, values) in other.0 {
            for value in values {
                self.set(key, value);
            }
        }
    }

    /// What a key was set to last.
    pub(crate) fn take(&mut self, key: Key) -> Option<String> {
        self.0.remove(&key)?.pop()
    }

    /// All that was given for a key.
    pub(crate) fn take_all(&mut self, key: Key) -> Option<Vec<String>> {
        self.0.remove(&key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_row() {
        use Key::*;
        for key in [
            Allow,
            Baud,
            Block,
            Daemon,
            ExecAllow,
            FreezeLease,
            Heartbeat,
            Hook,
            HookTimeout,
            LogFile,
            Method,
            OstlerPath,
            Path,
            PidFile,
            Profile,
            Retry,
            StateDirectory,
            Verbose,
        ] {
            assert_eq!(key.row().key, key);
        }
    }

    #[test]
    fn lists_add_up_and_all_else_is_replaced() {
        let mut given = RawOptions::default();
        given.set(Key::Path, "/a".into());
        given.set(Key::Block, "a".into());
        let mut over = RawOptions::default();
        over.set(Key::Path, "/b".into());
        over.set(Key::Block, "b".into());
        given.overlay(over);
        assert_eq!(given.take(Key::Path).unwrap(), "/b");
        assert_eq!(given.take_all(Key::Block).unwrap(), ["a", "b"]);
        assert_eq!(given.take(Key::Method), None);
    }
}
